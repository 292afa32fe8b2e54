"""Labeled photos in folders named by class, in a folder or a zip: the way in for any data set.

Either <usage>/<class name>/<photo> (usage is train, valid or test) or <class name>/<photo>, where every photo trains.
Class names are the canonical ones (ssfer.core.labels), upper or lower case, or what `labels` translates: numbers mean
different expressions in every data set, so they are never guessed. One folder around everything, as zip tools add it,
is accepted.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import Field

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import CLASS_SETS, EXPRESSIONS
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.photo_archive import PhotoArchive

USAGES = ("train", "valid", "test")
# More folders than any set of classes has are people, one of whom may be called Joy.
_MOST_CLASSES = 20


class ClassFolderSource(PhotoArchive):
    """Every photo below a class folder, at any depth; `labels` translates folder names (any case) to class names.

    Raises:
        SsferError: another layout, an unknown folder, an unknown class in `labels`, no training photo.
    """

    title = "one folder per class"
    terms = "Photographs in one folder per expression, used under the terms of the user's own copy. Not passed on here."
    rank = 110

    class Settings(SourceSettings):
        """Keys of this kind."""

        labels: dict[str, str] = Field({}, description="Folder name -> class name, where they differ.")

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: photos below class folders of which one has a canonical name or all have numbers."""
        photos = [PurePosixPath(n) for n in names if n.lower().endswith(EXTENSIONS)]
        skip = _outer_folders(photos, EXPRESSIONS)
        parts = [p.parts[skip:] for p in photos]
        by_usage = bool(parts) and all(p[0].lower() in USAGES for p in parts)
        if not parts or not all(len(p) > 1 + by_usage for p in parts):
            return False
        folders = {p[by_usage].lower() for p in parts}
        numbered = by_usage and all(re.fullmatch(r"\d{1,2}", folder) for folder in folders)
        return len(folders) <= _MOST_CLASSES and (numbered or not folders.isdisjoint(EXPRESSIONS))

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        classes = _class_names(settings.labels)
        skip = _outer_folders(self._photos, classes)
        parts = {name: name.parts[skip:] for name in self._photos}
        by_usage = any(p[0].lower() in USAGES for p in parts.values()) or all(
            len(p) > 2 and p[1].lower() in classes for p in parts.values()
        )
        self.variant = "<usage>/<class name>/<photo>" if by_usage else "<class name>/<photo>, all for training"
        self._records = [
            RawRecord(str(name), *_label_and_usage(name, p if by_usage else ("train", *p), classes, path))
            for name, p in parts.items()
        ]
        if not any(record.usage == "train" for record in self._records):
            raise SsferError(
                f"expected photos ({', '.join(EXTENSIONS)}) in {path}/train/<class name>/, found {len(self._photos)} "
                f"photos and none there; arrange them as <{'|'.join(USAGES)}>/<class name>/<photo>"
            )


def _class_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return folder name in lower case -> class name: the expressions themselves and `labels`."""
    known = {name for names in CLASS_SETS.values() for name in names}
    classes = {name: name for name in EXPRESSIONS}
    lower = [folder.lower() for folder in labels]
    for folder, name in labels.items():
        if name not in known:
            raise unknown_name(f"class name (of folder '{folder}' in 'labels')", name, known)
        if lower.count(folder.lower()) > 1:
            raise SsferError(f"'labels' has '{folder}' twice, expected names that differ in more than upper case")
        classes[folder.lower()] = name
    return classes


def _outer_folders(photos: Sequence[PurePosixPath], classes: Collection[str]) -> int:
    """Return 1 when one folder, which is neither usage nor class, holds folders with everything; else 0."""
    tops = {name.parts[0].lower() for name in photos}
    return int(len(tops) == 1 and tops.isdisjoint({*USAGES, *classes}) and all(len(n.parts) > 2 for n in photos))


def _label_and_usage(
    name: PurePosixPath, parts: Sequence[str], classes: Mapping[str, str], path: Path
) -> tuple[str, str]:
    if len(parts) < 3:
        raise SsferError(
            f"expected every photo of {path} in <{'|'.join(USAGES)}>/<class name>/ or, without usages, <class name>/, "
            f"found '{name}'; move or remove it"
        )
    usage, folder = parts[0].lower(), parts[1].lower()
    if usage not in USAGES:
        raise unknown_name(f"usage folder (of '{name}' in {path})", parts[0], USAGES)
    if folder not in classes:
        unknown = unknown_name(f"class folder (of '{name}' in {path})", parts[1], classes)
        raise SsferError(f"{unknown}; say what it means in the source's 'labels', e.g. labels: {{'{parts[1]}': fear}}")
    return classes[folder], usage
