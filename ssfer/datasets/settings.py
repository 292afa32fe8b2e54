"""Section `data` of params.yaml: the data sets of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import CLASS_SETS, class_name, class_set
from ssfer.core.settings import Section, Share, unknown_component, within
from ssfer.datasets.base import MAX_MISSING, SourceSettings
from ssfer.datasets.registry import SOURCES

AUTO = "auto"


class DataSettings(Section):
    """The images and classes of a run."""

    raw: str = Field(description="Folder below data/raw that holds the sources.")
    classes: str | tuple[str, ...] = Field(
        description="Class names in index order: your own list, a benchmark's name, or auto: the labels found."
    )
    max_missing: Share = Field(
        MAX_MISSING, description="Largest share of the files listed by a source that may be missing; more is an error."
    )
    sources: tuple[SerializeAsAny[SourceSettings], ...] = Field(min_length=1, description="The data sets.")

    @field_validator("classes", mode="before")
    @classmethod
    def _text(cls, classes: Any) -> Any:
        """Refuse what is no text, such as numbers, before the kinds of value are tried one after another."""
        if not isinstance(classes, (str, list, tuple)):
            raise ValueError(f"expected a list of class names, a benchmark's name or {AUTO}, found {classes!r}")
        if not isinstance(classes, str) and (other := [name for name in classes if not isinstance(name, str)]):
            raise ValueError(
                f"expected class names, found {other[0]!r}, which is no text in YAML; put each name in quotation marks"
            )
        return classes

    @field_validator("classes")
    @classmethod
    def _known_or_own(cls, classes: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Check the name of a class set; replace the user's own class names by canonical ones."""
        if isinstance(classes, str):
            if classes not in (AUTO, *CLASS_SETS):
                raise ValueError(str(unknown_name("class set", classes, (AUTO, *CLASS_SETS))))
            return classes
        names = tuple(map(class_name, classes))
        if len(names) < 2 or not all(names):
            raise ValueError(f"expected at least two class names, found {list(classes)}")
        if len(set(names)) != len(names):
            raise ValueError(f"expected every class once, found {', '.join(names)}")
        return names

    @property
    def class_list(self) -> tuple[str, ...] | None:
        """Class names in index order; None for `auto`: the labels of the training images are the classes."""
        if isinstance(self.classes, str):
            return None if self.classes == AUTO else class_set(self.classes)
        return self.classes

    @field_validator("sources", mode="before")
    @classmethod
    def _entries(cls, raw: Any) -> Any:
        """Check each entry by the settings of its importer."""
        return tuple(_entry(i, entry) for i, entry in enumerate(raw)) if isinstance(raw, (list, tuple)) else raw

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, found {names}")
        if not any(s.labeled for s in self.sources):
            raise ValueError("at least one source must have 'labeled: true'")
        return self


def _entry(i: int, entry: Any) -> Any:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    try:
        settings = SOURCES[kind].Settings if isinstance(kind, str) else SourceSettings
    except SsferError as error:
        raise unknown_component((i, "kind"), error) from error
    try:
        return entry if isinstance(entry, SourceSettings) else settings.model_validate(entry)
    except ValidationError as error:
        raise within(i, error) from error
