"""Section `data` of params.yaml: which data sets take part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import CLASS_SETS
from ssfer.core.settings import Section, unknown_component, within
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import SOURCES


class DataSettings(Section):
    """Which images take part."""

    raw: str = Field(description="Folder below data/raw that holds the sources.")
    class_set: str = Field(description="Class names and their order.")
    sources: tuple[SerializeAsAny[SourceSettings], ...] = Field(min_length=1, description="The data sets.")

    @field_validator("sources", mode="before")
    @classmethod
    def _entries(cls, raw: Any) -> Any:
        """Check each entry by the settings of its importer."""
        return tuple(_entry(i, entry) for i, entry in enumerate(raw)) if isinstance(raw, (list, tuple)) else raw

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.class_set not in CLASS_SETS:
            raise ValueError(str(unknown_name("class set", self.class_set, CLASS_SETS)))
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
