"""Photos of people without labels: a folder or zip with one folder per person, or train.rec with train.idx.

It is for LFW and similar data sets, and for the sets that insightface packs; `ssfer.datasets.shared.people` reads both.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import Count, SourceSettings
from ssfer.datasets.shared.people import PeoplePhotos, has_records

# LFW as published: every photo is Name/Name_0001.jpg. Incomplete copies circulate, so a set with such names counts as
# LFW only if it has nearly all people.
_LFW_NAME = re.compile(r"(?:^|/)([^/]+)/\1_\d{4}\.jpg$")
_LFW_IMAGES, _LFW_PEOPLE, _LFW_LEAST = 13_233, 5_749, 5_000
# MS1MV1, V2 (faces_emore) and V3 name 85,164, 85,742 and 93,431 people.
_MS1M_PEOPLE = range(84_000, 95_000)
_WEBFACE_PEOPLE = range(10_570, 10_577)

_WORDS = re.compile(r"[^\W\d_]{2,}([ _-][^\W\d_]{2,})*")
_FEW = 20  # up to so many folders could also be classes


class IdentitySource(PeoplePhotos):
    """Photos of people; the identity is the name of the folder a photo lies in (none directly below the path)."""

    title = "photos of people"
    terms = (
        "Photographs of people from a face-recognition data set, used under the terms of the user's own copy "
        "(usually research only). Not passed on here."
    )
    rank = 120

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: any photos in folders, or a .rec file."""
        return has_records(names) or any("/" in n and n.lower().endswith(EXTENSIONS) for n in names)

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self.variant = "insightface .rec file" if self.packed else "photos in one folder per person"
        self._complete_lfw = False
        names = (
            {record.identity or "" for record in self.records()} if self.people <= _FEW and not self.packed else set()
        )
        if len(names) > 1 and all(_WORDS.fullmatch(name) for name in names):
            self.notes.append(
                f"its {self.people} folders are taken for people; if they are classes, say so: --kind class_folders"
            )
        if self.packed:
            self._look_packed(self.claimed or self.people)
        elif self.people <= _LFW_PEOPLE and all(_LFW_NAME.search(r.path) for r in self.records()):
            self._complete_lfw = self.people >= _LFW_LEAST
            self.variant = "LFW" if self._complete_lfw else "photos named as in LFW"
            if not self._complete_lfw:
                self.notes.append(
                    f"looks like a part of LFW: {len(self.records()):,} of {_LFW_IMAGES:,} photos, {self.people:,} of "
                    f"{_LFW_PEOPLE:,} people"
                )

    def counts(self) -> list[Count]:
        """Return LFW's published numbers, if nearly all of LFW is there."""
        if not self._complete_lfw:
            return []
        return [
            Count("all", "images", _LFW_IMAGES, len(self.records())),
            Count("all", "identities", _LFW_PEOPLE, self.people),
        ]

    def _look_packed(self, people: int) -> None:
        if people in _MS1M_PEOPLE:
            self.notes.append(
                f"{people:,} people: looks like MS-Celeb-1M (MS1MV2 is faces_emore), which Microsoft has withdrawn; "
                "better not used"
            )
        if people in _WEBFACE_PEOPLE:
            self.notes.append(f"{people:,} people: looks like CASIA-WebFace; 'kind: casia_webface' states its terms")
