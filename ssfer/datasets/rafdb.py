"""RAF-DB basic (Li, Deng and Du 2017): seven expressions with its own numbering, aligned and original photos.

The official layout is `basic/EmoLabel/list_patition_label.txt` (sic; "train_00001.jpg 5" per line, numbers from one)
and `basic/Image/aligned/train_00001_aligned.jpg` (100x100) or `basic/Image/original/train_00001.jpg` (any size), each
folder possibly packed as aligned.zip or original.zip. The original photos need `align: similarity`; the aligned ones
may be resized. A third-party copy has <part>/<1 to 7>/train_00001_aligned.jpg instead; its second part may be called
test, valid or otherwise, because the file names tell the part. There is no official validation part.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import Field

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import RAFDB_CODES
from ssfer.datasets.base import Count, RawRecord, Source, SourceSettings, class_counts
from ssfer.datasets.shared.archives import Archive, open_archive
from ssfer.datasets.shared.label_files import files_called, open_member, refuse_most_missing, text_lines
from ssfer.datasets.shared.parts import PARTS

LABELS = "EmoLabel/list_patition_label.txt"
# In the order of RAF-DB's numbers.
PUBLISHED = {
    usage: dict(zip(RAFDB_CODES.values(), numbers, strict=True))
    for usage, numbers in {
        "train": (1290, 281, 717, 4772, 1982, 705, 2524),
        "test": (329, 74, 160, 1185, 478, 162, 680),
    }.items()
}
_IN_CLASS_FOLDER = re.compile(rf"(?:^|/)(?i:({'|'.join(PARTS)}))/([1-7])/((train|test)_\d+(?:_aligned)?\.jpg)$")


class RafDbSource(Source):
    """The photos of `images` ("aligned" or "original"), in the order of the label file.

    Record paths are Image/<images>/<file name> whether or not the folder is packed, in class folders as found.

    Raises:
        SsferError: neither layout, the compound label file, a damaged or double line, missing images, a photo of one
            part in the folder of the other.
    """

    title = "RAF-DB basic"
    terms = "RAF-DB: non-commercial research; images and data derived from them must not be passed on."
    rank = 10

    class Settings(SourceSettings):
        """Keys of this kind."""

        images: Literal["aligned", "original"] = Field(
            "aligned", description="Aligned: 100x100 crops | original: the uncropped photos, with align: similarity."
        )

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: the label file with its misspelled name, or numbered class folders of its photos."""
        return bool(files_called(names, LABELS)) or any(_IN_CLASS_FOLDER.search(name) for name in names)

    def __init__(self, path: Path, settings: Settings) -> None:
        images = settings.images
        self.dropped: Counter[str] = Counter()
        # Record paths begin with `_root` where members of the archive begin with `_prefix`.
        self._archive, self._prefix, self._root = open_archive(path), "", ""
        table = _label_file(self._archive.names(), path)
        if table:
            self.variant = f"RAF-DB basic, {images} images"
            with open_member(path, self._archive, table) as file:
                rows = list(_rows(file, f"{path}: {table}"))
            self._root = f"Image/{images}/"
            self._archive, self._prefix = _image_folder(path, self._archive, table.removesuffix(LABELS) + self._root)
            self._records = self._listed(rows, f"{path}: {table}", images)
        else:
            self.variant = "RAF-DB basic, aligned images in numbered folders of third parties"
            if images != "aligned":
                raise SsferError(
                    f"{path} has RAF-DB's aligned images in numbered folders, expected the {images} ones; set "
                    "'images: aligned', or give the data set as its owner distributes it"
                )
            self._records = list(_in_class_folders(self._archive.names(), path))
            codes = ", ".join(f"{code} {name}" for code, name in RAFDB_CODES.items())
            self.notes = [f"folders are read by RAF-DB's numbers, because its file names are there: {codes}"]

    def counts(self) -> list[Count]:
        """See `Source.counts`: images per class and usage."""
        return class_counts(self._records, PUBLISHED)

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._records

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._archive.read(self._prefix + record.path.removeprefix(self._root))

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._archive.stamp(self._prefix + record.path.removeprefix(self._root))

    def _listed(self, rows: Sequence[tuple[str, int]], where: str, images: str) -> list[RawRecord]:
        ending = "_aligned.jpg" if images == "aligned" else ".jpg"
        files = [name.removesuffix(".jpg") + ending for name, _ in rows]
        here = {n.removeprefix(self._prefix) for n in self._archive.names() if n.startswith(self._prefix)}
        self.missing = [self._root + file for file in files if file not in here]
        refuse_most_missing(where, len(rows), self.missing)
        self.dropped["not_listed"] = sum(PurePosixPath(n).suffix.lower() in EXTENSIONS for n in here.difference(files))
        return [
            RawRecord(self._root + file, label=RAFDB_CODES[code], usage=name.partition("_")[0])
            for file, (name, code) in zip(files, rows, strict=True)
        ]


