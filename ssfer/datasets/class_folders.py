"""Labeled photos in folders named by class, in a folder or a zip: a layout for any data set.

The layout is <part>/<class name>/<photo> or <class name>/<part>/<photo> (part is train, val, test or another word for
them), or <class name>/<photo>, where all photos are for training. Photos in a folder "unlabeled" beside the parts or
the classes have no label. Classes may have any names; usual words for expressions (happy, angry) are understood, and
`labels` translates others. Numbers mean different expressions in every data set, so they are never guessed. One folder
around everything, as zip tools add it, is accepted.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import Field

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import EXPRESSIONS, class_name, codes_of, is_code
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.parts import PARTS, UNLABELED, part_word, usages
from ssfer.datasets.shared.photo_archive import PhotoArchive
from ssfer.datasets.shared.words import understood_words

# More folders than this are people, not classes, even if one of them is called Joy.
_MOST_CLASSES = 20
# Share of the photos below named parts that must lie in class folders; opening them says what is wrong with others.
_LEAST_SHARE = 0.9
_WORDS = re.compile(r"[^\W\d_]+([ -][^\W\d_]+)*")


class ClassFolderSource(PhotoArchive):
    """Every photo below a class folder, at any depth; `labels` translates folder names (any case) to class names.

    Raises:
        SsferError: another layout, folders named by numbers without `labels`, no training photo.
    """

    title = "one folder per class"
    terms = "Photographs in one folder per expression, used under the terms of the user's own copy. Not passed on here."
    rank = 110

    class Settings(SourceSettings):
        """Keys of this kind."""

        labels: dict[str, str | None] = Field(
            {}, description="Folder name -> class name, where they differ; null: its photos are left out."
        )

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: photos below named parts, or a folder named by an expression or `unlabeled`."""
        photos = [PurePosixPath(n) for n in names if n.lower().endswith(EXTENSIONS)]
        rows, by_part = _layout(photos, {})
        labeled = [p for p in rows if part_word(p[0]) not in UNLABELED]
        fitting = [p for p in labeled if len(p) > 1 + by_part and (not by_part or part_word(p[0]))]
        if not fitting or len(fitting) < len(labeled) * (_LEAST_SHARE if by_part else 1):
            return False
        folders = {class_name(p[by_part]) for p in fitting}
        classes = by_part and all(re.fullmatch(r"\d{1,2}|\D+", folder) for folder in folders)
        # A folder `unlabeled` beside class folders: people's folders have names with numbers or underscores.
        beside = len(labeled) < len(rows) and not by_part and len(folders) > 1 and {len(p) for p in fitting} == {2}
        classes = classes or (beside and all(_WORDS.fullmatch(folder) for folder in folders))
        return len(folders) <= _MOST_CLASSES and (classes or not folders.isdisjoint(EXPRESSIONS))

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        labels = _by_folder(settings.labels)
        layout, by_part = _layout(self._photos, labels)
        rows = list(zip(map(str, self._photos), layout, strict=True))
        if not by_part:
            _refuse_parts_in_some(path, rows)
        parts, note = usages({p[0] for p in layout}) if by_part else ({}, "")
        self.variant = "<part>/<class name>/<photo>" if by_part else "<class name>/<photo>, all for training"
        self.notes = [note] if note else []
        self._records = []
        words = []
        for name, p in rows:
            if part_word(p[0]) in UNLABELED and len(p) > 1 and p[0].lower() not in labels:
                self._records.append(RawRecord(name))
                continue
            if len(p) < 2 + by_part or (by_part and p[0] not in parts):
                raise SsferError(
                    f"expected every photo of {path} in <train|val|test>/<class name>/ or, without parts, "
                    f"<class name>/, found '{name}'; move or remove it"
                )
            folder = p[by_part]
            words.append(folder)
            if not folder.isprintable():
                raise SsferError(f"{path} has a folder whose name has control characters, {folder!r}; rename it")
            label = labels.get(folder.lower(), class_name(folder))
            if label is None:
                self.dropped["left_out_by_labels"] += 1
            else:
                self._records.append(RawRecord(name, label=label, usage=parts[p[0]] if by_part else "train"))
        if bare := sum(record.label is None for record in self._records):
            self.notes.append(f"{bare:,} of {len(self._records):,} photos lie in a folder for photos without a label")
        self.notes += understood_words(words, labels)
        _refuse_codes(path, {r.label for r in self._records if r.label} - set(labels.values()))
        if not any(record.usage == "train" for record in self._records):
            if only := sorted({p[0] for p in layout} if by_part else ()):
                raise SsferError(
                    f"{path} has no training part, only {', '.join(only)}; give the folder that holds all parts, or "
                    "rename it to train, and a fifth of it becomes the test part (split.fold: 0)"
                )
            raise SsferError(
                f"expected photos ({', '.join(EXTENSIONS)}) in {path}/train/<class name>/, found {len(self._photos)} "
                "photos and none there; arrange them as <train|val|test>/<class name>/<photo>"
            )


