"""The params sections of the network and of its training; see `ssfer.config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.config.methods import (
    AdaCmParams,
    CcsslParams,
    CoMatchParams,
    EmaTeacherParams,
    FreeMatchParams,
    MeanTeacherParams,
    MixMatchParams,
    PseudoLabelParams,
    PseudoLabelsParams,
    RampedParams,
    ReMixMatchParams,
    SoftMatchParams,
    UdaParams,
    VatParams,
)
from ssfer.config.sitfer_leaf import LeafParams, LeafPartsParams, SitferParams
from ssfer.config.sources import Positive, Section
from ssfer.core.errors import SsferError

NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]
Triple = tuple[float, float, float]
OWN_BACKBONE = "vit"  # the project's own ViT, which the sizes in section `model` describe


class ModelParams(Section):
    backbone: Annotated[str, Field(min_length=1)]
    img_size: Positive
    patch_size: Positive
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    mean: Triple
    std: Triple
    head_init: Literal["small", "torch_default"]

    @model_validator(mode="after")
    def _check(self) -> ModelParams:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, found {self.std}")
        if self.backbone != OWN_BACKBONE:
            from ssfer.models.backbone import check_name  # here, as timm takes seconds to import

            try:
                check_name(self.backbone)
            except SsferError as error:
                raise ValueError(str(error)) from error
            return self
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads} and of 4")
        return self


class PretrainParams(Section):
    seed: NonNegative
    init_from: Annotated[str, Field(min_length=1)] | None
    init_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")] | None
    epochs: NonNegative
    stop_at: Positive | None
    warmup_epochs: NonNegative
    batch_size: Positive
    lr: LearningRate
    schedule: Literal["mae_iter", "authors_min"]
    weight_decay: Share
    decay_all: bool
    mask_ratio: Rate
    norm_pix_loss: bool
    min_scale: Rate
    decoder_embed_dim: Positive
    decoder_depth: Positive
    decoder_num_heads: Positive

    @model_validator(mode="after")
    def _check(self) -> PretrainParams:
        if (self.init_from is None) != (self.init_sha256 is None):
            raise ValueError("init_from and init_sha256 are given together, or both null; `ssfer weights show` says it")
        if self.stop_at is not None and self.stop_at > self.epochs:
            raise ValueError(f"stop_at {self.stop_at} lies beyond the {self.epochs} epochs of the schedule")
        return self


class FaceMixParams(Section):
    mode: Literal["facemix", "mixup", "none"]
    variant: Literal["L1", "L2", "L3", "L4"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    kappa: Literal["iou", "psnr", "ssim", "fsim"]
    box_source: Literal["cached", "detect"]
    box_input: Literal["pixels", "normalized"]
    fallback_frame: Literal["source", "augmented"]
    legacy_inplace: bool


class FinetuneParams(Section):
    seed: NonNegative
    epochs: Positive
    epochs_few_labels: Positive
    few_labels: NonNegative
    warmup_epochs: NonNegative
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)]
    lr_max: LearningRate
    lr_min: LearningRate
    lr_warm: LearningRate
    cosine_fraction: Annotated[float, Field(gt=0, le=1)]
    lr_lag_one_step: bool
    ema_decay: Share | None
    weight_decay: Share
    min_scale: Rate
    eval_every: Positive
    baselines: tuple[Literal["scratch", "plain"], ...]
    facemix: FaceMixParams


class ImbalanceParams(Section):
    distribution_alignment: bool
    class_thresholds: bool
    logit_adjustment: Annotated[float, Field(ge=0)]


class EnsembleMember(Section):
    file: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]


class ExtraFacesParams(Section):
    faces: NonNegative
    threshold: Share
    ensemble: tuple[EnsembleMember, ...]


class SemisupParams(Section):
    seed: NonNegative
    method: Literal[
        "ema_teacher", "fixmatch", "mean_teacher", "pi_model", "pseudo_label", "vat", "uda", "flexmatch", "freematch",
        "softmatch", "mixmatch", "remixmatch", "comatch", "ccssl", "ada_cm", "leaf", "sitfer",
    ]  # fmt: skip
    epochs: Positive
    batch_size: Positive
    uratio: Positive
    lr: LearningRate
    schedule: Literal["constant", "multistep"]
    milestones: tuple[Positive, ...]
    gamma: Rate
    weight_decay: Share
    beta2: Rate
    min_scale: Rate
    randaugment: str = Field(pattern=r"^rand-")
    eval_every: Positive
    ema_teacher: EmaTeacherParams
    fixmatch: PseudoLabelParams
    leaf: LeafParams
    leaf_parts: LeafPartsParams
    mean_teacher: MeanTeacherParams
    pi_model: RampedParams
    pseudo_label: PseudoLabelsParams
    vat: VatParams
    uda: UdaParams
    flexmatch: PseudoLabelParams
    freematch: FreeMatchParams
    softmatch: SoftMatchParams
    mixmatch: MixMatchParams
    remixmatch: ReMixMatchParams
    comatch: CoMatchParams
    ccssl: CcsslParams
    ada_cm: AdaCmParams
    sitfer: SitferParams
    imbalance: ImbalanceParams
    extra: ExtraFacesParams
