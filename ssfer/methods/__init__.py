"""Training methods and the table of semi-supervised ones, by the name used in params `semisup.method`."""

from __future__ import annotations

from torch import nn

from ssfer.errors import unknown_name
from ssfer.methods.base import Method
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.training_params import SemisupParams

METHODS = {"ema_teacher": EMATeacher}


def build_method(student: nn.Module, params: SemisupParams) -> Method:
    """Return the semi-supervised method that `params.method` names, with its own sub-section of params.

    Raises:
        SsferError: unknown name; the known ones are listed.
    """
    if params.method not in METHODS:
        raise unknown_name("method", params.method, METHODS)
    return METHODS[params.method](student, getattr(params, params.method))
