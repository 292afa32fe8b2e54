"""Photos of people, one folder per identity (LFW, CASIA-WebFace, VGGFace2), as a folder or a zip; no labels."""

from __future__ import annotations

from pathlib import Path

from ssfer.errors import SsferError
from ssfer.images import EXTENSIONS
from ssfer.sources.base import RawRecord
from ssfer.sources.photo_archive import PhotoArchive


class IdentitySource(PhotoArchive):
    """Every image below the path; its identity is the name of the folder it lies in (none directly below the path)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._records = [RawRecord(str(name), identity=name.parent.name or None) for name in self._photos]
        if not self._photos:
            raise SsferError(
                f"expected one folder of photos ({', '.join(EXTENSIONS)}) per person in {path}, found "
                f"{self.dropped['not_an_image']} files and no photo among them"
            )
