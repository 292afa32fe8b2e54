"""Building a semi-supervised method from settings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ssfer.core.errors import SsferError
from ssfer.core.rng import derive
from ssfer.core.settings import Section
from ssfer.methods.base import SemiSupervised
from ssfer.methods.context import Context, Population
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.ambiguous import AmbiguousPseudoLoss, check_classes, number_of_classes
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import StageSettings
from ssfer.models.expert_head import add_experts


def build_method(
    student: nn.Module, stage: StageSettings, methods: Mapping[str, Section], population: Population | None = None
) -> SemiSupervised:
    """Return the semi-supervised method that `stage.method` names.

    Args:
        student: the network to train; changed in place where a method adds to it.
        stage: section `semisup` of params.yaml.
        methods: section `methods`: the methods' own settings by name.
        population: facts about the run; needed by the corrections that are switched on, and by some methods.

    Raises:
        SsferError: unknown name (the known ones are listed), a correction of imbalance that the method does not take,
            parts of LEAF that it does not take, or data that it cannot be used on.
    """
    parts = check_parts(stage)
    method = METHODS[stage.method]
    leaf: Any = METHODS.settings("leaf", methods) if parts else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(stage.seed, "method"))  # for what the method adds to the student
        if stage.leaf_parts.expert_head:
            add_experts(student, leaf)
        built = method(Context(student, METHODS.settings(stage.method, methods), population, stage.imbalance))
        if isinstance(built, SelfTraining) and stage.leaf_parts.ambiguous_loss:
            check_classes(leaf, number_of_classes(student))
            built.pseudo_loss = AmbiguousPseudoLoss(leaf)
        if stage.average is not None:
            built.keep_average(stage.average)
    return built


def check_parts(stage: StageSettings) -> list[str]:
    """Refuse what the chosen method cannot use; return the parts of LEAF that are switched on.

    Raises:
        SsferError: a correction of imbalance, votes or parts of LEAF that it does not take.
    """
    method = METHODS[stage.method]
    for name, value in stage.imbalance:
        if value and name not in (*method.corrections, "forget_unsure"):
            taken = ", ".join(method.corrections) or "none"
            raise SsferError(
                f"semisup.imbalance.{name} cannot be used with semisup.method {stage.method} (it takes: {taken}); "
                "switch it off"
            )
    plain = method.forward is SelfTraining.forward
    if stage.targets == "votes" and not (plain and method.labeled_loss is SelfTraining.labeled_loss):  # type: ignore[attr-defined]
        raise SsferError(
            f"semisup.targets votes cannot be used with semisup.method {stage.method}, whose loss needs one class per "
            "labeled image; set it to labels"
        )
    if stage.imbalance.forget_unsure and not (stage.imbalance.class_thresholds or "class_thresholds" in method.always):
        raise SsferError(
            "semisup.imbalance.forget_unsure has no effect without class_thresholds; set it to false or switch these on"
        )
    parts = [name for name, on in stage.leaf_parts if on]
    if parts and not plain:
        raise SsferError(f"semisup.leaf_parts.{parts[0]} has no effect in method {stage.method}; set it to false")
    return parts
