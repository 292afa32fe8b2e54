"""The files FERPlus comes in: exported parts with images and `label.csv`, and the table `fer2013new.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.labels import FERPLUS_VOTES
from ssfer.datasets.shared.archives import Archive, open_archive
from ssfer.datasets.shared.fer2013_pixels import part_of_usage
from ssfer.datasets.shared.label_files import columns, csv_rows, files_called, open_member

PARTS = ("FER2013Train", "FER2013Valid", "FER2013Test")
LABELS, NEW_LABELS = "label.csv", "fer2013new.csv"
_COLUMNS = 2 + len(FERPLUS_VOTES)


@dataclass(frozen=True)
class VoteRow:
    """One row of a label file; `name` is empty where FERPlus found no face, `where` names file and line."""

    part: str
    name: str
    votes: tuple[int, ...]
    where: str


class Export:
    """Parts as the authors' script writes them, each a folder or a zip; read by <part>/<image name>."""

    def __init__(self, parts: Mapping[str, tuple[Archive, str]]) -> None:
        self._parts = parts  # part -> archive, prefix of its members
        self._names = {part: set(archive.names()) for part, (archive, _) in parts.items()}

    @staticmethod
    def find(path: Path) -> dict[str, tuple[Archive, str]]:
        """Return the parts at `path`: a folder or zip that holds them, or one of them itself."""
        if path.is_file() and path.suffix == ".csv":
            return {}
        found = {part: place for part in PARTS if (place := _find(path, part))}
        name = path.name.removesuffix(".zip")
        if not found and name in PARTS:
            found[name] = (open_archive(path), "")
        return found

    @property
    def parts(self) -> list[str]:
        """The parts that exist, in the order of PARTS."""
        return list(self._parts)

    def has_images(self) -> bool:
        """Return whether there is any image; the authors' repository has part folders with only label.csv."""
        return any(name.endswith(".png") for names in self._names.values() for name in names)

    def has(self, part: str, name: str) -> bool:
        """Return whether an image exists."""
        return self._parts[part][1] + name in self._names[part]

    def read(self, path: str) -> bytes:
        """See `Source.read`."""
        archive, name = self._locate(path)
        return archive.read(name)

    def stamp(self, path: str) -> str:
        """See `Source.stamp`."""
        archive, name = self._locate(path)
        return archive.stamp(name)

    def _locate(self, path: str) -> tuple[Archive, str]:
        part, _, name = path.partition("/")
        archive, prefix = self._parts[part]
        return archive, prefix + name

    def labels_of(self, part: str) -> str:
        """Return where a part's label.csv is, for messages."""
        archive, prefix = self._parts[part]
        return f"{archive.label}: {prefix}{LABELS}"

    def label_rows(self, part: str) -> list[VoteRow]:
        """Return the rows of a part's label.csv.

        Raises:
            SsferError: missing or damaged file.
        """
        archive, prefix = self._parts[part]
        if prefix + LABELS not in self._names[part]:
            raise SsferError(
                f"expected {LABELS} with the FERPlus votes in {archive.label}, found none among "
                f"{len(self._names[part])} files; run FERPlus's generate_training_data.py or copy the file there"
            )
        where = self.labels_of(part)
        with open_member(Path(archive.label), archive, prefix + LABELS) as file:
            return list(_label_rows(file.read(), part, where))


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


def find_file(path: Path, names: Sequence[str], what: str) -> Path:
    """Return the one file of `names` at or below a folder; `path` may be the file itself.

    Raises:
        SsferError: none, several, or inside a zip: FER2013's pixels are larger than any file read from a zip.
    """
    if path.name in names and path.is_file():
        return path
    found = [n for name in names for n in files_called(open_archive(path).names(), name)] if path.is_dir() else []
    if len(found) != 1:
        raise SsferError(
            f"expected {what} in {path} as one unpacked file {' or '.join(names)}, found "
            f"{', '.join(found) or 'none'}; {'keep one of them' if found else 'unpack or copy it there'}"
        )
    return path / found[0]


def _label_rows(data: bytes, part: str, where: str) -> Iterator[VoteRow]:
    for line, row in csv_rows(BytesIO(data), where):
        if len(row) != _COLUMNS:
            raise SsferError(
                f"{where}, line {line}: expected {_COLUMNS} columns (name, box, {len(FERPLUS_VOTES)} votes), found "
                f"{len(row)}; FERPlus label.csv has no header"
            )
        yield VoteRow(part, row[0], _votes(row[2:], f"{where}, line {line}"), f"{where}, line {line}")


def read_new_labels(path: Path) -> list[VoteRow]:
    """Return all rows of fer2013new.csv, which lies anywhere in the folder or zip `path`.

    Raises:
        SsferError: missing, there several times, or damaged.
    """
    archive = open_archive(path)
    found = files_called(archive.names(), NEW_LABELS)
    if len(found) != 1:
        raise SsferError(
            f"expected one {NEW_LABELS} with the FERPlus votes in {path}, found {', '.join(found) or 'none'}; "
            f"{'keep one of them' if found else 'copy it there (github.com/microsoft/FERPlus)'}"
        )
    where = f"{path}: {found[0]}"
    with open_member(path, archive, found[0]) as file:
        rows = csv_rows(file, where)
        header = next(rows, (0, [""]))[1]
        at = columns(header, ("Usage", "Image name", *FERPLUS_VOTES), where)
        result = []
        for line, row in rows:
            here = f"{where}, line {line}"
            if len(row) != len(header):
                raise SsferError(f"{here}: expected {len(header)} columns, found {len(row)}")
            usage, name, *votes = (row[i] for i in at)
            result.append(VoteRow(part_of_usage(usage, here), name, _votes(votes, here), here))
    return result


def _votes(fields: Sequence[str], where: str) -> tuple[int, ...]:
    try:
        votes = tuple(int(v) for v in fields)
    except ValueError:
        votes = ()
    if not votes or min(votes) < 0 or max(votes) > 1000:
        raise SsferError(f"{where}: expected ten counts of votes, found {', '.join(fields)[:60]}")
    return votes
