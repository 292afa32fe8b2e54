"""Sections of params.yaml that describe training runs and the machine they run on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.core.settings import (
    Above,
    CropScale,
    NonNegative,
    Positive,
    Processes,
    Rate,
    Section,
    Sha256,
    Share,
    Text,
    Weight,
)
from ssfer.data.settings import RandAugment
from ssfer.methods.facemix import FaceMixSettings
from ssfer.methods.shared.settings import StageSettings
from ssfer.models.settings import MaeSettings


class PretrainSettings(MaeSettings):
    """Stage 1: a masked autoencoder."""

    seed: NonNegative = Field(2024, description="Seed of all that is drawn.")
    init_from: Text | None = Field(
        None, description="Weights to start from (`ssfer weights import` converts published ones); null: from scratch."
    )
    init_sha256: Sha256 | None = Field(
        None, description="The file's sha256 or its beginning, so that a replaced file is an error."
    )
    epochs: NonNegative = Field(
        30,
        description=(
            "Epochs (paper: 600); 0: no training, the encoder of init_from is used as it is (always 0 with backbones "
            "other than vit, whose weights are random without init_from)."
        ),
    )
    stop_at: Positive | None = Field(
        None,
        description="Last epoch that is trained; the schedule still spans `epochs`. null: all (authors: 600 of 800).",
    )
    warmup_epochs: NonNegative = Field(2, description="Epochs of linear warm-up (paper: 50).")
    batch_size: Positive = Field(64, description="Images per step, over all processes (paper: 256).")
    lr: Rate = Field(0.002, description="Highest learning rate (paper: 3.4e-4).")
    schedule: Literal["mae_iter", "authors_min"] = Field(
        "mae_iter",
        description="mae_iter: per step | authors_min: per epoch, the smaller of ramp and cosine (authors' code).",
    )
    weight_decay: Share = Field(0.05, description="Weight decay of AdamW.")
    decay_all: bool = Field(False, description="true: also decay biases, norms and tokens (authors' code).")
    mask_ratio: Rate = Field(0.75, description="Share of the patches that is masked.")
    min_scale: CropScale = Field(0.7, description="Smallest area of the random crop (paper: 0.2).")

    @model_validator(mode="after")
    def _check(self) -> PretrainSettings:
        if (self.init_from is None) != (self.init_sha256 is None):
            raise ValueError("init_from and init_sha256 are given together, or both null; `ssfer weights show` says it")
        if self.stop_at is not None and self.stop_at > self.epochs:
            raise ValueError(f"stop_at {self.stop_at} lies beyond the {self.epochs} epochs of the schedule")
        if self.epochs and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must not be more than the {self.epochs} epochs")
        return self


OptimizerName = Literal["adamw", "sgd"]


class FinetuneSettings(Section):
    """Stage 2: supervised training with FaceMix."""

    seed: NonNegative = Field(2024, description="Seed of all that is drawn.")
    epochs: Positive = Field(60, description="Epochs (paper: 100).")
    epochs_few_labels: Positive = Field(200, description="Used below `few_labels` images (paper: 1000).")
    few_labels: NonNegative = Field(500, description="Number of labels below which epochs_few_labels counts.")
    warmup_epochs: NonNegative = Field(5, description="Epochs of linear warm-up.")
    batch_size: Annotated[int, Field(ge=2, le=2**20, multiple_of=2)] = Field(32, description="Images per step.")
    lr_max: Rate = Field(0.001, description="Highest learning rate (paper: 1e-4).")
    lr_min: Rate = Field(1e-05, description="Lowest learning rate of the cosine.")
    lr_warm: Rate = Field(5e-05, description="Learning rate the warm-up starts with.")
    cosine_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the epochs that the cosine spans (release: 0.5)."
    )
    lr_lag_one_step: bool = Field(
        False, description="true: an epoch's learning rate is set after its first step (release)."
    )
    ema_decay: Share | None = Field(
        None,
        description="Decay of a running average of the weights, also validated and saved (release: 0.999); null: none.",
    )
    optimizer: OptimizerName = Field("adamw", description="adamw | sgd, with Nesterov's momentum of 0.9.")
    weight_decay: Share = Field(0.05, description="Weight decay.")
    min_scale: CropScale = Field(0.7, description="Smallest area of the random crop (paper: 0.2).")
    view: Text = Field(
        "weak", description="Augmentation of the labeled images: weak | affine | strong | eval | ./file.py:Name."
    )
    targets: Literal["labels", "votes"] = Field(
        "labels", description="labels | votes, each class's share of them, where the data set has votes (FERPlus)."
    )
    logit_adjustment: Weight = Field(0.0, description="Against uneven classes: tau of Menon et al. 2021.")
    eval_every: Positive = Field(5, description="Epochs between evaluations on the validation part.")
    baselines: tuple[Literal["scratch", "plain"], ...] = Field(
        ("scratch", "plain"),
        description="Also train: scratch (no pretraining, no mixing), plain (pretraining, no mixing).",
    )
    facemix: FaceMixSettings = Field(default_factory=FaceMixSettings)

    @model_validator(mode="after")
    def _check(self) -> FinetuneSettings:
        few = {"epochs_few_labels": self.epochs_few_labels} if self.few_labels else {}
        for name, epochs in {"epochs": self.epochs, **few}.items():
            if self.warmup_epochs > epochs:
                raise ValueError(f"warmup_epochs {self.warmup_epochs} must not be more than the {epochs} of {name}")
        if self.lr_max < max(self.lr_min, self.lr_warm):
            raise ValueError(
                f"lr_max {self.lr_max:g} must be at least lr_min {self.lr_min:g} and lr_warm {self.lr_warm:g}"
            )
        return self


class EnsembleMember(Section):
    """Weights of a classifier."""

    file: Text
    sha256: Sha256


class ExtraFacesSettings(Section):
    """Beyond the paper: unlabeled faces of data/corpus that several models agree on."""

    faces: NonNegative = Field(0, description="At most this many, evenly over the predicted classes; 0: none.")
    threshold: Share = Field(0.9, description="Confidence that the models' mean prediction needs.")
    ensemble: tuple[EnsembleMember, ...] = Field(
        (), description="{file, sha256} of classifiers of the same split; []: finetune's, except scratch."
    )


class SemisupSettings(StageSettings):
    """Stage 3: a semi-supervised method on labeled and unlabeled faces."""

    epochs: NonNegative = Field(6, description="Passes over the unlabeled faces (paper: 50); 0: labels only.")
    batch_size: Positive = Field(32, description="Labeled images per step.")
    uratio: Positive = Field(1, description="Unlabeled images per labeled image.")
    lr: Rate = Field(0.0003, description="Learning rate, constant (paper: 1.5e-4).")
    optimizer: OptimizerName = Field("adamw", description="adamw | sgd, with Nesterov's momentum of 0.9.")
    weight_decay: Share = Field(0.05, description="Weight decay.")
    beta2: Rate = Field(0.95, description="Second beta of AdamW (LEAF: 0.999).")
    min_scale: CropScale = Field(0.7, description="Smallest area of the random crop (paper: 0.2).")
    randaugment: RandAugment = Field("rand-m9-mstd0.5-inc1", description="Strong view, in timm's notation.")
    weak_view: Text = Field("weak", description="Augmentation of the weak view, as finetune.view.")
    strong_view: Text = Field("strong", description="Augmentation of the strong view, as finetune.view.")
    eval_every: Positive = Field(2, description="Epochs between evaluations on the validation part.")
    extra: ExtraFacesSettings = Field(default_factory=ExtraFacesSettings)


class MachineSettings(Section):
    """Settings of the machine, not of the experiment: no stage depends on them, so they never make one stale."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (cuda, else cpu) | cpu | cuda | cuda:1, a GPU by number | mps, Apple's (untested)."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 on CUDA (fp16 where a GPU has none), else float32 | fp32 | bf16 (CUDA, AMX or "
        "AVX512_BF16) | fp16.",
    )
    num_workers: Literal["auto"] | Processes = Field(
        "auto", description="Processes that detect faces and prepare batches."
    )
    start_method: Literal["auto", "fork", "forkserver", "spawn"] = Field(
        "auto", description="How they start: auto (fork on Linux, else spawn) | fork | forkserver | spawn."
    )
    cluster: Literal["ray"] | None = Field(
        None,
        description="What aligns, finds copies, labels extra faces: null, this machine | ray, at RAY_ADDRESS or local.",
    )
    augment: Literal["host", "device"] = Field(
        "host",
        description="Where RandAugment is done: host, image by image | device, by batches (for GPUs).",
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field("auto", description="Torch threads.")
    eval_batch_size: Positive = Field(256, description="Images at once when nothing is trained.")
    eval_precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="Of validation, tests, labeled passes and the probe: fp32 | tf32, on GPUs that have it | bf16.",
    )
    max_batch: Positive | None = Field(
        None, description="Images a process trains on at once; larger batches are accumulated. null: no limit."
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="auto: torch.compile on CUDA if a C compiler is installed, not on a CPU | true | false."
    )
    channels_last: bool = Field(
        False,
        description="true: channels innermost in memory, faster for convolutional networks, on GPUs and CPUs.",
    )
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e9)] = Field(
        2.0, description="Minutes between snapshots, the most work that a kill -9 can lose."
    )
    cache_gib: Weight = Field(
        1.0, description="Decoded crops of a part kept in memory up to this size, by each process."
    )
    timeout_minutes: Above = Field(
        30.0, description="Several processes: how long each waits for the others before it fails."
    )
