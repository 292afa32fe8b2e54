"""The augmentations by the names used in params `finetune.view`, `semisup.weak_view` and `semisup.strong_view`."""

from ssfer.core.registry import Registry
from ssfer.core.settings import Section, Triple
from ssfer.data.augmentations.base import Transform

AUGMENTATIONS: Registry[Transform] = Registry(
    "augmentation",
    "ssfer.data.augmentations",
    Transform,  # type: ignore[type-abstract]
)


def build_augmentation(name: str, stage: Section, size: int, mean: Triple) -> Transform:
    """Return an augmentation by name; its settings are the keys of the stage's section with the same names.

    Args:
        name: of the augmentation.
        stage: section of params.yaml.
        size: side of the view, pixels.
        mean: of the model's input, RGB in 0..1.

    Raises:
        SsferError: unknown name.
    """
    found = AUGMENTATIONS[name]
    keys = [key for key in found.Settings.model_fields if hasattr(stage, key)]
    return found.build(found.Settings(**{key: getattr(stage, key) for key in keys}), size, mean)
