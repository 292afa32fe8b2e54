"""Which columns of a table have paths, labels and usages, by name or else by content, and where its photos are."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import EXPRESSIONS, class_name, is_code
from ssfer.datasets.shared.parts import PARTS, part_word
from ssfer.datasets.shared.table_rows import Rows

PATH, LABEL, USAGE = "path_column", "label_column", "usage_column"
# Usual names of these columns, in lower case.
_NAMES = {
    PATH: (
        "path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path", "img_path",
        "image_name", "img_name", "image name", "imagepath", "imagename", "photo", "picture", "pth", "name",
        "id", "image_id",
    ),
    LABEL: ("label", "labels", "emotion", "emotions", "expression", "class", "class_name", "target", "category"),
    USAGE: ("usage", "split", "part", "partition", "subset", "set", "fold"),
}  # fmt: skip
# Columns of flags that say a part, in lower case.
_FLAGS = ("is_train", "is_training", "is_test", "is_testing", "is_val", "is_valid", "istrain", "istest")
_SAMPLE = 200  # rows that are examined
_LEAST_LISTED = 0.5  # smallest share of the listed photos that must exist, else the table is about other photos


class Listing(NamedTuple):
    """How a table lists photos of a folder or zip.

    Attributes:
        columns: PATH, LABEL and USAGE -> column, those that are known.
        images: folder that its paths are relative to, "." for the archive itself.
        prefix: beginning of its paths that is not part of them.
        photos: names in the archive of those photos that are there, `composed`.
    """

    columns: Mapping[str, str]
    images: str
    prefix: str
    photos: frozenset[str]


def known_columns(header: Sequence[str], rows: Rows) -> dict[str, str]:
    """Return PATH, LABEL and USAGE -> column: the only one with a usual name, else the only one with such cells."""
    cells = {column: [row[column] for _, row in rows if row[column]] for column in header if column}
    found = {}
    for key, names in _NAMES.items():
        fitting = [column for column in cells if cells[column] and _SAYS[key](cells[column])]
        named = [column for column in cells if column.lower() in names]
        if key == USAGE:
            named = [column for column in named if any(map(part_word, set(cells[column])))]
        elif key == LABEL and len(named) > 1:  # a number and a word for each
            named = [column for column in named if not all(map(is_code, cells[column]))]
        elif len(named) > 1:
            named = [column for column in named if column in fitting]
        choice = named or fitting
        usual = [column for column in choice if column.lower() == names[0]]
        if len(choice := choice if len(choice) == 1 else usual) == 1:
            found[key] = choice[0]
    return found


def unused_parts(header: Sequence[str], rows: Rows) -> list[str]:
    """Return sentences about columns that are named as one of parts and have other words in them."""
    said = []
    for column in (column for column in header if column.lower() in _NAMES[USAGE] and header.count(column) == 1):
        words = ", ".join(sorted({row[column] for _, row in rows})[:4])
        said.append(
            f"column {column} is not used: its words ({words}) are no parts such as train and test; to use it, write "
            "them so and name it in usage_column"
        )
    if flags := [column for column in header if column.lower() in _FLAGS]:
        said.append(
            f"column {' and '.join(flags)} is not used; to use it, write the words train and test in a column and name "
            "that in usage_column"
        )
    return said


def listing(
    header: Sequence[str], rows: Rows, photos: Iterable[str], folder: str = ".", part: str | None = None
) -> Listing | None:
    """Return how a table lists photos; None if it has no column of paths, or most of its photos are missing.

    Args:
        header: names of its columns.
        rows: its rows.
        photos: names of the photos in the archive.
        folder: the table's in the archive; of several places of the photos it is the first to be taken.
        part: usage that the table's name says; of several places, that of the same usage is taken.
    """
    columns = known_columns(header, rows)
    if PATH not in columns:
        return None
    listed = [composed(posix(row[columns[PATH]])) for _, row in rows if row[columns[PATH]]]
    photos = frozenset(map(composed, photos))
    by_name: dict[str, list[str]] = defaultdict(list)
    for photo in photos:
        by_name[PurePosixPath(photo).name].append(photo)
    for prefix in _prefixes(listed):
        places: Counter[str] = Counter()
        for path in listed[:: max(1, len(listed) // _SAMPLE)]:
            short = normal(path.removeprefix(prefix))
            places.update(_place(photo, short) for photo in by_name[PurePosixPath(short).name] if _ends(photo, short))
        if places:
            images = max(sorted(places), key=lambda p: (places[p], part_of(p) == part, p == folder))
            names = {normal(f"{images}/{normal(path.removeprefix(prefix))}") for path in listed}
            if len(here := photos & names) >= max(1, _LEAST_LISTED * len(names)):
                return Listing(columns, images, prefix, here)
    return None


def why_not_listed(header: Sequence[str], rows: Rows, photos: Sequence[str]) -> str:
    """Return, as the end of a sentence, why a table with paths and labels lists no photo; "" where it has neither."""
    columns = known_columns(header, rows)
    if PATH not in columns or LABEL not in columns or not photos:
        return ""
    listed = next((row[columns[PATH]] for _, row in rows if row[columns[PATH]]), "")
    plain = PurePosixPath(posix(listed)).stem.lower()
    meant = next((photo for photo in photos if PurePosixPath(photo).stem.lower() == plain), photos[0])
    return f"its column {columns[PATH]} says '{listed[:80]}', which is no photo here; write paths such as {meant}"


def part_of(name: str) -> str | None:
    """Return the usage that the name of a table or folder says by one of its words (train_labels.csv); None: none."""
    words = re.split(r"[\W_]+", PurePosixPath(name).stem)
    found = {PARTS[word] for word in map(part_word, words) if word}
    return found.pop() if len(found) == 1 else None


def posix(written: str) -> str:
    """Return a path as it is written in a table with the separators of POSIX; Windows writes backslashes."""
    return written.replace("\\", "/")


def composed(name: str) -> str:
    """Return a name with each accent and its letter as one character; files from macOS have them apart."""
    return unicodedata.normalize("NFC", name)


def normal(path: str) -> str:
    """Return a path without "." and doubled separators."""
    return str(PurePosixPath(path))


def _ends(photo: str, path: str) -> bool:
    return photo == path or photo.endswith(f"/{path}")


def _place(photo: str, path: str) -> str:
    return photo[: -len(path)].rstrip("/") or "."


def _prefixes(listed: Sequence[str]) -> list[str]:
    """Return beginnings that all paths have: none first, then the shortest."""
    folders = [path.split("/")[:-1] for path in listed]
    common = folders[0] if folders else []
    for parts in folders:
        common = common[: next((i for i, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b), len(parts))]
    return ["", *("/".join(common[:i]) + "/" for i in range(1, len(common) + 1))]


def _are_photos(cells: Sequence[str]) -> bool:
    return sum(cell.lower().endswith(EXTENSIONS) for cell in cells) >= 0.9 * len(cells)


def _are_expressions(cells: Sequence[str]) -> bool:
    return all(class_name(cell) in EXPRESSIONS for cell in set(cells))


def _are_parts(cells: Sequence[str]) -> bool:
    return all(map(part_word, set(cells)))


_SAYS: Mapping[str, Callable[[Sequence[str]], bool]] = {PATH: _are_photos, LABEL: _are_expressions, USAGE: _are_parts}
