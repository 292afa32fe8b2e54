"""How many images of each class a run can have, counted from file names and tables, without reading images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError, shortened
from ssfer.core.files import project_root
from ssfer.core.labels import classes_of
from ssfer.core.places import FACES, RAW
from ssfer.data.folds import check_folds
from ssfer.data.split import check_members
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import absent_sources, open_source
from ssfer.datasets.shared.import_caps import capped
from ssfer.formats.manifest import EVALUATED, MANIFEST_NAME, read_manifest
from ssfer.rendered.expressions import RENDERED
from ssfer.rendered.settings import SYNTHETIC

Row = tuple[str | None, str]  # label, usage


@dataclass(frozen=True)
class LabelCounts:
    """Upper bounds of what can take part: some images may be damaged, without a face, or copies of others.

    Args:
        train: training images by class, in the classes' order.
        test: images of the test part.
        images: all images known.
        corpus_images: those that can enter the corpus; None: not known.
    """

    train: Mapping[str, int]
    test: int
    images: int
    corpus_images: int | None = None

    def check(self, params: Params) -> None:
        """Refuse a run without a test part, or with a class of which there is no training image.

        Raises:
            SsferError: see above.
        """
        p = params.split
        check_members(self.train, self.test if p.fold is None else 1)  # a fold is a test part
        if p.fold is not None and p.fold_by in ("image", "class"):
            check_folds(sum(self.train.values()), p.folds)


def count_labels(params: Params) -> LabelCounts | None:
    """Return the counts; None if neither raw data nor crops are here (they are in DVC's cache or remote).

    Raises:
        SsferError: a source is missing or does not match its settings, or no labels are found.
    """
    raw = RAW / params.data.raw
    if not params.data.raw or Path(params.data.raw).is_absolute() or ".." in Path(params.data.raw).parts:
        raise SsferError(f"data.raw: expected a folder below {RAW}, found '{shortened(params.data.raw)}'")
    if params.data.raw == SYNTHETIC:
        if own := [source.name for source in params.data.sources if source.kind != "rendered"]:
            raise SsferError(
                f"data.raw {SYNTHETIC} is the demo's folder, which stage generate replaces by rendered faces, but "
                f"source '{own[0]}' is not rendered; move the data to another folder of {RAW} and name it in data.raw"
            )
        return _rendered(params)
    if not raw.exists() and (project_root() != Path.cwd() or Path("dvc.lock").exists()):
        return None
    absent = [source.name for source in absent_sources(params.data.sources, raw)]
    rows: list[Row] = []
    unlabeled = 0
    for source in params.data.sources:
        if source.name in absent:
            continue
        if Path(source.path).is_absolute() or ".." in Path(source.path).parts:
            raise SsferError(
                f"source '{source.name}': expected a path below {raw}, found {shortened(source.path)}, where DVC would "
                "not see changes; link the data set there"
            )
        if source.labeled:
            rows += _rows(source, raw, params.data.max_missing)
        elif not _is_there(source, raw):
            raise SsferError(
                f"source '{source.name}' expects its data at {raw / source.path}, found nothing there; put the data "
                "set there, or change its 'path' in params.yaml"
            )
        else:
            unlabeled += 1
    found = _counts(Counter(rows), params)
    known = sum(usage not in EVALUATED for _, usage in rows)  # at most: not all of them need feed the corpus
    return LabelCounts(found.train, found.test, len(rows), None if unlabeled else known)


def _is_there(source: SourceSettings, raw: Path) -> bool:
    return (raw / source.path).exists() or (FACES / source.name / MANIFEST_NAME).exists()


def _rows(source: SourceSettings, raw: Path, max_missing: float) -> list[Row]:
    """Return label and usage of every image of a labeled source; of its crops if the raw data is gone."""
    if not (raw / source.path).exists() and _is_there(source, raw):
        table = read_manifest(FACES / source.name).select(["label", "usage"])
        return list(zip(table["label"].to_pylist(), table["usage"].to_pylist(), strict=True))
    return [(record.label, record.usage) for record in capped(open_source(source, raw, max_missing).records(), source)]


def _rendered(params: Params) -> LabelCounts:
    """Return the counts of what stage generate renders; it renders the expressions in turn."""
    p, kinds = params.generate, len(RENDERED)
    rows: Counter[Row] = Counter(
        {(name, usage): (n + kinds - 1 - k) // kinds for usage, n in (("train", p.train), ("test", p.test))
         for k, name in enumerate(RENDERED)}
    )  # fmt: skip
    found = _counts(rows, params)
    return LabelCounts(found.train, found.test, p.train + p.test + p.people, p.train + p.people)


def _counts(by_usage: Counter[Row], params: Params) -> LabelCounts:
    present = {label for (label, usage), n in by_usage.items() if label and n and usage == "train"}
    classes = params.data.class_list or classes_of(present)
    train = {name: by_usage[name, "train"] for name in classes}
    return LabelCounts(train, sum(by_usage[name, "test"] for name in classes), 0)
