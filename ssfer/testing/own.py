"""A short trial of the user's own method and augmentations before anything long starts."""

from __future__ import annotations

import sys

import torch

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.own_code import failure_in
from ssfer.core.settings import Section
from ssfer.data.augmentations.registry import AUGMENTATIONS, VIEWS, build_augmentation
from ssfer.data.batches import check_view
from ssfer.methods.build import build_method
from ssfer.methods.registry import METHODS
from ssfer.models.backbone import build_backbone
from ssfer.models.settings import OWN_BACKBONE
from ssfer.testing.method_setup import EXPRESSIONS, SIDE, batch_of, population, student, wrong_outputs


def try_own_components(params: Params) -> None:
    """Take a step of the method and make a view of each augmentation, on random pictures, if they are not ssfer's.

    An exception in the method is only printed: it may need larger batches.

    Raises:
        SsferError: names the component and what is wrong with what it returns.
    """
    name = params.semisup.method
    if METHODS.is_foreign(name):
        _try_method(name, params)
    for stage, key in VIEWS:
        section = getattr(params, stage)
        if AUGMENTATIONS.is_foreign(view := getattr(section, key)):
            _try_augmentation(view, section, params)


def _try_method(name: str, params: Params) -> None:
    kind = METHODS[name]
    if kind.evaluated not in kind.exports or "student" not in kind.exports:
        raise SsferError(f"method '{name}': exports must hold student and {kind.evaluated}, which evaluated names")
    if not kind.views:
        raise SsferError(f"method '{name}': views is empty; expected at least one unlabeled view, such as ('w', 's')")
    classes = params.data.class_list or EXPRESSIONS
    own = params.model.backbone != OWN_BACKBONE  # its parts may be used; the ViT may be large
    network = build_backbone(params.model, len(classes)) if own else student(0, len(classes))
    side = params.model.img_size if own else SIDE
    try:
        context = population(classes)
        method = build_method(network, params.semisup, params.methods, context).train()
        batch = batch_of(name, classes=len(classes), side=side)
        if method.labeled_pass_views is not None:
            method.labeled_pass(0, [{key: batch[key] for key in ("x_lb", "y_lb", "idx_lb")}])
        out = method(batch)
        if problem := wrong_outputs(out, len(classes)):
            raise SsferError(f"method '{name}': {problem}")
        out["loss"].backward()
        if method.two_steps:
            method(batch, second=True)["loss"].backward()
        method.after_step(0)
    except SsferError:
        raise
    except Exception as error:  # code of others fails in any way, perhaps only because this batch is small
        print(
            f"method '{name}' failed in a trial with 4 labeled and 6 unlabeled random pictures: {_reason(error)}; "
            "ignore this if it needs more of them",
            file=sys.stderr,
        )


def _try_augmentation(name: str, stage: Section, params: Params) -> None:
    side = params.align.size
    image = torch.randint(256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    try:
        transform = build_augmentation(name, stage, params.augmentations, params.model.img_size, params.model.mean)
        view = transform(image, torch.tensor([0.1, 0.1, 0.9, 0.9]) * side, 3)
        check_view(view.image, transform)
    except SsferError:
        raise
    except Exception as error:  # code of others fails in any way
        raise SsferError(f"augmentation '{name}' fails on a picture of {side} px: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else "no message"
    return failure_in(error) or f"{type(error).__name__}: {first}"
