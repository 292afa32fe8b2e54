"""Decide which tables among photos define the data set, and describe the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssfer.core.errors import SsferError, printable
from ssfer.core.labels import class_name, is_code
from ssfer.datasets.base import Source
from ssfer.datasets.shared.archives import Archive, open_archive
from ssfer.datasets.shared.parts import part_word
from ssfer.datasets.shared.table_files import FoundTable, chosen, find_tables, is_table
from ssfer.datasets.shared.table_photos import LABEL, PATH, USAGE, unused_parts
from ssfer.doctor.unrecognized import SAVE, unread_tables

# Kinds that almost any photos are recognized as, so that a table among them may be more specific.
_BESIDE = (None, "identities", "class_folders")


class Tables(NamedTuple):
    """What the tables of a folder or zip are.

    Attributes:
        place: the table, or the folder or zip when several tables or photos elsewhere belong together; None: no
            table is the data set.
        apart: whether the folder holds several data sets, each with a table of its own.
        zips: names of zips whose photos a table lists.
    """

    place: Path | None = None
    apart: bool = False
    zips: tuple[str, ...] = ()


def tables_at(path: Path, archive: Archive, kind: str | None) -> Tables:
    """Return what the tables of a folder or zip are; `kind` is its kind without them."""
    found = list(_labeled(path, archive)) if kind in _BESIDE else []
    if not found or (kind == "class_folders" and _says_folders(found, archive.names())):
        return Tables()
    zips = tuple(table.listing.images for table in found if table.listing.images.endswith(".zip"))
    tops = {PurePosixPath(table.file).parts[0] for table in found if _has_its_photos(table)}
    if len(tops - {table.file for table in found}) > 1 and not any(map(part_word, tops)):
        return Tables(apart=True)
    try:
        files = chosen(found)
    except SsferError:
        return Tables(path, zips=zips)  # opening it says why
    (first, *more) = files
    alone = next(table for table in found if table.file == first.file)
    return Tables(path / first.file if path.is_dir() and not more and _has_its_photos(alone) else path, zips=zips)


def table_remarks(path: Path, kind: str, source: Source) -> dict[str, str]:
    """Return sentences about the unused tables among a data set's photos, each with its severity.

    Args:
        path: of the data set: a folder, zip or table.
        kind: of the data set.
        source: opened.
    """
    table, folder = (path.name, path.parent) if is_table(path) else ("", path)
    if kind not in (*_BESIDE, "csv") or (table and kind != "csv"):
        return {}
    archive = open_archive(folder)
    found, problems = find_tables(folder, archive)
    if kind == "csv":
        used = {table} if table else {record_file.file for record_file in chosen(found)}
        others = [f"{t.file} ({len(t.rows):,} rows)" for t in found if t.file not in used]
        return {f"not used: {', '.join(others)}, which also list photos of this folder": "info"} if others else {}
    labels = {record.path: record.label for record in source.records()}
    said = dict.fromkeys((_role(found_table, labels) for found_table in found), "info")
    unread = (f"{name} seems to list photos and is not read as a table; {SAVE}" for name in unread_tables(archive))
    severity = "info" if any(labels.values()) else "warning"
    return said | dict.fromkeys([*(f"not read as a table: {p}" for p in problems), *unread], severity)


def _role(table: FoundTable, labels: dict[str, str | None]) -> str:
    columns = table.listing.columns
    lists = (
        f"{table.file} lists {len(table.listing.photos):,} of the {len(labels):,} photos in its column {columns[PATH]}"
    )
    if LABEL not in columns:
        return (
            f"{lists} and is not used: none of its other columns ({', '.join(_others(table)) or 'none'}) is known to "
            "have the labels; if one has them, call it label and give the table"
        )
    if not any(labels.values()):
        return f"{lists} and labels in its column {columns[LABEL]}; to use them, give it instead of the folder"
    agreement = _agreement(table, labels)
    if USAGE in columns:
        parts = [f"its column {columns[USAGE]} says parts and is not used: to use it, give it instead of the folder"]
    else:
        parts = unused_parts(table.header, table.rows)
    said = f"{lists} and is not used, because the folders say the labels: its column {columns[LABEL]} {agreement}"
    return "; ".join([said, *parts])


def _others(table: FoundTable) -> list[str]:
    return [printable(column) for column in table.header if column and column != table.listing.columns[PATH]]


def _agreement(table: FoundTable, labels: dict[str, str | None]) -> str:
    column, path = table.listing.columns[LABEL], table.listing.columns[PATH]
    said = [(labels.get(table.photo(row[path])), class_name(row[column])) for _, row in table.rows if row[column]]
    both = [(folder, name) for folder, name in said if folder is not None]
    if both and all(is_code(name) for _, name in both):
        return "has numbers"
    differ = sum(folder != name for folder, name in both)
    if not differ:
        return "says the same"
    return (
        f"says another label for {differ:,} of {len(both):,} photos; to take the table's, give it instead of the folder"
    )


def _labeled(path: Path, archive: Archive) -> Iterator[FoundTable]:
    for table in find_tables(path, archive)[0]:
        column = table.listing.columns.get(LABEL)
        if column and any(row[column] for _, row in table.rows):
            yield table


def _says_folders(found: Sequence[FoundTable], names: Sequence[str]) -> bool:
    """Return whether the photos' folders are labels, as in the tables."""
    folders = {class_name(folder) for name in names for folder in PurePosixPath(name).parts[:-1]}
    labels = {class_name(row[table.listing.columns[LABEL]]) for table in found for _, row in table.rows} - {""}
    return all(map(is_code, labels)) or not labels.isdisjoint(folders)


def _has_its_photos(table: FoundTable) -> bool:
    """Return whether the photos of a table are in the table's folder."""
    folder, images = str(PurePosixPath(table.file).parent), table.listing.images
    return folder == "." or images == folder or images.startswith(f"{folder}/")
