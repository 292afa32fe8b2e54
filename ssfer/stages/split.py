"""Stage split: which images are labeled, held out, unlabeled and test (SSFER specification, sections 7 and 12)."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.config.schema import Params
from ssfer.copies.find import decontaminate
from ssfer.core.errors import SsferError
from ssfer.core.labels import classes_of
from ssfer.core.places import FACES, SPLIT_FILE
from ssfer.core.workers import Workers, workers_of
from ssfer.data.folds import Folds, folds_of_classes, folds_of_images, folds_of_people, official_folds
from ssfer.data.label_noise import noisy_labels
from ssfer.data.settings import SplitSettings
from ssfer.data.split import (
    Indices,
    check_members,
    check_per_class,
    hold_out,
    redraw,
    save_split,
    seal,
    split_labeled,
)
from ssfer.formats.manifest import doubtful, fingerprint, read_manifest
from ssfer.formats.metrics import write_metrics
from ssfer.stages.split_remarks import out_of_the_ordinary, say_what_is_missing, strange_labels
from ssfer.tracking.tracker import Tracker

# Kinds of labeled sources in which an empty label means that nobody gave one, not that an image is unfit.
SAY_BARE = ("csv", "class_folders")


@dataclass(frozen=True)
class Members:
    """Row numbers of the images to draw labels from and of the test part, and counts of left-out rows by reason."""

    train: Indices
    test: Indices
    dropped: dict[str, int]


def run_split(params: Params) -> dict[str, Any]:
    """Draw the split, write data/splits/split.json and metrics/split.json; return the metrics."""
    labeled = [s.name for s in params.data.sources if s.labeled]
    bare = [s.name for s in params.data.sources if not s.labeled and (FACES / s.name).is_dir()]
    sources = labeled + (bare if params.split.bare_faces == "all" else [])
    table = pa.concat_tables([read_manifest(FACES / name) for name in sources])
    classes = params.data.class_list or labels_of(table.filter(pc.is_in(table["source"], pa.array(labeled))))
    printed, m = fingerprint(table), params.machine
    with Tracker("split", params, printed) as tracker, workers_of(m.cluster, m.num_workers, "split") as workers:
        split, dropped = draw_split(table, classes, params, workers)
        split = seal({**split, "sources": sources, "faces_fingerprint": printed})
        label = dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        parts = ("labeled", "valid", "unlabeled", "test")
        counts = {part: Counter(label[i] for i in split[part]) for part in parts}
        result = {
            "hash": split["hash"],
            **{part: len(split[part]) for part in parts},
            "dropped": dropped,
            "per_class": {name: {part: counts[part][name] for part in parts} for name in classes},
            **out_of_the_ordinary(split, params),
        }
        say_what_is_missing(result, {} if params.data.class_list else strange_labels(table, labeled, classes))
        save_split(split, SPLIT_FILE)
        write_metrics("split", result)
        tracker.log_metrics(result)
    return result


def labels_of(table: pa.Table) -> tuple[str, ...]:
    """Return the classes of `data.classes: auto`: every label of a training image, in a fixed order.

    Raises:
        SsferError: fewer than two.
    """
    train = table.filter(pc.equal(table["usage"], "train"))
    return classes_of({label for label in train["label"].to_pylist() if label})


def draw_split(
    table: pa.Table, classes: tuple[str, ...], params: Params, workers: Workers
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return (split without hash and sources, counts of left-out rows by reason).

    Label noise changes labels only: labeled, valid, unlabeled and test are those of the run without noise. The
    validation part has noise too, because in practice there are no other labels. With redraw_for_semi, wrong labels are
    drawn once for the images of both draws.

    Raises:
        SsferError: a class without training images, a budget or a fold that the data cannot give.
    """
    p = params.split
    names = {s.name for s in params.data.sources if s.labeled}
    pairs = zip(table["label"].to_pylist(), table["source"].to_pylist(), strict=True)
    label = np.array([classes.index(v) if v in classes and source in names else -1 for v, source in pairs])
    members = choose_members(table, label, params, workers)
    rows = members.train
    counts = dict(zip(classes, np.bincount(label[rows], minlength=len(classes)).tolist(), strict=True))
    if len(members.test):
        check_classes_left(table, label, counts, members)
    check_members(counts, len(members.test))
    if p.labeled_per_class is not None and p.per_class_shortage == "refuse":
        check_per_class(counts, p.labeled_per_class)
    labeled, unlabeled = split_labeled(
        label[rows], p.labeled_fraction, p.labeled_per_class, p.labeled_total, p.seed, p.rounding
    )
    kept, held = hold_out(label[rows][labeled], p.val_fraction)
    drawn = {"labeled": labeled[kept], "valid": labeled[held], "unlabeled": unlabeled}
    bare = ids_of_bare_faces(table, members.test, params, workers)
    members.dropped["label_outside_class_set"] -= len(bare)
    if p.redraw_for_semi:
        again = redraw(label[rows], drawn["labeled"], drawn["valid"], p.seed)
        drawn |= {"semi_labeled": again[0], "semi_unlabeled": again[1]}
    ids = np.array(table["sample_id"].to_pylist(), dtype=object)
    split = {
        "version": 1,
        "classes": list(classes),
        "params": {"class_set": params.data.classes, **recorded(p)},
        **{part: ids[rows[positions]].tolist() for part, positions in drawn.items()},
        "test": ids[members.test].tolist(),
    }
    if bare:
        split["bare"] = len(bare)
        for part in ("unlabeled", "semi_unlabeled"):
            if part in split:
                split[part] += bare
    if p.redraw_for_semi:
        split["label_leak"] = True
    if p.label_noise:
        told = rows[np.union1d(labeled, drawn.get("semi_labeled", labeled))]
        noisy = noisy_labels(label[told], len(classes), p.label_noise, p.seed)
        wrong = noisy != label[told]
        split["noisy"] = {ids[row]: classes[k] for row, k in zip(told[wrong], noisy[wrong], strict=True)}
    return split, members.dropped


