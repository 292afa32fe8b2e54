"""Tables of a folder or zip: which of them list its photos, which are used together, and opening them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.core.settings import Section
from ssfer.datasets.base import FileMissing
from ssfer.datasets.shared.archives import UNREADABLE, Archive, open_archive
from ssfer.datasets.shared.table_photos import LABEL, USAGE, Listing, listing, normal, part_of, posix, why_not_listed
from ssfer.datasets.shared.table_rows import ENDINGS, Rows, parse_rows, read_rows

_DEPTH = 2  # folders above a table
_MOST = 50  # most tables that are examined


class TableFile(Section):
    """One table of several."""

    file: str = Field(description="The table, relative to the source.")
    usage: Literal["train", "valid", "test", "none"] | None = Field(
        None, description="Usage of its rows; null: by usage_column."
    )
    images: str = Field(".", description="Folder that its paths are relative to, relative to the source.")


class OpenTable(NamedTuple):
    """A table that was read."""

    where: str  # for sentences
    usage: str | None
    images: str  # folder in the archive that its paths are relative to
    header: list[str]
    rows: Rows


class FoundTable(NamedTuple):
    """A table that lists photos beside it."""

    file: str
    header: list[str]
    rows: Rows
    listing: Listing

    def photo(self, written: str) -> str:
        """Return the name in the archive of a photo as the table writes it."""
        return normal(f"{self.listing.images}/{posix(written).removeprefix(self.listing.prefix)}")

    @property
    def usages(self) -> set[str]:
        """Words of its usage column."""
        column = self.listing.columns.get(USAGE)
        return {row[column] for _, row in self.rows} if column else set()


def is_table(path: Path) -> bool:
    """Return whether a path is a table itself, not a folder or zip that has tables."""
    return not path.is_dir() and not (path.is_file() and zipfile.is_zipfile(path))


def open_tables(
    path: Path, images: str, tables: Sequence[TableFile], columns: Sequence[str]
) -> tuple[Archive, list[OpenTable]]:
    """Return the archive with the photos and the tables of a source.

    Args:
        path: a table, or the folder or zip that holds `tables`.
        images: folder or zip with the photos, relative to the table's folder; each of `tables` has its own.
        tables: empty if `path` is a table.
        columns: names that every table must have.
    """
    if is_table(path):
        if tables:
            raise SsferError(f"{path} is a table itself, expected a folder or zip for 'tables'; take one of them out")
        header, rows = read_rows(path, columns)
        if PurePosixPath(images).is_absolute() or ".." in PurePosixPath(images).parts:
            raise SsferError(f"expected 'images' to be a folder or zip in {path.parent}, found '{images}'; move it")
        return open_archive(path.parent / images), [OpenTable(str(path), None, ".", header, rows)]
    archive = open_archive(path)
    if not tables:
        raise SsferError(f"{path} is no table; name the tables in it in the source's 'tables', or give one as its path")
    opened = []
    for table in tables:
        where = str(path / table.file)
        try:
            data = archive.read(normal(table.file))
        except FileMissing as error:
            raise SsferError(f"expected a table at {where}, found none; correct 'tables' in the source") from error
        except UNREADABLE as error:
            raise SsferError(f"cannot read {where} ({error}); copy or download it again") from error
        opened.append(OpenTable(where, table.usage, table.images, *parse_rows(data, where, columns)))
    return archive, opened


def find_tables(path: Path, archive: Archive, only: Sequence[str] | None = None) -> tuple[list[FoundTable], list[str]]:
    """Return the tables of a folder or zip that list photos of it, and why others cannot be read.

    Args:
        path: the folder or zip.
        archive: the view of it.
        only: names of the tables to look at; None: all.
    """
    names = archive.names()
    photos = [name for name in names if name.lower().endswith(EXTENSIONS)]
    tables = only or [n for n in names if n.lower().endswith(ENDINGS) and n.count("/") <= _DEPTH][:_MOST]
    found, problems = [], []
    for name in tables:
        try:
            header, rows = parse_rows(archive.read(name), str(path / name))
        except SsferError as error:
            problems.append(str(error))
            continue
        except UNREADABLE:
            continue
        folder = PurePosixPath(name).parent
        seen = listing(header, rows, photos, str(folder), _part_of_file(name))
        if seen is None and path.is_dir() and len(tables) == 1:
            seen = _in_zip_beside(path, folder, header, rows)
        if seen is None and (why := why_not_listed(header, rows, photos)):
            problems.append(f"{path / name}: {why}")
        if seen is not None:
            found.append(FoundTable(name, header, rows, seen))
    return found, problems


def _in_zip_beside(path: Path, folder: PurePosixPath, header: list[str], rows: Rows) -> Listing | None:
    """Return how a table lists photos of a zip in its own folder."""
    for zipped in sorted((path / folder).glob("*.zip")):
        try:
            seen = listing(header, rows, open_archive(zipped).names())
        except SsferError:
            continue
        if seen and seen.images == ".":
            return seen._replace(images=normal(f"{folder}/{zipped.name}"))
    return None


def chosen(tables: Sequence[FoundTable]) -> list[TableFile]:
    """Return the tables that are used together: the parts of a data set, or the one that lists most photos.

    Raises:
        SsferError: several list the same photos, and none of them more than the others.
    """
    parts = {table.file: _part_of_file(table.file) for table in tables}
    named = [table for table in tables if parts[table.file] and not table.usages]
    whole = max((len(table.listing.photos) for table in tables), default=0)
    if len({parts[table.file] for table in named}) == len(named) > 1 and (
        len(frozenset().union(*(table.listing.photos for table in named))) >= whole
    ):
        return [_file(table, parts[table.file]) for table in named]
    if not any(a.listing.photos & b.listing.photos for a, b in combinations(tables, 2)):
        alone = len(tables) == 1
        return [_file(t, None if alone or t.usages else parts[t.file]) for t in tables]
    order = sorted(tables, key=_fullness)
    if _fullness(order[-1]) == _fullness(order[-2]):
        shown = ", ".join(f"{table.file} ({len(table.rows):,} rows)" for table in tables)
        raise SsferError(f"{len(tables)} tables list the same photos: {shown}; give the one that is meant")
    return [_file(order[-1], None)]


def _part_of_file(name: str) -> str | None:
    """Return the part that a table's name says, or its folder's."""
    return part_of(name) or part_of(PurePosixPath(name).parent.name)


def _file(table: FoundTable, usage: str | None) -> TableFile:
    return TableFile.model_validate({"file": table.file, "usage": usage, "images": table.listing.images})


def _fullness(table: FoundTable) -> tuple[int, bool, int]:
    return len(table.listing.photos), LABEL in table.listing.columns, len(table.usages)
