"""Adience (Eidinger et al. 2014): fold_0_data.txt to fold_4_data.txt beside the photos in aligned/ or faces/.

The five tab-separated files name photos, age groups and genders; they are the official folds, which share no person.
One fold tests, the other four train. fold_frontal_*_data.txt repeat the frontal photos and are not read. Each photo's
fold is stored as {"fold": 2} in the manifest's column `truth`, so any can be the test part (split.fold_by: official).

Ages are written as a range, "(25, 32)", or as a single year, "35". The label is the group that contains the year or the
middle of the range, else the nearest group. So (8, 12) is 8-13, and the other ranges that are not groups are: (27, 32)
25-32, (38, 42) and (38, 48) 38-43, (8, 23) 15-20. Two single years in the files are halfway between groups and are
assigned as in other work: 3 to 0-2, 35 to 38-43.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import ADIENCE_AGES, ADIENCE_GENDERS
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.archives import Archive, open_archive
from ssfer.datasets.shared.label_files import columns, open_member, refuse_most_missing, text_lines
from ssfer.datasets.shared.photo_archive import ArchiveSource

FOLDS = tuple(f"fold_{i}_data.txt" for i in range(5))
_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_PREFIXES = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}
_GENDERS: dict[str, str | None] = {"f": ADIENCE_GENDERS[0], "m": ADIENCE_GENDERS[1], "u": None, "": None}
_AGE = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)|(\d{1,3})")
_BETWEEN = {3.0: "0-2", 35.0: "38-43"}


def age_group(text: str) -> str | None:
    """Return the age group of a value of the column `age`; None if the age is not known.

    Raises:
        ValueError: neither a group nor a year.
    """
    if text in ("", "None"):
        return None
    match = _AGE.fullmatch(text)
    if not match:
        raise ValueError(text)
    years = float(match[3]) if match[3] else (int(match[1]) + int(match[2])) / 2
    return _BETWEEN.get(years) or min(ADIENCE_AGES, key=lambda group: _distance(years, group))


def _distance(years: float, group: str) -> float:
    low, high = map(int, group.split("-"))
    return max(low - years, years - high, 0.0)


@dataclass(frozen=True)
class _Row:
    path: str  # below aligned or faces
    user: str
    age: str
    gender: str
    fold: int
    where: str


class AdienceSource(ArchiveSource):
    """The rows of the five folds that have the chosen attribute; the identity is the user, whose album it is."""

    title = "Adience"
    terms = (
        "Adience: research only, after registration with the authors, under the terms of the user's own copy. "
        "Not passed on here."
    )
    rank = 60

    class Settings(SourceSettings):
        """Keys of this kind."""

        attribute: Literal["age", "gender"] = Field("age", description="Which label.")
        fold: Annotated[int, Field(ge=0, le=4)] = Field(
            0, description="The official fold that is tested on; the other four train."
        )
        images: Literal["aligned", "faces"] = Field("aligned", description="Folder with the photos.")

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: any of the fold files."""
        return any(PurePosixPath(n).name in FOLDS for n in names if n.endswith("_data.txt"))

    def __init__(self, path: Path, settings: Settings) -> None:
        attribute, fold, images = settings.attribute, settings.fold, settings.images
        self.dropped: Counter[str] = Counter()
        self._archive = open_archive(path)
        self.variant = f"Adience, {attribute}, {images} photos, tested on fold {fold}"
        rows = [
            row for name, i in _fold_files(self._archive) for row in _read_fold(path, self._archive, name, i, images)
        ]
        self._records: list[RawRecord] = []
        seen: set[str] = set()
        for row in rows:
            label = _label(row, attribute)
            if row.path in seen:
                self.dropped["duplicate_row"] += 1
            elif label is None:
                self.dropped[f"no_{attribute}"] += 1
            else:
                usage = "test" if row.fold == fold else "train"
                truth = json.dumps({"fold": row.fold})
                self._records.append(RawRecord(row.path, label=label, usage=usage, identity=row.user, truth=truth))
            seen.add(row.path)
        self._place = self._find_photos(images, [r.path for r in self._records])
        self.notes = _notes(rows, self._records)

    def _find_photos(self, images: str, photos: Sequence[str]) -> str:
        """Return the prefix of folder `images` among the files; note missing photos and refuse if most are missing."""
        names = self._archive.names()
        matches = (re.match(rf"((?:[^/]+/)*?){images}/", n) for n in names)
        places = sorted({m[1] for m in matches if m})
        if len(places) != 1:
            raise SsferError(
                f"expected one folder '{images}' with the photos in {self._archive.label}, found {len(places)}; unpack "
                f"{images}.tar.gz there, or choose other 'images' ({', '.join(_PREFIXES)})"
            )
        there = set(names)
        self.missing = [p for p in photos if places[0] + p not in there]
        refuse_most_missing(f"{self._archive.label}: {FOLDS[0]} to {FOLDS[-1]}", len(photos), self.missing)
        return places[0]


def _fold_files(archive: Archive) -> list[tuple[str, int]]:
    files = {PurePosixPath(n).name: n for n in archive.names() if PurePosixPath(n).name in FOLDS}
    total = sum(PurePosixPath(n).name in FOLDS for n in archive.names())
    if len(files) != len(FOLDS) or total != len(FOLDS):
        raise SsferError(
            f"expected {FOLDS[0]} to {FOLDS[-1]}, each once, in {archive.label}, found "
            f"{', '.join(sorted(files)) or 'none of them'}{f' in {total} files' if total > len(files) else ''}; copy "
            "all five there"
        )
    return [(files[name], i) for i, name in enumerate(FOLDS)]


def _read_fold(path: Path, archive: Archive, name: str, fold: int, images: str) -> Iterator[_Row]:
    where = f"{archive.label}: {name}"
    with open_member(path, archive, name) as file:
        lines = text_lines(file, where)
        header = next(lines, (0, ""))[1].split("\t")
        user, image, face, age, gender = columns(header, _COLUMNS, where)
        for number, line in lines:
            cells = [c.strip() for c in line.split("\t")]
            if len(cells) < len(_COLUMNS) or len(cells) > len(header):
                raise SsferError(
                    f"{where}, line {number}: expected {len(header)} tab-separated columns, found {len(cells)}; copy "
                    "the file again"
                )
            photo = f"{images}/{cells[user]}/{_PREFIXES[images]}.{cells[face]}.{cells[image]}"
            yield _Row(photo, cells[user], cells[age], cells[gender], fold, f"{where}, line {number}")


def _label(row: _Row, attribute: str) -> str | None:
    if attribute == "gender":
        if row.gender.lower() not in _GENDERS:
            raise unknown_name(f"gender ({row.where})", row.gender, [g for g in _GENDERS if g])
        return _GENDERS[row.gender.lower()]
    try:
        return age_group(row.age)
    except ValueError as error:
        raise SsferError(f"{row.where}: expected an age like '(25, 32)' or '35', found '{row.age[:40]}'") from error


def _notes(rows: Sequence[_Row], records: Sequence[RawRecord]) -> list[str]:
    notes = [
        f"the fold files list {len(rows):,} photos of {len({r.user for r in rows}):,} people; about 26,600 of 2,284 "
        "are published for the whole set, which is not checked"
    ]
    parts = [{r.identity for r in records if r.usage == usage} for usage in ("train", "test")]
    if both := parts[0] & parts[1]:
        notes.append(f"{len(both):,} people are in training and test, expected none with the official folds")
    return notes
