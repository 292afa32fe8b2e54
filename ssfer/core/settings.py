"""Base class and value types of the sections of params.yaml; `ssfer.config.schema` lists the sections.

A component (a method, an importer, a detector, ...) has a class `Settings` derived from `Section` in its own file.
"""

import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Positive = Annotated[int, Field(gt=0, lt=2**31)]
NonNegative = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=2048)]  # of a picture, pixels
Layers = Annotated[int, Field(ge=1, le=1000)]
Processes = Annotated[int, Field(ge=0, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]  # a share that may be 0, but not 1
Rate = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Above = Annotated[float, Field(gt=0, le=1e6)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
CropScale = Annotated[float, Field(ge=0.01, lt=1)]  # smallest area of a random crop, as a share of the image
Triple = tuple[float, float, float]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]  # a hash or its beginning


def has_control(text: str) -> bool:
    """Return whether a text has control characters or half of a pair of surrogates, which settings may not."""
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


class Section(BaseModel):
    """Base of all sections: immutable; unknown keys, wrong types, control characters, NaN and infinity are refused.

    "16", "yes" and 1.0 are not integers. An integer is accepted as a float, and a list as a tuple.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, values: Any) -> Any:
        """Turn YAML's lists into tuples, which are immutable; refuse text with control characters."""
        if not isinstance(values, dict):
            return values
        for key, value in values.items():
            if any(map(has_control, (str(key), *map(str, _texts(value))))):
                raise ValueError(f"expected text without control characters under '{key}'")
        return {k: _as_tuple(v) for k, v in values.items()}


def within(name: str | int, error: ValidationError) -> ValidationError:
    """Return a section's errors with the section's name before their places."""
    details = [
        InitErrorDetails(type=e["type"], loc=(name, *e["loc"]), input=e["input"], ctx=e.get("ctx", {}))  # type: ignore[typeddict-item]
        for e in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


def unknown_component(place: tuple[str | int, ...], error: Exception) -> ValidationError:
    """Return the error of a component that cannot be found, at its place in the section being checked."""
    kind = PydanticCustomError("unknown_component", "{text}", {"text": str(error)})
    return ValidationError.from_exception_data("section", [InitErrorDetails(type=kind, loc=place, input=None)])


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a value that is not a section."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict) and all(isinstance(item, str | None) for item in value.values()):
        yield from map(str, chain(value, filter(None, value.values())))


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
