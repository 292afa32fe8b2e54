"""Suggest settings for a data set: its entry of `data.sources`, its classes, and its place in data/raw."""

import math
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssfer.core import images
from ssfer.core.errors import SsferError, printable
from ssfer.core.labels import CLASS_SETS, sorted_classes
from ssfer.data.settings import SplitSettings
from ssfer.datasets.base import MAX_MISSING, RawRecord, Source
from ssfer.datasets.settings import AUTO
from ssfer.doctor.data_sets import Labels, Opened, identify, open_place, short_names
from ssfer.doctor.empty_folders import empty_folders
from ssfer.doctor.scan import MAX_PIXELS
from ssfer.doctor.tables import table_remarks
from ssfer.rendered.settings import SYNTHETIC
from ssfer.train.settings import PretrainSettings

_SAMPLE = 20  # photos whose sizes are checked
_FEW_BATCHES = 4  # of pretraining: a folder with fewer in an epoch gets a smaller batch
_SHOWN_CLASSES = 20
_CROP_SIDE = 128  # square photos up to this size are face crops, not scenes


class Use(NamedTuple):
    """How a data set is used in a project.

    Attributes:
        place: folder or file to which `data/raw/<raw>`, or a file in it, must link.
        raw: name for `data.raw`.
        settings: sections of params.yaml; without a test part a fifth of each class's photos becomes one.
        unreadable: why none of the photos that were read can be decoded; "" if one can.
        remarks: sentences for the user.
    """

    place: Path
    raw: str
    settings: dict[str, dict[str, Any]]
    unreadable: str
    remarks: tuple[str, ...]


