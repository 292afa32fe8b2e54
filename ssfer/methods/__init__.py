"""Training methods and the table of semi-supervised ones, by the name used in params `semisup.method`."""

from __future__ import annotations

import torch
from torch import nn

from ssfer.errors import SsferError, unknown_name
from ssfer.imbalance import Imbalance, Population
from ssfer.methods.base import Method
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.leaf import LEAF
from ssfer.methods.leaf_parts import use_ambiguous_loss, use_experts
from ssfer.methods.self_training import SelfTraining
from ssfer.rng import derive
from ssfer.training_params import SemisupParams

METHODS: dict[str, type[SelfTraining]] = {"ema_teacher": EMATeacher, "fixmatch": FixMatch, "leaf": LEAF}


def build_method(student: nn.Module, params: SemisupParams, population: Population | None = None) -> Method:
    """Return the semi-supervised method that `params.method` names, with its own sub-section of params.

    Args:
        population: numbers of labeled and unlabeled images; needed only by what params.imbalance switches on.

    Raises:
        SsferError: unknown name; the known ones are listed. Parts that the method has no use for; data that it cannot
            be used on.
    """
    if params.method not in METHODS:
        raise unknown_name("method", params.method, METHODS)
    kind = METHODS[params.method]
    parts = [name for name, on in params.leaf_parts if on]
    if parts and kind.forward is not SelfTraining.forward:
        raise SsferError(f"semisup.leaf_parts.{parts[0]} is of no use to method {params.method}; set it to false")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(params.seed, "method"))  # what a method adds to the student starts alike everywhere
        if params.leaf_parts.expert_head:
            use_experts(student, params.leaf)
        method = kind(student, getattr(params, params.method), Imbalance(params.imbalance, population))
        if params.leaf_parts.ambiguous_loss:
            use_ambiguous_loss(method, params.leaf)
    return method
