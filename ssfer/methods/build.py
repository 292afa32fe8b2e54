"""Training methods and the table of semi-supervised ones, by the name used in params `semisup.method`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssfer.config.training import SemisupParams
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.rng import derive
from ssfer.methods.ada_cm import AdaCM
from ssfer.methods.base import Method
from ssfer.methods.ccssl import CCSSL
from ssfer.methods.comatch import CoMatch
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.flexmatch import FlexMatch
from ssfer.methods.freematch import FreeMatch
from ssfer.methods.leaf import LEAF
from ssfer.methods.mean_teacher import MeanTeacher
from ssfer.methods.mixmatch import MixMatch
from ssfer.methods.pi_model import PiModel
from ssfer.methods.pseudo_label import PseudoLabel
from ssfer.methods.remixmatch import ReMixMatch
from ssfer.methods.shared.imbalance import Imbalance, Population
from ssfer.methods.shared.leaf_parts import use_ambiguous_loss, use_experts
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.sitfer import SITFER
from ssfer.methods.softmatch import SoftMatch
from ssfer.methods.uda import UDA
from ssfer.methods.vat import VAT

METHODS: dict[str, type[Method]] = {
    "ema_teacher": EMATeacher,
    "fixmatch": FixMatch,
    "mean_teacher": MeanTeacher,
    "pi_model": PiModel,
    "pseudo_label": PseudoLabel,
    "vat": VAT,
    "uda": UDA,
    "flexmatch": FlexMatch,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
    "mixmatch": MixMatch,
    "remixmatch": ReMixMatch,
    "comatch": CoMatch,
    "ccssl": CCSSL,
    "ada_cm": AdaCM,
    "leaf": LEAF,
    "sitfer": SITFER,
}


def build_method(student: nn.Module, params: SemisupParams, population: Population | None = None) -> Method:
    """Return the semi-supervised method that `params.method` names, with its own sub-section of params.

    Args:
        population: what may be known of the run; needed by what params.imbalance switches on, and by some methods.

    Raises:
        SsferError: unknown name (the known ones are listed), a correction of imbalance that the method does not take,
            parts that it has no use for, or data that it cannot be used on.
    """
    if params.method not in METHODS:
        raise unknown_name("method", params.method, METHODS)
    method: Any = METHODS[params.method]
    for name, value in params.imbalance:
        if value and name not in method.corrections:
            taken = ", ".join(method.corrections) or "none"
            raise SsferError(
                f"semisup.imbalance.{name} is nothing that semisup.method {params.method} takes (it takes: {taken}); "
                "switch it off"
            )
    parts = [name for name, on in params.leaf_parts if on]
    if parts and method.forward is not SelfTraining.forward:
        raise SsferError(f"semisup.leaf_parts.{parts[0]} is of no use to method {params.method}; set it to false")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(params.seed, "method"))  # what a method adds to the student starts alike everywhere
        if params.leaf_parts.expert_head:
            use_experts(student, params.leaf)
        own: Method = method(
            student, getattr(params, params.method), Imbalance(params.imbalance, population), population
        )
        if isinstance(own, SelfTraining) and params.leaf_parts.ambiguous_loss:
            use_ambiguous_loss(own, params.leaf)
    return own
