"""Typed view of params.yaml: one class per section, unknown keys refused, every value checked before work starts.

params.yaml holds every key with the demo's values; profiles/*.yaml hold differences (`ssfer profile`). Durations are
epochs, learning rates are absolute, `batch_size` is the effective global batch, sizes are pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator

from ssfer.config.settings_file import read_settings
from ssfer.core.errors import SsferError, shortened
from ssfer.core.files import no_project
from ssfer.core.registry import Registry, check_sections, section_name
from ssfer.core.settings import NonNegative, Positive, Section, Text
from ssfer.corpus.settings import CorpusSettings
from ssfer.data.augmentations.registry import AUGMENTATIONS, VIEWS, check_views
from ssfer.data.settings import SplitSettings
from ssfer.datasets.registry import SOURCES
from ssfer.datasets.settings import DataSettings
from ssfer.evaluation.metric import METRICS
from ssfer.evaluation.settings import EvaluateSettings, RobustnessSettings
from ssfer.faces.detectors.registry import DETECTORS, detectors_of
from ssfer.faces.settings import AlignSettings
from ssfer.methods.registry import METHODS
from ssfer.models.settings import OWN_BACKBONE, ModelSettings
from ssfer.rendered.settings import GenerateSettings
from ssfer.train.settings import FinetuneSettings, MachineSettings, PretrainSettings, SemisupSettings

PARAMS_FILE = Path("params.yaml")
# Per section of components: their kind, and the settings that choose one of them or several.
_COMPONENTS: dict[str, tuple[Registry[Any], tuple[tuple[str, str], ...]]] = {
    "detectors": (DETECTORS, (("align", "detector"), ("align", "second_detector"))),
    "augmentations": (AUGMENTATIONS, VIEWS),
    "methods": (METHODS, (("semisup", "method"),)),
    "metrics": (METRICS, (("evaluate", "metrics"),)),
}


class ReportSettings(Section):
    """The report page."""

    title: str = Field("ssfer demo", description="Title of the page.")
    gallery: bool = Field(
        True,
        description="Show faces; those of data sets known as licensed never are. Set false for other real photos.",
    )
    mistakes: NonNegative = Field(30, description="Most wrongly classified test faces shown, if gallery is true.")


class TrackingSettings(Section):
    """Logging of runs with MLflow."""

    enabled: bool = Field(True, description="Log to MLflow, in a local sqlite file; SSFER_MLFLOW=0 turns it off.")
    experiment: Text = Field("ssfer", description="Name of MLflow's experiment.")
    uri: Text | None = Field(
        None, description="A team's MLflow server that also gets the runs; MLFLOW_TRACKING_URI overrides it."
    )
    register_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = Field(
        None, description="Name in MLflow's model registry for data/weights/model.safetensors; null: not registered."
    )
    watch_every: Positive = Field(
        10, description="Epochs of pretraining between pictures of reconstructed faces (data/reports/pretrain)."
    )
    probe: bool = Field(
        False, description="true: with each picture, also the accuracy of a linear probe on the split's labels."
    )

    @field_validator("uri")
    @classmethod
    def _without_credentials(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError(
                "an address without user and password is expected, because params.yaml is committed; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )
        return uri


class Params(Section):
    """The whole of params.yaml."""

    data: DataSettings
    generate: GenerateSettings
    align: AlignSettings
    detectors: dict[str, SerializeAsAny[Section]] = Field({}, description="Settings of each face detector.")
    corpus: CorpusSettings
    split: SplitSettings
    model: ModelSettings
    pretrain: PretrainSettings
    finetune: FinetuneSettings
    semisup: SemisupSettings
    methods: dict[str, SerializeAsAny[Section]]
    augmentations: dict[str, dict[str, Any]] = Field(
        {}, validate_default=True, description="Settings of each augmentation; they come before the stage's."
    )
    evaluate: EvaluateSettings
    metrics: dict[str, SerializeAsAny[Section]] = Field(
        {}, validate_default=True, description="Settings of each metric of your own."
    )
    robustness: RobustnessSettings
    report: ReportSettings
    machine: MachineSettings
    tracking: TrackingSettings

    @property
    def method_settings(self) -> Section:
        """Settings of the method that semisup.method names, for the templates of the report."""
        return METHODS.settings(self.semisup.method, self.methods)

    @field_validator("detectors", "methods", "metrics", mode="before")
    @classmethod
    def _sections(cls, raw: Any, info: ValidationInfo) -> Any:
        """Check each section of components by the settings of the component of that name."""
        assert info.field_name is not None
        return check_sections(_COMPONENTS[info.field_name][0], raw, _chosen(info.field_name, info.data))

    @field_validator("augmentations", mode="before")
    @classmethod
    def _sections_of_augmentations(cls, raw: Any, info: ValidationInfo) -> Any:
        """Check each section below `augmentations`, and those of the views, by the augmentation of that name."""
        places = [(info.data.get(stage), key) for stage, key in VIEWS]
        return check_views(raw, [(getattr(stage, key), stage) for stage, key in places if stage is not None])

    @model_validator(mode="after")
    def _check(self) -> Params:
        try:
            for name in detectors_of(self.align):
                DETECTORS[name]
            numbers = [section_name(name) for name in self.evaluate.metrics]
            for name, number in zip(self.evaluate.metrics, numbers, strict=True):
                METRICS[name]
                if numbers.count(number) > 1:
                    raise SsferError(f"evaluate.metrics: two would be called {number}, by their file; rename a file")
            for view in _chosen("augmentations", dict(self)):
                AUGMENTATIONS[view]
            METHODS[self.semisup.method]
            if self.model.backbone != OWN_BACKBONE:
                from ssfer.models.backbone import check_name  # with timm, whose import takes a second

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
    return parse_params(read_params_file(path), str(path))


def read_params_file(path: Path = PARAMS_FILE, keep_comments: bool = False) -> Any:
    """Return the unchecked content of params.yaml; see `ssfer.config.settings_file.read_settings`.

    Raises:
        SsferError: this folder is no project, or YAML error.
    """
    if path == PARAMS_FILE and not path.exists():
        raise no_project()
    return read_settings(path, keep_comments)


def parse_params(raw: Any, origin: str = "params") -> Params:
    """Check a nested dict; see `load_params`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise SsferError(f"{origin}: {_first_problem(error, raw)}") from error


