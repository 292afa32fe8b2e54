"""A short trial of the user's own method and augmentations before anything long starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.own_code import failure_in
from ssfer.core.settings import Section
from ssfer.data.augmentations.registry import AUGMENTATIONS, build_augmentation
from ssfer.data.batches import check_view
from ssfer.methods.build import settings_of
from ssfer.methods.registry import METHODS
from ssfer.testing.method_setup import EXPRESSIONS, batch_of, build, wrong_outputs


def try_own_components(params: Params) -> None:
    """Take a step of the method and make a view of each augmentation, on random pictures, if they are not ssfer's.

    Raises:
        SsferError: names the component and what is wrong.
    """
    name = params.semisup.method
    if not METHODS[name].__module__.startswith("ssfer."):
        _try_method(name, settings_of(name, params.methods), params.data.class_list or EXPRESSIONS)
    for stage, key in (("finetune", "view"), ("semisup", "weak_view"), ("semisup", "strong_view")):
        section = getattr(params, stage)
        if not AUGMENTATIONS[view := getattr(section, key)].__module__.startswith("ssfer."):
            _try_augmentation(view, section, params)


def _try_method(name: str, settings: Section, classes: tuple[str, ...]) -> None:
    kind = METHODS[name]
    if kind.evaluated not in kind.exports or "student" not in kind.exports:
        raise SsferError(f"method '{name}': exports must hold student and {kind.evaluated}, which evaluated names")
    if not kind.views:
        raise SsferError(f"method '{name}': views is empty; expected at least one unlabeled view, such as ('w', 's')")
    with _told(f"method '{name}'"):
        chosen = {key: value for key, value in settings if key != "threshold"}
        method, batch = build(name, classes=classes, **chosen), batch_of(name, classes=len(classes))
        out = method(batch)
        if problem := wrong_outputs(out, len(classes)):
            raise SsferError(f"method '{name}': {problem}")
        out["loss"].backward()
        method.after_step(9)
        method.networks()


def _try_augmentation(name: str, stage: Section, params: Params) -> None:
    side = params.align.size
    image = torch.randint(256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with _told(f"augmentation '{name}'"):
        transform = build_augmentation(name, stage, params.augmentations, params.model.img_size, params.model.mean)
        view = transform(image, torch.tensor([0.1, 0.1, 0.9, 0.9]) * side, 3)
        check_view(view.image, transform)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except SsferError:
        raise
    except Exception as error:  # code of others fails in any way
        place = failure_in(error)
        reason = place or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise SsferError(f"{what} fails in a trial with random pictures: {reason}") from error
