"""CelebA (Liu et al. 2015): img_align_celeba/000001.jpg, as a folder or as img_align_celeba.zip, beside its text files.

`identity_CelebA.txt` ("000001.jpg 2880" per photo) gives the identities, if it is present. `list_eval_partition.txt` is
the split for attribute recognition and is not read: no photo has an expression label, so all are unlabeled.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ssfer.core.errors import SsferError
from ssfer.datasets.base import Count, RawRecord, SourceSettings
from ssfer.datasets.shared.archives import Archive, open_archive
from ssfer.datasets.shared.label_files import files_called, open_member, text_lines
from ssfer.datasets.shared.photo_archive import ArchiveSource

IMAGES, IDENTITIES = "img_align_celeba", "identity_CelebA.txt"
_IMAGES, _PEOPLE = 202_599, 10_177
_PHOTO = re.compile(rf"^(?P<place>(?:.*/)?){IMAGES}/\d{{6}}\.(?:jpg|png)$")
_LINE = re.compile(r"(\d{6}\.jpg)\s+(\d{1,9})")


class CelebASource(ArchiveSource):
    """All aligned photos, unlabeled; records are named img_align_celeba/000001.jpg wherever that folder is."""

    title = "CelebA"
    terms = "CelebA: non-commercial research only, under the terms of the user's own copy. Not passed on here."
    rank = 50

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: a photo in img_align_celeba, or img_align_celeba.zip."""
        return any(n.endswith(f"{IMAGES}.zip") or (f"{IMAGES}/" in n and _PHOTO.match(n)) for n in names)

    def __init__(self, path: Path, settings: Settings) -> None:
        around = open_archive(path)
        self._archive, self._place, where = _find_photos(path, around)
        start = f"{self._place}{IMAGES}/"
        inside = [n[len(self._place) :] for n in self._archive.names() if n.startswith(start)]
        photos = [n for n in inside if _PHOTO.match(n)]
        self.dropped = Counter({"not_an_image": len(inside) - len(photos)})
        people = _read_identities(path, around)
        if people is not None:
            unnamed = [n for n in photos if _jpg(n) not in people]
            if unnamed:
                raise SsferError(
                    f"expected an identity of every photo in {IDENTITIES} of {path}, found none of {len(unnamed):,} "
                    f"photos, the first is '{unnamed[0]}'; copy the file again"
                )
        self._records = [RawRecord(n, identity=people[_jpg(n)] if people is not None else None) for n in photos]
        self._with_people = people is not None
        self.variant = f"CelebA, aligned photos in a {where}, {'with' if self._with_people else 'without'} identities"
        self.notes = [] if self._with_people else [f"without {IDENTITIES} no photo has an identity"]

    def counts(self) -> list[Count]:
        """See `Source.counts`; identities only where they are known."""
        counts = [Count("all", "images", _IMAGES, len(self._records))]
        if self._with_people:
            counts.append(Count("all", "identities", _PEOPLE, len({r.identity for r in self._records})))
        return counts


def _find_photos(path: Path, around: Archive) -> tuple[Archive, str, str]:
    """Return the archive with the photos, the prefix of its img_align_celeba, and "folder" or "zip"."""
    places = _places(around)
    zips = [n for n in around.names() if PurePosixPath(n).name == f"{IMAGES}.zip"] if path.is_dir() else []
    if len(places) + len(zips) > 1:
        raise SsferError(
            f"expected {IMAGES} once in {path}, found it {len(places) + len(zips)} times "
            f"({', '.join([*(p + IMAGES for p in places), *zips][:3])}); remove all but one"
        )
    if places:
        return around, places[0], "folder" if path.is_dir() else "zip"
    if zips:
        inner = open_archive(path / zips[0])
        places = _places(inner)
        if len(places) == 1:
            return inner, places[0], "zip"
    raise SsferError(
        f"expected CelebA's photos as {IMAGES}/000001.jpg or {IMAGES}.zip in {path}, found none among "
        f"{len(around.names())} files"
    )


def _places(archive: Archive) -> list[str]:
    matches = (_PHOTO.match(n) for n in archive.names() if f"{IMAGES}/" in n)
    return sorted({m["place"] for m in matches if m})


def _jpg(name: str) -> str:
    return f"{PurePosixPath(name).stem}.jpg"  # the text files name jpg files for the png form, too


def _read_identities(path: Path, archive: Archive) -> dict[str, str] | None:
    files = files_called(archive.names(), IDENTITIES)
    if not files:
        return None
    people: dict[str, str] = {}
    where = f"{archive.label}: {files[0]}"
    with open_member(path, archive, files[0]) as file:
        for number, line in text_lines(file, where):
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise SsferError(
                    f"{where}, line {number}: expected '000001.jpg 2880', found '{line[:40]}'; copy the file again"
                )
            if people.setdefault(match[1], match[2]) != match[2]:
                raise SsferError(f"{where}, line {number}: '{match[1]}' has two identities, expected one")
    return people