def choose_members(table: pa.Table, label: Indices, params: Params, workers: Workers) -> Members:
    """Choose training and test images among those with a stored crop and a label of the class set.

    An official validation part is left out, because its labels are not in the budget, and so are training images that
    copy a test image, exactly or nearly. With split.fold, that fold of the remaining images is the test part, copies of
    its images in the training part are left out, and the official test part is not used. Official folds span all
    images. With split.flagged "drop", training images with doubtful landmarks are also left out.

    Args:
        table: manifest rows.
        label: (n,) class indices, -1 for rows without a label of the class set.
        workers: what looks for copies.
    """
    p = params.split
    usage = np.array(table["usage"].to_pylist())
    stored = pc.is_valid(table["shard"]).to_numpy(zero_copy_only=False)
    usable = stored & (label >= 0)
    train, test = (np.flatnonzero(usable & (usage == name)) for name in ("train", "test"))
    dropped = {
        "not_stored": int((~stored).sum()),
        "label_outside_class_set": int((stored & (label < 0)).sum()),
        "official_validation": int((usable & (usage == "valid")).sum()),
        "copy_of_test_image": 0,
    }
    official = p.fold is not None and p.fold_by == "official"
    if not official:
        train, dropped["copy_of_test_image"] = without_copies(table, train, test, params, workers)
    if p.fold is not None:
        pool = np.union1d(train, test) if official else train
        dropped["official_test"] = 0 if official else len(test)
        number = fold_numbers(table.take(pa.array(pool)), label[pool], p)
        test = pool[number == p.fold]
        train, dropped["copy_of_fold_image"] = without_copies(table, pool[number != p.fold], test, params, workers)
    if p.flagged == "drop":  # after the fold is drawn: test images stay
        flagged = doubtful(table)[train]
        dropped["doubtful_landmarks"] = int(flagged.sum())
        train = train[~flagged]
    return Members(train, test, dropped)


