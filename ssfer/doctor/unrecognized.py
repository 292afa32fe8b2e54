"""Why a path is not recognized as a data set, and what to do: one sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ssfer.core.images import EXTENSIONS
from ssfer.datasets.registry import recognition_order
from ssfer.datasets.shared.archives import Archive, open_archive, why_not_opened

_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".parquet")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_HEAD = 4096  # bytes of a text file that may list photos
_MOST = 20  # such files that are looked into
SAVE = "save it as 'CSV UTF-8' (.csv) or with a JSON object a line (.jsonl)"


def why_not_recognized(path: Path) -> str:
    """Return, as a sentence, why nothing at a path is a data set, and what to do."""
    name = path.name.lower()
    if not path.is_dir() and not zipfile.is_zipfile(path):
        if name.endswith(EXTENSIONS):
            return f"{path} is one photo, expected a folder, zip or table of photos; give the folder it lies in"
        if name.endswith(_SPREADSHEETS):
            return f"{path} is no table in text; {SAVE}"
        if name.endswith(_ARCHIVES):
            return why_not_opened(path)
        return _generic(path)
    names = open_archive(path).names()
    packed = [name for name in names if name.lower().endswith(_ARCHIVES)]
    photos = [name for name in names if name.lower().endswith(EXTENSIONS)]
    if not names:
        return f"{path} is empty, expected photos in it; give the folder or zip that has them"
    if not photos and packed:
        return f"{path} has no photo, but the archive {packed[0]}; unpack that and give the folder"
    if not photos:
        return (
            f"{path} has {len(names):,} files and no photo among them ({', '.join(EXTENSIONS)}); give the folder or "
            "zip that has the photos"
        )
    if not any("/" in name for name in photos):
        return (
            f"the photos of {path} lie side by side and no table says their labels; put them into a folder per class, "
            "or list them in a csv file with the columns path and label; without labels add --kind identities"
        )
    return _generic(path)


def unread_tables(archive: Archive) -> list[str]:
    """Return names of files beside photos that may be tables, but have a form that is not read."""
    names = [name for name in archive.names() if name.count("/") <= 1]
    texts = [name for name in names if name.lower().endswith((".txt", ".json"))][:_MOST]
    listing = [name for name in texts if _names_photos(archive, name)]
    return sorted([*(name for name in names if name.lower().endswith(_SPREADSHEETS)), *listing])


def _names_photos(archive: Archive, name: str) -> bool:
    try:
        head = archive.read(name)[:_HEAD].decode("utf-8", "replace").lower()
    except Exception:  # damaged or too large: no table
        return False
    return any(f"{ending}{end}" in head for ending in EXTENSIONS for end in ('"', " ", "\t", ",", ";", ":", "\n"))


def _generic(path: Path) -> str:
    return (
        f"{path} is not recognized as any data set; if it is one, say which with --kind "
        f"(known: {', '.join(recognition_order())})"
    )
