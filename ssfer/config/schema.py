"""Typed view of params.yaml: one class per section, unknown keys refused, every value checked before work starts.

params.yaml holds every key with the demo's values; profiles/ hold differences (`ssfer profile`). Durations
are epochs, learning rates are absolute, `batch_size` is the effective global batch, sizes are pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.settings import Positive, Section, Text
from ssfer.core.yaml import read_yaml
from ssfer.corpus.settings import CorpusSettings
from ssfer.data.settings import SplitSettings
from ssfer.datasets.settings import SOURCE_KINDS, DataSettings
from ssfer.evaluation.settings import EvaluateSettings, RobustnessSettings
from ssfer.faces.settings import AlignSettings
from ssfer.methods.registry import METHODS
from ssfer.models.backbone import check_name
from ssfer.models.settings import OWN_BACKBONE, ModelSettings
from ssfer.rendered.settings import GenerateSettings
from ssfer.train.settings import FinetuneSettings, MachineSettings, PretrainSettings, SemisupSettings

PARAMS_FILE = Path("params.yaml")


class ReportSettings(Section):
    """The page."""

    title: str = Field("ssfer demo", description="Title of the page.")
    gallery: bool = Field(True, description="Show sample faces; keep false for licensed or real photos.")


class TrackingSettings(Section):
    """What is logged of a run."""

    enabled: bool = Field(True, description="MLflow in a local sqlite file; SSFER_MLFLOW=0 switches it off as well.")
    experiment: Text = Field("ssfer", description="Name of MLflow's experiment.")
    watch_every: Positive = Field(
        10, description="Epochs of pretraining between pictures of reconstructed faces (data/reports/pretrain)."
    )
    probe: bool = Field(False, description="True: then also the accuracy of a linear probe on the split's labels.")


class Params(Section):
    """The whole of params.yaml."""

    data: DataSettings
    generate: GenerateSettings
    align: AlignSettings
    corpus: CorpusSettings
    split: SplitSettings
    model: ModelSettings
    pretrain: PretrainSettings
    finetune: FinetuneSettings
    semisup: SemisupSettings
    methods: dict[str, SerializeAsAny[Section]]
    evaluate: EvaluateSettings
    robustness: RobustnessSettings
    report: ReportSettings
    machine: MachineSettings
    tracking: TrackingSettings

    @field_validator("methods", mode="before")
    @classmethod
    def _sections_of_methods(cls, raw: Any) -> Any:
        """Check each section below `methods` by the settings of the method of that name."""
        if not isinstance(raw, Mapping):
            return raw
        found = {}
        for name, values in raw.items():
            try:
                settings = METHODS[name].Settings
            except SsferError as error:
                raise ValueError(str(error)) from error
            try:
                found[name] = settings.model_validate({} if values is None else values)
            except ValidationError as error:
                raise within(name, error) from error
        return found

    @model_validator(mode="after")
    def _check(self) -> Params:
        try:
            METHODS[self.semisup.method]
            if self.model.backbone != OWN_BACKBONE:
                check_name(self.model.backbone)
        except SsferError as error:
            raise ValueError(str(error)) from error
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
    """Read and check params.yaml.

    Raises:
        SsferError: missing file, YAML error, unknown key (the nearest valid one is named), wrong type or range.
    """
    return parse_params(read_yaml(path), str(path))


def parse_params(raw: Any, origin: str = "params") -> Params:
    """Check a nested dict; see `load_params`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise SsferError(f"{origin}: {_first_problem(error)}") from error


def within(name: str, error: ValidationError) -> ValidationError:
    """Return a section's errors with the section's name before their places."""
    details = [
        InitErrorDetails(type=e["type"], loc=(name, *e["loc"]), input=e["input"], ctx=e.get("ctx", {}))  # type: ignore[typeddict-item]
        for e in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


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
        if model is None:  # below `methods`
            model = METHODS[part].Settings
            continue
        annotation = model.model_fields[part].annotation
        args = getattr(annotation, "__args__", ())
        found = [a for a in (annotation, *args) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = None if part == "methods" else next(iter(found), model)
    return list(METHODS if model is None else model.model_fields)