def _by_folder(labels: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return folder name in lower case -> class name, or None where its photos are left out."""
    lower = [folder.lower() for folder in labels]
    if twice := [folder for folder in labels if lower.count(folder.lower()) > 1]:
        raise SsferError(f"'labels' has '{twice[0]}' twice, expected names that differ in more than upper case")
    return {folder.lower(): None if name is None else class_name(name) for folder, name in labels.items()}


def _layout(photos: Sequence[PurePosixPath], labels: Mapping[str, str | None]) -> tuple[list[tuple[str, ...]], bool]:
    """Return the parts of the photos' paths below an outer folder, and whether they begin with parts of the data set.

    Where the photos of every class lie in folders for the parts, the two are exchanged.
    """
    skip = _outer_folders(photos, labels)
    rows = [name.parts[skip:] for name in photos]
    if any(_is_part(p[0]) for p in rows):
        return rows, True
    labeled = [p for p in rows if part_word(p[0]) not in UNLABELED]
    inner = [p[1] for p in labeled if len(p) > 2 and _is_part(p[1])]
    tops = {p[0] for p in labeled}
    # Deeper folders may also be data sets with parts and classes in them.
    classes = len(tops) > 1 and (max(map(len, labeled)) == 3 or any(class_name(top) in EXPRESSIONS for top in tops))
    exchanged = len(inner) == len(labeled) and classes and _several_parts(inner)
    return [(p[1], p[0], *p[2:]) if exchanged and part_word(p[0]) not in UNLABELED else p for p in rows], exchanged


def _several_parts(folders: Iterable[str]) -> bool:
    return len({PARTS[word] for word in map(part_word, folders) if word}) > 1


def _refuse_parts_in_some(path: Path, rows: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Refuse class folders of which some photos lie in parts: all would be for training, the test photos among them."""
    inner = [p[1] for _, p in rows if len(p) > 2 and _is_part(p[1])]
    labeled = [(name, p) for name, p in rows if part_word(p[0]) not in UNLABELED]
    odd = [name for name, p in labeled if not (len(p) > 2 and _is_part(p[1]))]
    if odd and _several_parts(inner):
        raise SsferError(
            f"{len(inner):,} photos of {path} lie in {', '.join(sorted(set(inner)))} inside of their class folders and "
            f"{len(odd):,} outside, such as '{odd[0]}'; move or remove what is outside, so that all lie in "
            "<class name>/<train|val|test>/"
        )


def _is_part(folder: str) -> bool:
    return part_word(folder) not in (None, *UNLABELED)


def _outer_folders(photos: Sequence[PurePosixPath], labels: Mapping[str, str | None]) -> int:
    """Return 1 when one folder, which is neither part nor class, holds folders with everything; else 0."""
    tops = {name.parts[0].lower() for name in photos}
    known = {*labels, *EXPRESSIONS}
    named = any(map(part_word, tops)) or bool(tops & known) or not known.isdisjoint(map(class_name, tops))
    return int(len(tops) == 1 and not named and all(len(n.parts) > 2 for n in photos))


def _refuse_codes(path: Path, names: set[str]) -> None:
    codes = sorted(name for name in names if is_code(name))
    if codes:
        raise SsferError(
            f"{path} has class folders named {', '.join(codes)}; say what they mean in the source's 'labels', e.g. "
            f"labels: {{'{codes[0]}': fear}}.{codes_of(codes)}"
        )
