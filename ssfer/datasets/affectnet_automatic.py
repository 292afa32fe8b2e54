"""AffectNet's automatically annotated half (Mollahosseini, Hasani and Mahoor 2017): photos with unchecked labels.

`Automatically_Annotated_Images/<folder>/<hash>.jpg` and, if it is present, `automatically_annotated.csv` with the face
boxes, which are used as in `affectnet`. The labels come from a network and are not read: the photos are unlabeled.
Photos that the table does not list, and listed images without a photo, are only counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.affectnet_table import Box, read_table
from ssfer.datasets.shared.archives import open_archive
from ssfer.datasets.shared.label_files import files_called
from ssfer.datasets.shared.photo_archive import ArchiveSource

TABLE = "automatically_annotated.csv"
_PHOTO = re.compile(r"^(?P<root>(?:.*/)?Automatically_Annotated_Images/)(?P<name>\d{1,4}/[^/]+)$")


class AffectNetAutomaticSource(ArchiveSource):
    """Unlabeled photos with the box of the face they were chosen for, where the table gives one."""

    title = "AffectNet, automatically annotated"
    terms = "AffectNet: research use by the licensed institution only; not to be passed on."
    rank = 25

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: photos in Automatically_Annotated_Images (`affectnet` is asked first)."""
        return any(_PHOTO.match(name) for name in names)

    def __init__(self, path: Path, settings: Settings) -> None:
        self._archive = open_archive(path)
        names = self._archive.names()
        found = [m for m in map(_PHOTO.match, names) if m and m["name"].lower().endswith(EXTENSIONS)]
        roots = {match["root"] for match in found}
        tables = files_called(names, TABLE)
        if len(roots) != 1 or len(tables) > 1:
            raise SsferError(
                f"expected photos at one Automatically_Annotated_Images/<number>/ in {path} and {TABLE} at most once, "
                f"found {len(roots)} such folders and {len(tables)} tables among {len(names)} files; give the folder "
                "that has them in it"
            )
        boxes: dict[str, Box] = {}
        if tables:
            boxes = {row.name: row.face for row in read_table(path, self._archive, tables[0])}
        listed = [match for match in found if not tables or match["name"] in boxes]
        self._records = [RawRecord(match.string, face=boxes.get(match["name"])) for match in listed]
        self.dropped = Counter({"not_listed": len(found) - len(self._records)})
        self.variant = f"AffectNet, automatically annotated, {'with' if tables else 'without'} face boxes"
        self.notes = ["about half a million photos are published, which is not checked"]
        if missing := len(boxes) - len(self._records):
            self.notes.append(f"{TABLE} lists {missing:,} photos that are not there")
