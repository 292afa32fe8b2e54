"""The augmentations by the names used in params `finetune.view`, `semisup.weak_view` and `semisup.strong_view`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry, not_chosen, section_name
from ssfer.core.settings import Section, Triple, unknown_component, within
from ssfer.data.augmentations.base import Transform

AUGMENTATIONS: Registry[Transform] = Registry(
    "augmentation",
    "ssfer.data.augmentations",
    Transform,  # type: ignore[type-abstract]
)


# Stage and key of each setting that names an augmentation.
VIEWS = (("finetune", "view"), ("semisup", "weak_view"), ("semisup", "strong_view"))
Sections = Mapping[str, Mapping[str, Any]]


def settings_of(name: str, stage: Section, sections: Sections) -> Section:
    """Return an augmentation's settings: its own section of params.yaml, then the stage's keys of the same names.

    Args:
        name: of the augmentation.
        stage: section of params.yaml.
        sections: section `augmentations` of params.yaml.

    Raises:
        SsferError: unknown name.
        ValidationError: an unknown key in its section, or a value that does not fit.
    """
    found = AUGMENTATIONS[name].Settings
    shared = {key: getattr(stage, key) for key in found.model_fields if hasattr(stage, key)}
    return found.model_validate({**shared, **sections.get(section_name(name), {})})


def check_views(raw: Any, views: Sequence[tuple[str, Section]]) -> Any:
    """Return section `augmentations` of params.yaml after a check with the views that the stages name.

    Args:
        raw: what params.yaml has; anything but a mapping is returned as it is, for the caller to refuse.
        views: name of an augmentation, which may be unknown, and section of the stage that uses it.

    Raises:
        ValidationError: a section of an unknown augmentation, or settings that it refuses; with the place.
    """
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        return raw
    found = {str(name): {} if values is None else values for name, values in raw.items()}
    if not all(isinstance(values, Mapping) for values in found.values()):
        return found
    named = {section_name(name) for name, _ in views}
    idle = [section for section in found if section not in named and not not_chosen(AUGMENTATIONS, section)]
    for section in idle:
        try:
            AUGMENTATIONS[section]
        except SsferError as error:
            raise unknown_component((section,), error) from error
    # One that is not chosen is checked as if the last stage used it.
    for name, stage in [*views, *((section, views[-1][1]) for section in idle if views)]:
        with suppress(SsferError):  # told with the setting that names it
            try:
                settings_of(name, stage, found)
            except ValidationError as error:
                raise within(section_name(name), error) from error
    return found


def build_augmentation(name: str, stage: Section, sections: Sections, size: int, mean: Triple) -> Transform:
    """Return an augmentation by name.

    Args:
        name: of the augmentation.
        stage: section of params.yaml.
        sections: see `settings_of`.
        size: side of the view, pixels.
        mean: of the model's input, RGB in 0..1.

    Raises:
        SsferError: unknown name.
    """
    return AUGMENTATIONS[name].build(settings_of(name, stage, sections), size, mean)
