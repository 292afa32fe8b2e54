"""FERPlus as exported by its authors' script: FER2013Train, FER2013Valid and FER2013Test, each a folder or a zip.

Each part holds 48x48 grey PNG files and a headerless `label.csv`: image name, "(0, 0, 48, 48)", ten votes in the order
of `ssfer.labels.FERPLUS_VOTES`. Label rule (SSFER specification 2.2, verified there to the image): the largest of all
ten votes, the first column winning ties; images whose winner is `unknown` or `NF`, and rows without a name, are left
out. Train trains; Valid and Test together test. FERPlus's own majority rule is another one and keeps fewer images.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ssfer.errors import SsferError
from ssfer.labels import EXPRESSIONS, FERPLUS_VOTES
from ssfer.sources.archives import Archive, open_archive
from ssfer.sources.base import RawRecord

PARTS = {"FER2013Train": "train", "FER2013Valid": "test", "FER2013Test": "test"}
LABELS = "label.csv"
_COLUMNS = 2 + len(FERPLUS_VOTES)


class FerPlusSource:
    """The parts found below a folder, or inside one zip that holds the part folders."""

    def __init__(self, path: Path) -> None:
        self.dropped: Counter[str] = Counter()
        self._parts: dict[str, tuple[Archive, str]] = {}  # part -> archive, prefix of its members
        for part in PARTS:
            found = _find(path, part)
            if found:
                self._parts[part] = found
        if "FER2013Train" not in self._parts:
            raise SsferError(
                f"expected FER2013Train (a folder or FER2013Train.zip) in {path}, found "
                f"{', '.join(self._parts) or 'no part of FERPlus'}; copy it there (the parts are {', '.join(PARTS)})"
            )
        self._records = [record for part in self._parts for record in self._read_part(part)]

    def records(self) -> list[RawRecord]:
        return self._records

    def read(self, record: RawRecord) -> bytes:
        archive, name = self._locate(record)
        return archive.read(name)

    def stamp(self, record: RawRecord) -> str:
        archive, name = self._locate(record)
        return archive.stamp(name)

    def _locate(self, record: RawRecord) -> tuple[Archive, str]:
        part, _, name = record.path.partition("/")
        archive, prefix = self._parts[part]
        return archive, prefix + name

    def _read_part(self, part: str) -> Iterator[RawRecord]:
        archive, prefix = self._parts[part]
        names = set(archive.names())
        if prefix + LABELS not in names:
            raise SsferError(
                f"expected {LABELS} with the FERPlus votes in {archive.label}, found none among {len(names)} files; "
                "run FERPlus's generate_training_data.py or copy the file there"
            )
        where = f"{archive.label}: {prefix}{LABELS}"
        rows = list(_rows(archive.read(prefix + LABELS), where))
        missing = [name for _, name, _ in rows if name and prefix + name not in names]
        if missing:
            raise SsferError(
                f"{where} lists {len(rows)} images, {len(missing)} of them are missing, the first is '{missing[0]}'; "
                "the export is incomplete, make it again"
            )
        seen: set[str] = set()
        for line, name, votes in rows:
            if name in seen:
                raise SsferError(f"{where}, line {line}: image '{name}' is listed twice, expected once")
            winner = FERPLUS_VOTES[votes.index(max(votes))]
            if not name or winner not in EXPRESSIONS or not any(votes):
                self.dropped["no_name" if not name else winner if any(votes) else "no_votes"] += 1
                continue
            seen.add(name)
            yield RawRecord(f"{part}/{name}", label=winner, usage=PARTS[part], votes=votes)


def _find(path: Path, part: str) -> tuple[Archive, str] | None:
    """Return the archive that holds a part and the prefix of its members, or None when the part is absent."""
    if path.is_dir():
        places = [p for p in (path / part, path / f"{part}.zip") if p.exists()]
        if len(places) > 1:
            raise SsferError(f"expected {part} once in {path}, found a folder and a zip; remove one of them")
        if not places:
            return None
        archive = open_archive(places[0])
        # Zips contain the part's folder or only its content, depending on who packed them.
        inner = any(name.startswith(f"{part}/") for name in archive.names())
        return archive, f"{part}/" if inner else ""
    archive = open_archive(path)
    prefixes = {n[: n.index(f"{part}/")] for n in archive.names() if n.startswith(f"{part}/") or f"/{part}/" in n}
    if len(prefixes) > 1:
        raise SsferError(f"expected one folder {part} in {path}, found {len(prefixes)}; repack the archive")
    return (archive, f"{prefixes.pop()}{part}/") if prefixes else None


def _rows(data: bytes, where: str) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Yield (line number, image name, ten votes) of a label file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SsferError(f"{where} is not a text file; expected {_COLUMNS} comma-separated columns") from error
    lines = csv.reader(text.splitlines())
    for line, row in enumerate(lines, start=1):
        if not row:
            continue
        if len(row) != _COLUMNS:
            raise SsferError(
                f"{where}, line {line}: expected {_COLUMNS} columns (name, box, {len(FERPLUS_VOTES)} votes), found "
                f"{len(row)}; FERPlus label.csv has no header"
            )
        try:
            votes = tuple(int(v) for v in row[2:])
        except ValueError:
            votes = ()
        if not votes or min(votes) < 0 or max(votes) > 1000:
            raise SsferError(f"{where}, line {line}: expected ten counts of votes, found {', '.join(row[2:])[:60]}")
        yield line, row[0].strip(), votes
