"""What every section of params.yaml is made of: the base class and the number types; which sections exist is elsewhere.

A component (a method, an importer, a detector, ...) has a class `Settings` derived from `Section`, beside the code
that it sets.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]  # a share that may be nothing, but not all
Rate = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]
Triple = tuple[float, float, float]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]  # a hash or its beginning


class Section(BaseModel):
    """Base of all sections: immutable; unknown keys, other types and numbers that are not finite are refused.

    "16", "yes" and 1.0 are no integers. An integer is taken where a float is expected, a list where a tuple is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, values: Any) -> Any:
        """Turn lists, which YAML has, into tuples, which stay as they are."""
        return {k: _as_tuple(v) for k, v in values.items()} if isinstance(values, dict) else values


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


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
