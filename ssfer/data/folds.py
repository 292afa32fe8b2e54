"""Folds for cross-validation: which fold every image belongs to (SSFER specification, sections 2.4 and 12).

All functions return (N,) int64 fold numbers 0..folds-1, in the order of the images given.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import SsferError

Folds = NDArray[np.int64]


def check_folds(images: int, folds: int) -> None:
    """Raise SsferError if there are fewer images than folds."""
    if images < folds:
        raise SsferError(f"{folds} folds need at least as many training images, found {images}; lower split.folds")


def folds_of_images(images: int, folds: int, seed: int) -> Folds:
    """Shuffle the images with a private generator and cut the list; the first `images % folds` folds have one more.

    These are the folds of scikit-learn's KFold(folds, shuffle=True, random_state=seed).

    Raises:
        SsferError: fewer images than folds.
    """
    check_folds(images, folds)
    order = np.arange(images)
    np.random.RandomState(seed).shuffle(order)
    number = np.empty(images, dtype=np.int64)
    for fold, members in enumerate(np.array_split(order, folds)):
        number[members] = fold
    return number


def folds_of_classes(labels: Sequence[int], folds: int, seed: int) -> Folds:
    """Shuffle the images of each class and deal them out in turn, so that every fold has its share of each class.

    The next class goes on where the last one ended. A class with fewer images than folds starts at fold 0, which then
    has one of them; a single image lies in the last fold.

    Args:
        labels: class index of every image.

    Raises:
        SsferError: fewer images than folds.
    """
    check_folds(len(labels), folds)
    generator = np.random.RandomState(seed)
    number = np.empty(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(np.asarray(labels) == label))
        if len(members) >= folds:
            first, start = start, start + len(members)
        else:
            first = 0 if len(members) > 1 else folds - 1
        number[members] = (first + np.arange(len(members))) % folds
    return number


def folds_of_people(people: Sequence[str | None], folds: int, seed: int) -> Folds:
    """Put all images of a person into one fold: shuffled people go, one by one, to the fold with the fewest images.

    So the sizes of two folds differ by at most the images of one person.

    Args:
        people: the person on each image, None if the data set does not say.

    Raises:
        SsferError: an image without a person, fewer people than folds.
    """
    images = Counter(people)
    if images[None]:
        raise SsferError(
            f"split.fold_by identity needs the person on every training image, {images[None]} of {len(people)} have "
            "none; choose fold_by: image"
        )
    names = list(images)
    if len(names) < folds:
        raise SsferError(f"{folds} folds need at least as many people, found {len(names)}; lower split.folds")
    order = np.random.RandomState(seed).permutation(len(names))
    filled = [0] * folds
    fold_of: dict[str | None, int] = {}
    for i in order.tolist():
        fold_of[names[i]] = filled.index(min(filled))
        filled[fold_of[names[i]]] += images[names[i]]
    return np.array([fold_of[person] for person in people], dtype=np.int64)


def official_folds(truths: Sequence[str | None], folds: int) -> Folds:
    """Read the folds that the data set ships with, as its importer recorded them: {"fold": 2} in `truth`.

    Args:
        truths: the manifest column `truth`, JSON or None.

    Raises:
        SsferError: an image without an official fold, other fold numbers than 0..folds-1.
    """
    found = [_official(truth) for truth in truths]
    if missing := found.count(None):
        raise SsferError(
            f"split.fold_by official needs a data set that ships with folds (adience), {missing} of {len(found)} "
            "images have none; choose fold_by: image or identity"
        )
    numbers = sorted({number for number in found if number is not None})
    if numbers != list(range(folds)):
        raise SsferError(
            f"split.folds is {folds}, but the data set ships with the folds {', '.join(map(str, numbers))}; change it"
        )
    return np.array(found, dtype=np.int64)


def _official(truth: str | None) -> int | None:
    content: Any = json.loads(truth) if truth else None
    number = content.get("fold") if isinstance(content, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None
