"""The sub-sections of `semisup` that belong to LEAF and SIT-FER; see `ssfer.config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.config.methods import Above, EmaTeacherParams, PseudoLabelParams, Share, Weight
from ssfer.config.sources import Positive, Section


class ExpertParams(Section):
    """What an expert head is built from; goes into the metadata of weights that have one."""

    experts: Positive
    top_k: Positive
    shared_expert: bool
    gate_init: Literal["normal", "zeros"]
    combine: Literal["linear", "logsumexp"]
    instance_on: Literal["scores", "feature"]
    balance_coef: Weight
    dropout: Annotated[float, Field(ge=0, lt=1)]
    classifier: Literal["keep", "new"]

    @model_validator(mode="after")
    def _check_experts(self) -> ExpertParams:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts")
        return self


class AmbiguousParams(Section):
    k_max: Positive
    coverage: Annotated[float, Field(gt=0, le=1)]
    weighting: Literal["concave", "linear", "convex"]
    mask_mode: Literal["per_sample", "batch_mean"]


class LeafParams(EmaTeacherParams, ExpertParams, AmbiguousParams):
    threshold_views: Literal["eval", "train"]
    lambda_x: Weight
    lambda_s: Weight
    temperature: Above
    pseudo_from: Literal["student", "ema"]
    decay_buffers: Annotated[float, Field(ge=0, lt=1)]


class LeafPartsParams(Section):
    expert_head: bool
    ambiguous_loss: bool


class SitferTextParams(Section):
    encoder: Literal["learned", "open_clip", "prototype", "frozen_random"]
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    words: dict[str, str]
    tau: Above
    seed: Annotated[int, Field(ge=0)]
    width: Positive
    layers: Positive
    heads: Positive
    lr_scale: Above
    clip_model: str
    clip_weights: Annotated[str, Field(min_length=1)] | None
    clip_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")] | None

    @model_validator(mode="after")
    def _check(self) -> SitferTextParams:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.encoder == "open_clip" and (self.clip_weights is None or self.clip_sha256 is None):
            raise ValueError("encoder open_clip needs clip_weights and clip_sha256, a file and its hash")
        return self


class SitferMemoryParams(Section):
    rule: Literal["softmax_knn", "class_max"]
    tau: Above
    neighbors: Positive | None
    start_epoch: Annotated[int, Field(ge=0)]
    unlabeled_slots: Annotated[int, Field(ge=0)]
    init: Literal["pass", "lazy"]
    refresh: bool


LevelWeights = tuple[Weight, Weight, Weight]  # semantic, text, instance


class SitferWeightsParams(Section):
    before: LevelWeights
    training: LevelWeights
    test: LevelWeights

    @model_validator(mode="after")
    def _check(self) -> SitferWeightsParams:
        for weights in (self.before, self.training, self.test):
            if not sum(weights[:2]):
                raise ValueError("the semantic or the text weight must be above 0, as the memory may not be in use yet")
        if self.before[2]:
            raise ValueError("the instance weight of 'before' must be 0: the memory is not in use then")
        return self


class SitferParams(PseudoLabelParams):
    lambda_s: Weight
    lambda_t: Weight
    lu_norm: Literal["selected", "batch"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    classifier_input: Literal["unit", "scaled"]
    pseudo_eval_mode: bool
    ema_decay: Share | None
    fusion: Literal["probabilities", "scores"]
    weights: SitferWeightsParams
    text: SitferTextParams
    memory: SitferMemoryParams

    @model_validator(mode="after")
    def _check(self) -> SitferParams:
        if self.fusion == "scores" and self.memory.rule != "class_max":
            raise ValueError("fusion scores needs memory.rule class_max: softmax_knn has probabilities only")
        return self
