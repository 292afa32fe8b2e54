"""Typed view of params.yaml: one class per section, unknown keys refused, every value checked before work starts.

params.yaml holds every key with the demo's values; profiles/ hold differences (`ssfer profile`). Durations
are epochs, learning rates are absolute, `batch_size` is the effective global batch, sizes are pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ssfer.config.evaluation import RobustnessParams
from ssfer.config.sources import (
    SOURCE_KINDS,
    AnySource,
    Positive,
    Section,
)
from ssfer.config.training import (
    OWN_BACKBONE,
    FinetuneParams,
    ModelParams,
    NonNegative,
    PretrainParams,
    SemisupParams,
    Share,
)
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import CLASS_SETS

PARAMS_FILE = Path("params.yaml")


class DataParams(Section):
    """Which images take part. `raw` names a folder below data/raw."""

    raw: str
    class_set: str
    sources: tuple[AnySource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> DataParams:
        if self.class_set not in CLASS_SETS:
            raise ValueError(str(unknown_name("class set", self.class_set, CLASS_SETS)))
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, found {names}")
        if not any(s.labeled for s in self.sources):
            raise ValueError("at least one source must have 'labeled: true'")
        return self


class GenerateParams(Section):
    seed: NonNegative
    size: Annotated[int, Field(ge=32)]
    train: NonNegative
    test: NonNegative
    people: NonNegative
    people_identities: Positive
    troubles: bool


class AlignParams(Section):
    detector: Literal["mtcnn", "retinaface"]
    retinaface_weights: str | None
    retinaface_max_side: Annotated[int, Field(ge=64)]
    size: Annotated[int, Field(ge=16)]
    quality: Annotated[int, Field(ge=1, le=100)]
    min_score: Share
    box_min_score: Share
    several_faces: Literal["highest_score", "largest", "central", "drop"]
    max_pixels: Positive
    shard_size: Positive


class CorpusParams(Section):
    seed: NonNegative
    min_score: Share
    min_side: NonNegative
    keep_undetected: bool
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)]
    near_duplicate_correlation: Share
    max_images: Positive | None
    examples: NonNegative


class SplitParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None
    labeled_per_class: Positive | None
    labeled_total: Positive | None
    per_class_shortage: Literal["refuse", "cap"]
    rounding: Literal["half_up", "half_even"]
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    label_noise: Annotated[float, Field(ge=0, lt=1)]
    redraw_for_semi: bool
    fold: NonNegative | None
    folds: Annotated[int, Field(ge=2)]
    fold_by: Literal["image", "identity", "official"]
    fold_seed: Annotated[int, Field(ge=0, lt=2**32)]

    @model_validator(mode="after")
    def _check(self) -> SplitParams:
        given = [v for v in (self.labeled_fraction, self.labeled_per_class, self.labeled_total) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of labeled_fraction, labeled_per_class, labeled_total; the others null")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of the {self.folds} folds, which are 0 to {self.folds - 1}")
        return self


class EvaluateParams(Section):
    headline: Literal["auto", "teacher", "student"]
    ece_bins: Positive


class ReportParams(Section):
    title: str
    gallery: bool


class MachineParams(Section):
    """Settings of the machine, not of the science: no stage lists them, so they never make one stale."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    num_workers: Literal["auto"] | NonNegative
    threads: Literal["auto"] | Positive
    eval_batch_size: Positive
    max_batch: Positive | None
    compile: Literal["auto"] | bool
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    keep_checkpoints: Positive
    cache_gib: Annotated[float, Field(ge=0)]


class TrackingParams(Section):
    """What is told of a run; no stage lists it, either."""

    enabled: bool
    experiment: str = Field(min_length=1)
    watch_every: Positive
    probe: bool


class Params(Section):
    """The whole of params.yaml."""

    data: DataParams
    generate: GenerateParams
    align: AlignParams
    corpus: CorpusParams
    split: SplitParams
    model: ModelParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    semisup: SemisupParams
    evaluate: EvaluateParams
    robustness: RobustnessParams
    report: ReportParams
    machine: MachineParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.pretrain.decoder_embed_dim % self.pretrain.decoder_num_heads or self.pretrain.decoder_embed_dim % 4:
            raise ValueError("pretrain.decoder_embed_dim must be a multiple of decoder_num_heads and of 4")
        own = self.model.backbone == OWN_BACKBONE
        if own and not self.pretrain.epochs and self.pretrain.init_from is None:
            raise ValueError("pretrain.epochs: 0 takes weights over as they are, so it needs init_from")
        if not own and self.pretrain.epochs:
            raise ValueError(
                f"pretrain.epochs must be 0 with model.backbone {self.model.backbone}, found {self.pretrain.epochs}; "
                f"the masked autoencoder trains backbone {OWN_BACKBONE} only, pretrain.init_from takes weights over"
            )
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml with DVC's own YAML reader (YAML 1.2, where 1e-3 is a number).

    Raises:
        SsferError: missing file, YAML error, unknown key (the nearest valid one is named), wrong type or range.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing; stages run in the project's root folder") from error
    except YAMLError as error:
        raise SsferError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    return parse_params(raw, str(path))


def parse_params(raw: Any, origin: str = "params") -> Params:
    """Check a nested dict; see `load_params`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise SsferError(f"{origin}: {_first_problem(error)}") from error


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings; lists are values."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    # pydantic names the chosen member of a union, too: data.sources.0.<kind>.align
    loc = [str(p) for i, p in enumerate(problem["loc"]) if not (i == 3 and problem["loc"][:2] == ("data", "sources"))]
    kind = str(problem["loc"][3]) if len(problem["loc"]) > len(loc) else None
    place = ".".join(loc)
    if problem["type"] == "extra_forbidden":
        section, _, key = place.rpartition(".")
        known = list(SOURCE_KINDS[kind].model_fields) if kind else _keys_of(section)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"
        return f"unknown key '{place}'{hint}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f"key '{place}{'.kind' if problem['type'] != 'missing' else ''}' is missing"
    if problem["type"] == "union_tag_invalid":
        return f"'{place}.kind': {unknown_name('kind of source', str(problem['input'].get('kind')), SOURCE_KINDS)}"
    message = problem["msg"].removeprefix("Value error, ")
    found = f" (found {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"'{place}': {message}{found}" if place else message


def _keys_of(section: str) -> list[str]:
    model: Any = Params
    for part in section.split(".") if section else []:
        annotation = model.model_fields[part].annotation
        args = getattr(annotation, "__args__", ())
        model = next((a for a in (annotation, *args) if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)