def check_classes_left(table: pa.Table, label: Indices, counts: dict[str, int], members: Members) -> None:
    """Refuse a run in which all training images of a class are left out; `counts` are those that are left.

    Raises:
        SsferError: names the class and what became of its images.
    """
    usage = np.array(table["usage"].to_pylist())
    stored = pc.is_valid(table["shard"]).to_numpy(zero_copy_only=False)
    for k, (name, left) in enumerate(counts.items()):
        rows = np.flatnonzero((label == k) & (usage == "train"))
        if left or not len(rows):
            continue
        lost, tested = int((~stored[rows]).sum()), int(np.isin(rows, members.test).sum())
        others = "copy test images" + " or have doubtful landmarks" * ("doubtful_landmarks" in members.dropped)
        reasons = {"cannot be read": lost, "fell to the fold": tested, others: len(rows) - lost - tested}
        raise SsferError(
            f"no training image of {name} is left: of {len(rows):,}, "
            + ", ".join(f"{n:,} {reason}" for reason, n in reasons.items() if n)
            + "; `ssfer doctor` names copies and unreadable photos; add photos of this class, or leave it out "
            "(data.classes)"
        )


def ids_of_bare_faces(table: pa.Table, test: Indices, params: Params, workers: Workers) -> list[str]:
    """Return the ids of the faces that split.bare_faces adds to the unlabeled ones, without copies of test images."""
    p = params.split
    if p.bare_faces == "none":
        return []
    kinds = {s.name: s.kind for s in params.data.sources if s.labeled}
    usable = np.array([usage in ("train", "none") for usage in table["usage"].to_pylist()])
    usable &= pc.is_valid(table["shard"]).to_numpy(zero_copy_only=False)
    usable &= ~doubtful(table) if p.flagged == "drop" else True
    bare = np.array([v is None for v in table["label"].to_pylist()])
    source = table["source"].to_pylist()
    chosen = [
        name not in kinds or (kinds[name] in SAY_BARE and empty)
        for name, empty in zip(source, bare.tolist(), strict=True)
    ]
    rows, _ = without_copies(table, np.flatnonzero(usable & np.array(chosen, bool)), test, params, workers)
    return table["sample_id"].take(pa.array(rows)).to_pylist()


def without_copies(
    table: pa.Table, train: Indices, test: Indices, params: Params, workers: Workers
) -> tuple[Indices, int]:
    """Return the rows `train` that copy none of the rows `test`, and the number of those that do."""
    if not len(train) or not len(test):
        return train, 0
    near = (params.corpus.near_duplicate_bits, params.corpus.near_duplicate_correlation)
    clean = decontaminate(table.take(pa.array(train)), table.take(pa.array(test)), FACES, *near, workers)
    return train[clean], int((~clean).sum())


def fold_numbers(pool: pa.Table, label: Indices, p: SplitSettings) -> Folds:
    """Return the fold of every row, by split.fold_by; `label` are the rows' classes."""
    if p.fold_by == "class":
        return folds_of_classes(label.tolist(), p.folds, p.fold_seed)
    if p.fold_by == "official":
        return official_folds(pool["truth"].to_pylist(), p.folds)
    if p.fold_by == "image":
        return folds_of_images(pool.num_rows, p.folds, p.fold_seed)
    named = zip(pool["source"].to_pylist(), pool["identity"].to_pylist(), strict=True)
    return folds_of_people([name and f"{source}/{name}" for source, name in named], p.folds, p.fold_seed)


def recorded(p: SplitSettings) -> dict[str, Any]:
    """Return the settings that decide this split, without those that are off, so that new settings keep old hashes."""
    idle = {"per_class_shortage"}  # decides whether there is a split, not which
    idle |= {name for name in ("label_noise", "redraw_for_semi") if not getattr(p, name)}
    idle |= {"flagged"} if p.flagged == "keep" else set()
    idle |= {"fold", "folds", "fold_by", "fold_seed"} if p.fold is None else set()
    idle |= {"bare_faces"} if p.bare_faces == "tables" else set()
    return p.model_dump(exclude=idle)