def use_of(opened: Opened) -> Use | None:
    """Return how to use an opened data set; None for one without labels, and for a source of a project."""
    if opened.source is None or opened.settings is None or opened.place.settings is not None:
        return None
    records, path = opened.source.records(), Path(opened.settings.path)
    if not any(record.label for record in records):
        return None
    folder = path if path.is_dir() else path.parent
    place = path if zipfile.is_zipfile(path) else folder  # other files come with what lies beside them
    raw = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_") or "own"
    raw = f"own-{raw}" if raw == SYNTHETIC else raw
    form = opened.settings.model_dump(
        mode="json", exclude_defaults=True, exclude={"name", "kind", "path", "labeled", "align", "counts"}
    )
    entry = {"name": raw, "kind": opened.place.kind, "path": "." if path.is_dir() else path.name, **form}
    sample = records[:: max(1, len(records) // _SAMPLE)]
    sizes, statuses = _sizes(opened.source, sample)
    crops = not any(record.face for record in records) and _are_crops(sizes)
    entry |= {"labeled": True, "align": "resize" if crops else "similarity"}
    if any(count.expected != count.found for count in opened.source.counts()):
        entry["counts"] = "any"
    kind = opened.place.kind
    classes = kind if kind in CLASS_SETS else AUTO
    settings: dict[str, dict[str, Any]] = {"data": {"raw": raw, "classes": classes, "sources": [entry]}}
    if crops:  # detectors miss faces in them
        settings["corpus"] = {"keep_undetected": True, "min_side": 0}
    has_test = any(record.usage == "test" for record in records)
    training = sum(record.usage != "test" for record in records) * (1 if has_test else 0.8)  # else a fifth is for tests
    remarks = [_classes(records), *opened.source.notes, *table_remarks(path, kind, opened.source)]
    remarks += empty_folders(path, records) if kind == "class_folders" else []
    tested, trained = ({r.label for r in records if r.label and r.usage == usage} for usage in ("test", "train"))
    untrained = sorted(tested - trained)
    if untrained and classes == AUTO:
        named = ", ".join(
            [*map(printable, untrained[:_SHOWN_CLASSES]), *(["..."] if untrained[_SHOWN_CLASSES:] else [])]
        )
        remarks.append(
            f"WARNING: no training photo shows {named}, so a run leaves out the test photos of it; if a "
            "name is misspelled, correct it first"
        )
    if (missing := len(opened.source.missing)) > MAX_MISSING * len(records):
        settings["data"]["max_missing"] = math.ceil(100 * missing / len(records)) / 100
        remarks.append(
            f"WARNING: {missing:,} of the {len(records):,} listed photos are missing; data.max_missing is set so that "
            "a run goes on without them, but complete the data first if you can"
        )
    if crops:
        remarks.append(
            "the photos are small squares of one size, so they are taken for face crops, in which nothing is detected; "
            "if they are none, set align: similarity at the source in params.yaml"
        )
    if all(record.label for record in records):
        remarks.append(
            f"a run takes the labels of {SplitSettings().labeled_fraction:.0%} of the photos, and the others as "
            "unlabeled ones; to use all labels, set split.labeled_fraction: 1.0"
        )
    else:
        settings["split"] = {"labeled_fraction": 1.0}  # the photos without a label are the unlabeled ones
    if training < _FEW_BATCHES * PretrainSettings().batch_size:
        batch = max(2, 2 ** math.floor(math.log2(max(1, training / _FEW_BATCHES))))
        settings["pretrain"] = {"batch_size": batch}
        remarks.append(f"few photos: pretrain.batch_size is {batch}, for at least {_FEW_BATCHES} steps an epoch")
    if "counts" in entry:
        remarks.append(f"{opened.source.variant} has not the published number of images; ssfer doctor lists them")
    if not has_test:
        settings.setdefault("split", {}).update({"fold": 0, "fold_by": "class"})
        remarks.append("the data has no test part, so split.fold: 0 takes a fifth of each class's photos as one")
    return Use(place, raw, settings, "" if sizes else _unreadable(path, sample, statuses), tuple(remarks))


def use_of_path(path: Path, kind: str | None = None, labels: Labels | None = None) -> Use:
    """Return how to use the data set at a path.

    Args:
        path: a folder, zip or table.
        kind: of the data set, instead of recognizing it.
        labels: word -> class name, of a table or class folders; null leaves its photos out.

    Raises:
        SsferError: nothing there, not recognized, several data sets, damaged, without labels or readable photos.
    """
    places, _ = identify([path], kind)
    if len(places) > 1:
        shown = ", ".join(place.shown for place in places)
        raise SsferError(f"{path} holds {len(places)} data sets ({shown}); name one of them")
    opened = open_place(places[0], short_names(places)[0], labels)
    if opened.source is None:
        raise SsferError(opened.problem)
    if (found := use_of(opened)) is None:
        tables = "".join(f"; {remark}" for remark in table_remarks(places[0].path, places[0].kind, opened.source))
        raise SsferError(
            f"{path} has no labels ({opened.source.variant}), but a run is about labeled faces; if its folders are "
            "classes, add --kind class_folders; else list the photos in a csv file with the columns path and label"
            f"{tables}"
        )
    classes = {record.label for record in opened.source.records() if record.label}
    if len(classes) < 2:
        raise SsferError(f"{path} has one class only, {', '.join(classes)}; expected two or more")
    if found.unreadable:
        raise SsferError(found.unreadable)
    return found


def _classes(records: Sequence[RawRecord]) -> str:
    """Return a sentence with the classes and how many photos each has, at most twenty classes."""
    training = Counter(record.label for record in records if record.label and record.usage != "test")
    test = Counter(record.label for record in records if record.label and record.usage == "test")
    names = sorted_classes({*training, *test})
    shown = [f"{name} {training[name]:,}" + (f" + {test[name]:,}" if test else "") for name in names[:_SHOWN_CLASSES]]
    more = [f"{len(names) - len(shown):,} more"] if len(names) > len(shown) else []
    return f"{len(names):,} classes ({'training + test' if test else 'training'} photos): {', '.join([*shown, *more])}"


def _sizes(source: Source, records: Sequence[RawRecord]) -> tuple[set[tuple[int, int]], set[str]]:
    """Return the sizes of the photos that can be used, and why others cannot."""
    sizes, statuses = set(), set()
    for record in records:
        try:
            found = images.decode(source.read(record), MAX_PIXELS)
        except Exception:  # a damaged photo says nothing about the others
            statuses.add("unreadable")
            continue
        if found.image is not None:
            sizes.add(found.image.size)
        else:
            statuses.add(found.status)
    return sizes, statuses


def _are_crops(sizes: set[tuple[int, int]]) -> bool:
    """Return whether photos look like face crops that need no detection: small, square, all of one size."""
    return len(sizes) == 1 and all(w == h <= _CROP_SIDE for w, h in sizes)


def _unreadable(path: Path, records: Sequence[RawRecord], statuses: set[str]) -> str:
    names = [record.path for record in records]
    if statuses <= {"too_small", "too_large"}:
        return (
            f"expected photos of at least {images.MIN_SIDE} pixels on each side and at most {MAX_PIXELS:,} in all in "
            f"{path}, but none of the {len(names):,} files that were read has that size; use other copies of them"
        )
    return images.undecodable(names) or (
        f"expected photos in {path}, but none of the {len(names):,} files that were read can be decoded, such as "
        f"'{printable(names[0], '')}'; replace the damaged files (ssfer doctor names them)"
    )
