"""AffectNet (Mollahosseini, Hasani and Mahoor 2017) in its two official forms.

The first form, whole photos: `Manually_Annotated_Images/<folder>/<hash>.jpg` with `training.csv` and `validation.csv`
(some copies without a header) anywhere below the path; the annotated face box is passed on, so that alignment takes the
face that the label is about. The second form, of 2021, face crops: `<train_set|val_set>/images/<id>.jpg` with one
`annotations/<id>_exp.npy` each (and three more files that are not read). Labels are numbers from 0; 8 none,
9 uncertain and 10 non-face are not expressions. Papers report results on the validation set, so it is the test part.
`Automatically_Annotated*` has unchecked labels and is left out; as unlabeled photos it is a source of its own
(`affectnet_automatic`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import AFFECTNET_CODES, CONTEMPT
from ssfer.datasets.base import Count, RawRecord, SourceSettings, class_counts
from ssfer.datasets.shared.affectnet_table import read_table
from ssfer.datasets.shared.archives import UNREADABLE, open_archive
from ssfer.datasets.shared.label_files import files_called, refuse_most_missing
from ssfer.datasets.shared.npy_scalar import read_integer
from ssfer.datasets.shared.photo_archive import ArchiveSource

IMAGES = "Manually_Annotated_Images/"
TABLES = {"training.csv": "train", "validation.csv": "test"}
SETS = {"train_set": "train", "val_set": "test"}
NOT_EXPRESSIONS = {8: "none", 9: "uncertain", 10: "non_face"}
# In the order of AffectNet's numbers.
TRAIN = dict(zip(AFFECTNET_CODES.values(), (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750), strict=True))
PHOTOS_TEST_PER_CLASS = 500
FACES_TEST = 3_999  # of all eight classes; one image is missing from the form of 2021
_EXPRESSION = re.compile(r"(?P<folder>(?:.*/)?(?P<set>train_set|val_set)/)annotations/(?P<id>[^/]+)_exp\.npy")


class AffectNetSource(ArchiveSource):
    """Images with one of 8 expressions, or of 7 without contempt; record paths are those of the files.

    Raises:
        SsferError: neither form or both, missing images, a damaged table or annotation, an image listed twice.
    """

    title = "AffectNet"
    terms = "AffectNet: research use by the licensed institution only; not to be passed on."
    rank = 20

    class Settings(SourceSettings):
        """Keys of this kind."""

        classes: Literal[7, 8] = Field(8, description="7: contempt is left out, as the 7-class benchmark does.")

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: the folder of annotated photos, its two tables, or any annotation of 2021."""
        if any(f"/{IMAGES}" in f"/{name}" or _EXPRESSION.fullmatch(name) for name in names):
            return True
        return {name.rpartition("/")[2] for name in names} >= TABLES.keys()

    def __init__(self, path: Path, settings: Settings) -> None:
        classes = settings.classes
        self.dropped: Counter[str] = Counter()
        self._path, self._archive, self._classes = path, open_archive(path), classes
        names = self._archive.names()
        automatic = {name for name in names if "/Automatically_Annotated" in f"/{name}"}
        self.dropped["automatically_annotated"] = sum(map(_is_photo, automatic))
        names = [name for name in names if name not in automatic]
        tables = [name for table in TABLES for name in files_called(names, table)]
        expressions = [match for name in names if (match := _EXPRESSION.fullmatch(name))]
        if bool(tables) == bool(expressions):
            raise SsferError(
                f"expected AffectNet in {path}, either {IMAGES} with {' and '.join(TABLES)} or {' and '.join(SETS)} "
                f"with annotations/*_exp.npy, found {'both' if tables else f'neither among {len(names)} files'}; give "
                "the folder that has one of them in it"
            )
        self._faces = bool(expressions)
        self._contempt_tests = 0  # left out of 7 classes, but part of the published number
        if self._faces:
            form = "faces of 2021 (npy)"
            self._records = list(self._cut_out(names, expressions))
        else:
            form = "whole photos (csv)"
            self._records = self._whole_photos(names, tables)
        self.variant = f"AffectNet, {form}, {classes} classes"

    def counts(self) -> list[Count]:
        """See `Source.counts`: images per class; of the 2021 form's test part only their sum is published."""
        kept = [c for c in TRAIN if self._classes == 8 or c != CONTEMPT]
        published = {"train": {c: TRAIN[c] for c in kept}}
        if not self._faces:
            published["test"] = dict.fromkeys(kept, PHOTOS_TEST_PER_CLASS)
            return class_counts(self._records, published)
        found = sum(r.usage == "test" for r in self._records) + self._contempt_tests
        return [*class_counts(self._records, published), Count("test", "images of 8 classes", FACES_TEST, found)]

    def _label(self, code: int, where: str) -> str | None:
        """Return the class, or None after counting why there is none."""
        if code not in AFFECTNET_CODES and code not in NOT_EXPRESSIONS:
            raise SsferError(f"{where}: expected an expression from 0 to {max(NOT_EXPRESSIONS)}, found {code}")
        label = AFFECTNET_CODES.get(code)
        if label is None or (label == CONTEMPT and self._classes == 7):
            self.dropped[label or NOT_EXPRESSIONS[code]] += 1
            return None
        return label

    def _whole_photos(self, names: Sequence[str], tables: Sequence[str]) -> list[RawRecord]:
        for table in TABLES:
            if len(found := files_called(tables, table)) > 1:
                raise SsferError(f"expected one {table} in {self._path}, found {', '.join(found)}; keep one of them")
        # In "/name", "/folder" begins where "folder" begins in "name".
        roots = {n[: at + len(IMAGES)] for n in names if (at := f"/{n}".find(f"/{IMAGES}")) >= 0}
        if len(roots) > 1:
            raise SsferError(f"expected one folder {IMAGES} in {self._path}, found {len(roots)}; keep one of them")
        # Without that folder, its content lies beside the tables.
        root = roots.pop() if roots else tables[0].removesuffix(PurePosixPath(tables[0]).name)
        photos = {n.removeprefix(root) for n in names if n.startswith(root) and _is_photo(n)}
        listed: set[str] = set()
        records = [r for t in tables for r in self._listed(t, root, listed)]
        self.missing = [r.path for r in records if r.path.removeprefix(root) not in photos]
        refuse_most_missing(f"{self._path}: {' and '.join(tables)}", len(records), self.missing)
        self.dropped["not_listed"] = len(photos - listed)
        return records

    def _listed(self, table: str, root: str, listed: set[str]) -> Iterator[RawRecord]:
        usage = TABLES[PurePosixPath(table).name]
        for row in read_table(self._path, self._archive, table):
            if row.name in listed:
                raise SsferError(f"{row.where}: image '{row.name}' is listed twice, expected once")
            listed.add(row.name)
            if not re.fullmatch(r"\d{1,3}", row.expression):
                raise SsferError(f"{row.where}: expected an expression from 0 to 10, found '{row.expression[:40]}'")
            label = self._label(int(row.expression), row.where)
            if label:
                yield RawRecord(root + row.name, label=label, usage=usage, face=row.face)

    def _cut_out(self, names: Sequence[str], expressions: Sequence[re.Match[str]]) -> Iterator[RawRecord]:
        folders = {match["folder"] for match in expressions}
        if len(folders) > len({match["set"] for match in expressions}):
            raise SsferError(
                f"expected each of {' and '.join(SETS)} once in {self._path}, found {', '.join(sorted(folders))}; "
                "keep one of them"
            )
        roots = tuple(f"{folder}images/" for folder in folders)
        photos: dict[str, str] = {}  # <folder>images/<id> -> file name
        for name in names:
            if name.startswith(roots) and _is_photo(name):
                other = photos.setdefault(name.rpartition(".")[0], name)
                if other != name:
                    raise SsferError(f"{self._path}: expected one image per annotation, found '{other}' and '{name}'")
        known: dict[bytes, int] = {}  # most of the many files are copies of the same few
        self.missing = missing = []
        for match in expressions:
            stem = f"{match['folder']}images/{match['id']}"
            code = self._read_expression(match.string, known)
            label = self._label(code, f"{self._path}: {match.string}")
            photo = photos.pop(stem, None)
            if label is None:
                self._contempt_tests += AFFECTNET_CODES.get(code) == CONTEMPT and SETS[match["set"]] == "test"
            else:
                if photo is None:
                    missing.append(photo := f"{stem}.jpg")
                yield RawRecord(photo, label=label, usage=SETS[match["set"]])
        refuse_most_missing(f"{self._path}: annotations", len(expressions), missing)
        self.dropped["not_listed"] = len(photos)

    def _read_expression(self, name: str, known: dict[bytes, int]) -> int:
        try:
            data = self._archive.read(name)
            code = known[data] if data in known else read_integer(data)
        except (ValueError, *UNREADABLE) as error:
            raise SsferError(
                f"{self._path}: expected the number of an expression in {name}, found a file that has none ({error}); "
                "get it again"
            ) from error
        if len(known) < 1000:
            known[data] = code
        return code


def _is_photo(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)
