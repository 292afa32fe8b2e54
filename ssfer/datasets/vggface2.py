"""VGGFace2 (Cao et al. 2018): n000001/0001_01.jpg, as a whole or in folders train (8,631 people) and test (500).

The test folder is one for face recognition. No photo has an expression label, so all are unlabeled.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.datasets.base import Count, SourceSettings
from ssfer.datasets.shared.people import PeoplePhotos, mostly

_PEOPLE = {"train": 8_631, "test": 500}
_PHOTO = re.compile(r"(?:(?:^|/)(train|test))?(?:^|/)n\d{6}/\d{4}_\d{2}\.jpe?g$", re.IGNORECASE)


class VggFace2Source(PeoplePhotos):
    """All photos, unlabeled; the identity is the folder's name (n000001)."""

    title = "VGGFace2"
    terms = (
        "VGGFace2: research only, under the terms of the user's own copy (the official download was withdrawn). "
        "Not passed on here."
    )
    rank = 70

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: photos in folders like n000001."""
        return mostly(names, _PHOTO)

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self.require(_PHOTO, "n000001/0001_01.jpg, below train, test or neither", path)
        self._parts: dict[str | None, set[str | None]] = {}
        for record in self.records():
            match = _PHOTO.search(record.path)
            part = match[1].lower() if match and match[1] else None
            self._parts.setdefault(part, set()).add(record.identity)
        if None in self._parts and len(self._parts) > 1:
            raise SsferError(
                f"expected the people of {path} below train and test, or all in one folder, found both forms; move them"
            )
        self.variant = "VGGFace2, " + (" and ".join(p for p in _PEOPLE if p in self._parts) or "one folder")
        self.notes.append(f"{len(self.records()):,} photos; about 3.31 million are published, which is not checked")

    def counts(self) -> list[Count]:
        """Return the people of the parts found; for a single folder, the nearest number of train, test or both."""
        found = {part: len(people) for part, people in self._parts.items()}
        if None in found:
            sizes = (sum(_PEOPLE.values()), *_PEOPLE.values())
            return [Count("all", "identities", min(sizes, key=lambda n: abs(n - found[None])), found[None])]
        return [Count(part, "identities", n, found[part]) for part, n in _PEOPLE.items() if part in found]