def _first_problem(error: ValidationError, raw: Any) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        section, _, key = place.rpartition(".")
        known = _keys_of(section, raw)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        others = f"; known are {', '.join(known)}" if known else "; there is nothing to set"
        hint = f"; did you mean '{close[0]}'?" if close else others
        return f"unknown key '{place}'{hint}"
    if problem["type"] == "missing":
        return f"key '{place}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "tuple_type":
        message = "expected a list, such as [first, second]"
    if problem["type"] == "string_pattern_mismatch" and (meaning := _description(problem["loc"])):
        message = f"a text of another form is expected: {meaning.rstrip('.')}"
    shown = shortened(repr(list(value) if isinstance(value, tuple) else value))
    said = problem["type"] == "value_error" and ("found " in message or shown in message)
    if said or problem["type"] == "unknown_component" or isinstance(value, dict):
        return f"'{place}': {message}" if place else message
    return f"'{place}': {message} (found {shown})" if place else message


def _description(place: Sequence[str | int]) -> str:
    """Return what the field at a place of params.yaml means; "" where that depends on a component."""
    model: Any = Params
    for part in place[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    field = getattr(model, "model_fields", {}).get(place[-1])
    return (field.description or "") if field is not None else ""


def _chosen(kind: str, sections: Mapping[str, Any]) -> list[str]:
    """Return the names of the components of a kind that settings choose; the sections may be unchecked."""
    found: list[str] = []
    for part, key in _COMPONENTS[kind][1]:
        section = sections.get(part)
        value = section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
        found += [name for name in (value if isinstance(value, list | tuple) else [value]) if isinstance(name, str)]
    return found


def _keys_of(section: str, raw: Any) -> list[str]:
    """Return the keys that a section may have; `raw` says which component a section belongs to."""
    model: Any = Params
    first, *parts = section.split(".") if section else [""]
    if section.startswith("data.sources."):
        model, parts = SOURCES[raw["data"]["sources"][int(parts[1])]["kind"]].Settings, parts[2:]
    elif first in _COMPONENTS and parts:
        own = {section_name(name): name for name in _chosen(first, raw)}
        model, parts = _COMPONENTS[first][0][own.get(parts[0], parts[0])].Settings, parts[1:]
    elif first:
        parts = [first, *parts]
    for part in filter(lambda part: not part.isdecimal(), parts):  # a number is a place in a list
        annotation = model.model_fields[part].annotation
        args = getattr(annotation, "__args__", ())
        model = next((a for a in (annotation, *args) if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)
