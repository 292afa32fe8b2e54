"""Training methods and the table of semi-supervised ones, by the name used in params `semisup.method`."""

from __future__ import annotations

from torch import nn

from ssfer.errors import unknown_name
from ssfer.imbalance import Imbalance, Population
from ssfer.methods.base import Method
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.self_training import SelfTraining
from ssfer.methods.sitfer import SITFER
from ssfer.training_params import SemisupParams

METHODS: dict[str, type[SelfTraining]] = {"ema_teacher": EMATeacher, "fixmatch": FixMatch, "sitfer": SITFER}


def build_method(student: nn.Module, params: SemisupParams, population: Population | None = None) -> Method:
    """Return the semi-supervised method that `params.method` names, with its own sub-section of params.

    Args:
        population: numbers of labeled and unlabeled images and names of the classes; needed by what params.imbalance
            switches on and by methods that declare it (`Method.informed`).

    Raises:
        SsferError: unknown name; the known ones are listed.
    """
    if params.method not in METHODS:
        raise unknown_name("method", params.method, METHODS)
    method, own = METHODS[params.method], getattr(params, params.method)
    more = {"population": population} if method.informed else {}
    return method(student, own, Imbalance(params.imbalance, population), **more)