def _label_file(names: Sequence[str], path: Path) -> str | None:
    """Return the name of the label file; None when there is none but class folders are."""
    found = files_called(names, LABELS)
    # The whole of RAF-DB has a folder `compound` with a label file of the same name.
    found = [n for n in found if len(found) == 1 or f"basic/{LABELS}" in n]
    if len(found) == 1:
        return found[0]
    if not found and any(_IN_CLASS_FOLDER.search(name) for name in names):
        return None
    raise SsferError(
        f"expected one {LABELS} of RAF-DB basic in {path}, found {len(found)} among {len(names)} files; give the "
        "folder or zip 'basic' that has EmoLabel and Image in it"
    )


def _rows(file: BinaryIO, where: str) -> Iterator[tuple[str, int]]:
    """Yield (file name, number of the expression) of the label file."""
    seen: set[str] = set()
    for line, text in text_lines(file, where):
        match = re.fullmatch(r"((\w+)_\d+\.jpg)\s+(\d{1,3})\s*", text)
        if not match or match[2] not in PUBLISHED:
            raise SsferError(
                f"{where}, line {line}: expected 'train_00001.jpg 5' or 'test_0001.jpg 5', found '{text[:60]}'; take "
                "the file as RAF-DB's owner distributes it"
            )
        name, code = match[1], int(match[3])
        if code not in RAFDB_CODES:
            compound = "RAF-DB's compound expressions (1 to 11)" if 8 <= code <= 11 else "no expression"
            raise SsferError(
                f"{where}, line {line}: expected a basic expression from 1 to {max(RAFDB_CODES)}, found {code}, which "
                f"is {compound}; give the folder 'basic' of RAF-DB"
            )
        if name in seen:
            raise SsferError(f"{where}, line {line}: image '{name}' is listed twice, expected once")
        seen.add(name)
        yield name, code


def _image_folder(path: Path, archive: Archive, folder: str) -> tuple[Archive, str]:
    """Return what holds the images and the prefix of their names: the folder, or the zip of that name beside it."""
    names = archive.names()
    if any(name.startswith(folder) for name in names):
        return archive, folder
    packed = folder.rstrip("/") + ".zip"
    if packed not in names:
        raise SsferError(f"expected RAF-DB's images in {path}/{folder} or {packed}, found neither; copy them there")
    if not path.is_dir():
        raise SsferError(f"{path} has {packed} inside, expected no zip in a zip; unpack the outer one")
    inner = open_archive(path / packed)
    own = PurePosixPath(folder).name + "/"
    # Zips contain the folder or only its content, depending on who packed them.
    return inner, own if any(name.startswith(own) for name in inner.names()) else ""


def _in_class_folders(names: Sequence[str], path: Path) -> Iterator[RawRecord]:
    seen: dict[str, str] = {}
    for name in names:
        if PurePosixPath(name).suffix.lower() not in EXTENSIONS:
            continue
        match = _IN_CLASS_FOLDER.search(name)
        if not match:
            raise SsferError(
                f"expected every image of {path} in <train|test>/<1 to 7>/ with a name of RAF-DB, found '{name}'; "
                "take it out"
            )
        folder, code, file, part = match.groups()
        # Copies circulate whose training part has test images.
        if (part == "train") != (PARTS[folder.lower()] == "train"):
            raise SsferError(
                f"{path}: '{name}' is an image of RAF-DB's {part} part in the folder '{folder}'; move it back"
            )
        if file in seen:
            raise SsferError(
                f"{path}: image '{file}' is there twice, as '{seen[file]}' and '{name}'; remove one of them"
            )
        seen[file] = name
        yield RawRecord(name, label=RAFDB_CODES[int(code)], usage=part)
