"""SFEW 2.0 (Dhall et al. 2011, 2015): film stills in <Train|Val|Test>/<class>/<photo>.png, as a folder or a zip.

The release with aligned faces has fewer images and the same class folders, sometimes in Train_Aligned_Faces and
Val_Aligned_Faces. The labels of Test were never published, so papers test on Val. Val is also the test part here,
unless Test has class folders; then Test is the test part and Val the validation part. Test images without labels are
left out and counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE
from ssfer.datasets.base import Count, RawRecord, SourceSettings
from ssfer.datasets.shared.photo_archive import PhotoArchive

CLASSES = {
    "angry": ANGER,
    "disgust": DISGUST,
    "fear": FEAR,
    "happy": HAPPINESS,
    "neutral": NEUTRAL,
    "sad": SADNESS,
    "surprise": SURPRISE,
}
WHOLE = {"train": 958, "val": 436, "test": 372}
ALIGNED = {"train": 891, "val": 431}
_NAME = re.compile(r"((?:[^/]+/)?(train|val|test)(_aligned[^/]*)?)/(?:([^/]+)/)?[^/]+", re.IGNORECASE)
_CLASS_NAMES = "Angry|Disgust|Fear|Happy|Neutral|Sad|Surprise"
_LOOKS_LIKE = re.compile(rf"(?:[^/]+/)?(Train|Val)(_Aligned[^/]*)?/({_CLASS_NAMES})/[^/]+\.png")


class SfewSource(PhotoArchive):
    """All labeled photos.

    Raises:
        SsferError: another layout, an unknown class folder, whole and aligned photos together, a part of Test labeled.
    """

    title = "SFEW 2.0"
    terms = "SFEW (stills of AFEW films): research only, under the terms of the user's own copy. Not passed on here."
    rank = 40

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: PNG files in Train and Val, or one of them aligned, under SFEW's own class names."""
        found = [match for name in names if (match := _LOOKS_LIKE.fullmatch(name))]
        return {match[1] for match in found} == {"Train", "Val"} or any(match[2] for match in found)

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        places = [(str(name), *_place(str(name), path)) for name in self._photos]
        folders: dict[str, set[str]] = {}
        for _, folder, part, _ in places:
            folders.setdefault(part, set()).add(folder)
        for found in folders.values():
            if len(found) > 1:
                raise SsferError(
                    f"expected every part of SFEW once in {path}, found {' and '.join(sorted(found))}; give a folder "
                    "with either the whole photos or the aligned faces"
                )
        test_labels = [label for _, _, part, label in places if part == "test"]
        self._test_has_labels = any(test_labels)
        if self._test_has_labels and not all(test_labels):
            raise SsferError(
                f"expected class folders for all or none of SFEW's Test photos in {path}, found them for "
                f"{sum(map(bool, test_labels))} of {len(test_labels)}; move the others"
            )
        self._records = [
            RawRecord(name, label=label, usage=self._usage(part)) for name, _, part, label in places if label
        ]
        self.dropped["unlabeled_test"] = test_labels.count(None)
        found_numbers = Counter(part for _, _, part, _ in places)
        named = any("aligned" in folder.lower() for found in folders.values() for folder in found)
        self._aligned = named or all(found_numbers[part] == n for part, n in ALIGNED.items())
        self.variant = f"SFEW 2.0, {'aligned faces' if self._aligned else 'whole photos'}"

    def _usage(self, part: str) -> str:
        return {"train": "train", "val": "valid" if self._test_has_labels else "test", "test": "test"}[part]

    def counts(self) -> list[Count]:
        """See `Source.counts`: images per usage; photos without labels have usage none."""
        published = ALIGNED if self._aligned else WHOLE
        found = Counter(record.usage for record in self._records)
        parts = ["train", "val"] + ["test"] * self._test_has_labels
        counts = [Count(self._usage(p), "images", published[p], found[self._usage(p)]) for p in parts if p in published]
        unlabeled = self.dropped["unlabeled_test"]
        if unlabeled and "test" in published:
            counts.append(Count("none", "images", published["test"], unlabeled))
        return counts


def _place(name: str, path: Path) -> tuple[str, str, str | None]:
    """Return the folder of the part, the part, and the class if there is a folder for it."""
    match = _NAME.fullmatch(name)
    if not match or (match[4] is None and match[2].lower() != "test"):
        raise SsferError(
            f"expected every photo of SFEW in {path}/<Train|Val|Test>/<class>/, found '{name}'; move or remove it"
        )
    folder, part, _, label = match.groups()
    if label is None:
        return folder, part.lower(), None
    if label.lower() not in CLASSES:
        raise unknown_name(f"class folder of SFEW (of '{name}' in {path})", label, CLASSES)
    return folder, part.lower(), CLASSES[label.lower()]
