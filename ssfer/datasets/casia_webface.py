"""CASIA-WebFace (Yi et al. 2014): <7 digits>/<3 digits>.jpg, or insightface's train.rec of faces_webface_112x112.

Cleaned and shortened copies circulate in the same layout; only the original's numbers are checked.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ssfer.datasets.base import Count, SourceSettings
from ssfer.datasets.shared.people import PeoplePhotos, has_records, mostly

_IMAGES, _PEOPLE = 494_414, 10_575
_PHOTO = re.compile(r"(?:^|/)\d{7}/\d{3,}\.jpe?g$", re.IGNORECASE)
_PACKED_FOLDER = re.compile(r"faces_webface_112x112|casia", re.IGNORECASE)


class CasiaWebFaceSource(PeoplePhotos):
    """All photos, unlabeled; the identity is the folder's name, or the number in the .rec file."""

    title = "CASIA-WebFace"
    terms = "CASIA-WebFace: research only, under an agreement with the institute. Not passed on here."
    rank = 80

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: photos in folders of seven digits, or a .rec file in a folder that is named so."""
        if has_records(names):
            return any(_PACKED_FOLDER.search(n) for n in names if n.endswith(".rec"))
        return mostly(names, _PHOTO)

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        if self.packed:
            self.variant = "CASIA-WebFace, insightface .rec file"
            self.notes.append(
                f"{len(self.records()):,} photos of {self.people:,} people; about 490,600 of 10,572 are said to be in "
                "the packed form, which is not checked"
            )
        else:
            self.variant = "CASIA-WebFace, folders"
            self.require(_PHOTO, "<7 digits>/<3 digits>.jpg", path)

    def counts(self) -> list[Count]:
        """The original's numbers; nothing for a .rec file, whose numbers are not published."""
        if self.packed:
            return []
        return [Count("all", "images", _IMAGES, len(self.records())), Count("all", "identities", _PEOPLE, self.people)]
