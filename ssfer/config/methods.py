"""The sub-sections of `semisup` that belong to single methods; LEAF's and SIT-FER's are in `ssfer.config.sitfer_leaf`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssfer.config.sources import Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]


class UnlabeledParams(Section):
    lambda_u: Weight


class PseudoLabelParams(UnlabeledParams):
    threshold: Share
    threshold_op: Literal["gt", "ge"]


class EmaTeacherParams(PseudoLabelParams):
    ema_decay: Share


class RampedParams(UnlabeledParams):
    rampup: Share


class PseudoLabelsParams(RampedParams, PseudoLabelParams):
    pass


class MeanTeacherParams(RampedParams):
    ema_decay: Share


class VatParams(RampedParams):
    epsilon: Above
    xi: Above
    iterations: Positive
    entropy_weight: Weight


class MixMatchParams(RampedParams):
    temperature: Above
    alpha: Above


class ReMixMatchParams(MixMatchParams):
    lambda_s: Weight
    lambda_r: Weight


class UdaParams(PseudoLabelParams):
    temperature: Above
    annealing: Literal["none", "linear", "log", "exp"]


class FreeMatchParams(UnlabeledParams):
    lambda_f: Weight
    decay: Share


class SoftMatchParams(UnlabeledParams):
    decay: Share
    n_sigma: Above


class ContrastParams(PseudoLabelParams):
    lambda_c: Weight
    dim: Positive
    temperature: Above


class CoMatchParams(ContrastParams):
    graph_threshold: Share
    smoothing: Share
    memory: Positive


class CcsslParams(ContrastParams):
    push_threshold: Share


class AdaCmParams(PseudoLabelParams):
    lambda_x: Weight
    lambda_s: Weight
    temperature: Above
    ema_decay: Share
