"""The labeled / unlabeled / validation / test split: drawn once, hashed, read by every later stage."""

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_json, write_json
from ssfer.core.places import FACES, SPLIT_FILE
from ssfer.formats.manifest import fingerprint, read_manifest

TRAINING_PARTS = ("labeled", "valid", "unlabeled", "semi_labeled", "semi_unlabeled")
Indices = NDArray[np.int64]


def rounded_share(share: float, n: int, rounding: str = "half_up") -> int:
    """Return share * n rounded to an integer; a half is rounded up, or to even with `rounding` "half_even"."""
    mode = ROUND_HALF_UP if rounding == "half_up" else ROUND_HALF_EVEN
    # Decimal, because 0.05 * 1290 must be exactly 64.5 for the rounding rule to mean anything.
    return int((Decimal(str(share)) * n).quantize(Decimal(1), mode))


def quotas(
    counts: Sequence[int],
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    total: int | None = None,
    rounding: str = "half_up",
) -> list[int]:
    """Return how many images of each class are labeled (SSFER specification, section 7).

    fraction: max(1, round(fraction * n)); per_class: min(per_class, n); total: equal shares, one more for the first
    classes if there is a remainder; what a class cannot give is redistributed, so that the sum is exactly `total`.

    Raises:
        SsferError: not exactly one budget given, an empty class, a total larger than the data or smaller than one label
            per class.
    """
    if sum(v is not None for v in (fraction, per_class, total)) != 1:
        raise SsferError("give exactly one of fraction, per_class, total as the label budget")
    if min(counts) < 1:
        empty = [i for i, n in enumerate(counts) if n < 1]
        raise SsferError(f"classes {empty} have no training image, every class needs one; check data and data.classes")
    if fraction is not None:
        return [min(n, max(1, rounded_share(fraction, n, rounding))) for n in counts]
    if per_class is not None:
        return [min(per_class, n) for n in counts]
    assert total is not None
    if not len(counts) <= total <= sum(counts):
        raise SsferError(
            f"a budget of {total} labels cannot be met: {len(counts)} classes with {sum(counts)} training images"
        )
    quota = [0] * len(counts)
    left = total
    while left:
        room = [i for i, n in enumerate(counts) if quota[i] < n]
        # The same for all until a class is full; only the last remainder is uneven, so quotas grow with the total.
        share = min(left // len(room), min(counts[i] - quota[i] for i in room))
        for i in room if share else room[:left]:
            quota[i] += share or 1
        left = total - sum(quota)
    return quota


def check_members(train: Mapping[str, int], test: int) -> None:
    """Refuse a run without a test part, or with a class of which there is no training image.

    Args:
        train: training images by class.
        test: images of the test part.

    Raises:
        SsferError: see above.
    """
    if not test:
        raise SsferError(
            "the labeled sources have no test part, so no result could be measured; add one (folder test, or a usage "
            "column), or take a fifth of the training images for it: split.fold: 0"
        )
    missing = [name for name, n in train.items() if not n]
    if missing:
        raise SsferError(
            f"no training image has the label {', '.join(missing)}; expected all of {', '.join(train)}: "
            "check the source or change data.classes"
        )


def check_per_class(counts: Mapping[str, int], per_class: int) -> None:
    """Refuse a budget of `per_class` labels that the smallest class cannot give.

    Raises:
        SsferError: names the class, how many training images it has, and what to change.
    """
    name = min(counts, key=lambda n: counts[n])
    if counts[name] < per_class:
        raise SsferError(
            f"a budget of {per_class} labels per class cannot be met: '{name}' has {counts[name]} training images; "
            "lower split.labeled_per_class, or take what there is with split.per_class_shortage: cap"
        )


def split_labeled(
    labels: Sequence[int] | Indices,
    fraction: float | None = None,
    per_class: int | None = None,
    total: int | None = None,
    seed: int = 2024,
    rounding: str = "half_up",
) -> tuple[Indices, Indices]:
    """Return (labeled_idx, unlabeled_idx), disjoint and together all of `labels`.

    Class by class in index order, one RandomState(seed) shuffles a class's samples, and the first ones are labeled. The
    shuffle does not depend on the budget, so the labels of a smaller budget are among those of a larger one.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=int(labels.max()) + 1).tolist()
    wanted = quotas(counts, fraction=fraction, per_class=per_class, total=total, rounding=rounding)
    return _draw(labels, wanted, np.random.RandomState(seed))


def redraw(
    labels: Sequence[int] | Indices, labeled: Indices, valid: Indices, seed: int = 2024
) -> tuple[Indices, Indices]:
    """Return (labeled_idx, unlabeled_idx) of a second draw: as many per class as in `labeled`, from all but `valid`.

    The authors' release draws again before stage 3 (specification, section 14, row 1). Two draws of a share p use
    1 - (1 - p)^2 of the labels, which is a label leak; reproduce it only on purpose.
    """
    labels = np.asarray(labels)
    free = np.setdiff1d(np.arange(len(labels)), valid)
    wanted = np.bincount(labels[labeled]).tolist()
    # A generator of its own: with the first draw's seed, small classes would be drawn alike twice.
    first, rest = _draw(labels[free], wanted, np.random.RandomState([seed, 3]))
    return free[first], free[rest]


def _draw(labels: Indices, wanted: Sequence[int], rng: np.random.RandomState) -> tuple[Indices, Indices]:
    labeled, unlabeled = [], []
    for cls, n in enumerate(wanted):
        members = np.flatnonzero(labels == cls)
        rng.shuffle(members)
        labeled.append(members[:n])
        unlabeled.append(members[n:])
    return np.concatenate(labeled), np.concatenate(unlabeled)


def hold_out(labels: Sequence[int] | Indices, val_fraction: float) -> tuple[Indices, Indices]:
    """Return positions (kept, held out) of a labeled list, stratified: floor(n * val_fraction) of each class.

    They are evenly spaced in the list, so that with `split_labeled` the held-out part of a smaller budget is a subset
    of that of a larger one, and likewise the kept part. Every class keeps at least one image.
    """
    labels = np.asarray(labels)
    share = Decimal(str(val_fraction))
    held = np.zeros(len(labels), dtype=bool)
    for cls in np.unique(labels):
        members = np.flatnonzero(labels == cls)
        for rank, i in enumerate(members):
            held[i] = math.floor(share * (rank + 1)) > math.floor(share * rank)
        if held[members].all():
            held[members[0]] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def seal(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the split with its `hash`: sha256 of everything else in it."""
    body = {k: v for k, v in split.items() if k != "hash"}
    return {**body, "hash": sha256_json(body)}


def save_split(split: Mapping[str, Any], path: Path = SPLIT_FILE) -> None:
    """Write a sealed split with all its parts."""
    write_json(path, seal(split))


class TrainingSplit(Mapping[str, Any]):
    """The part of a split that training may read: all entries of split.json except the test part, which is dropped."""

    def __init__(self, split: Mapping[str, Any]) -> None:
        self._entries = {k: v for k, v in split.items() if k != "test"}

    def __getitem__(self, key: str) -> Any:
        if key == "test":
            raise TypeError("a training split has no test part; what evaluates a trained model calls open_test_part")
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries


def load_split(path: Path = SPLIT_FILE, faces: Path | None = FACES) -> TrainingSplit:
    """Read a split; check its hash, that no test image is in training, and that it was drawn from the stored faces.

    Args:
        path: the file that stage split wrote.
        faces: the folder data/faces; None: skip the comparison with the stored faces.

    Returns:
        The split without its test part.

    Raises:
        SsferError: missing, damaged or edited by hand, an image in training and test, or faces that have changed since.
    """
    split = _read(path)
    training = {i for part in TRAINING_PARTS for i in split.get(part, ())}
    leaked = training.intersection(split["test"])
    if leaked:
        raise SsferError(
            f"{path} has {len(leaked)} images both in training and in the test part (e.g. '{min(leaked)}'); "
            "run dvc repro split"
        )
    if faces is not None:
        stored = fingerprint(pa.concat_tables([read_manifest(faces / name) for name in split["sources"]]))
        if stored != split["faces_fingerprint"]:
            raise SsferError(
                f"{path} was drawn from other faces than {faces} holds now (fingerprint {stored[:12]}, expected "
                f"{split['faces_fingerprint'][:12]}); run dvc repro split"
            )
    return TrainingSplit(split)


def open_test_part(split: Mapping[str, Any], path: Path = SPLIT_FILE) -> list[str]:
    """Return the sample ids of the test part that belongs to `split`.

    Only what shows or measures trained models (stages evaluate and robustness, figures) and the search for copies of
    test images may call it, which a test checks.

    Raises:
        SsferError: the file is missing or damaged, or was written anew since `split` was read.
    """
    whole = _read(path)
    if whole["hash"] != split["hash"]:
        raise SsferError(f"{path} was replaced while this stage was running; run the stage again")
    test: list[str] = whole["test"]
    return test


def _read(path: Path) -> dict[str, Any]:
    split: dict[str, Any] = read_json(path)
    if seal(split)["hash"] != split.get("hash"):
        raise SsferError(f"{path} does not match its own hash; it was edited or damaged: run dvc repro split")
    return split
