"""Raw data in the temporary folders of `dvc exp run --temp` and `--queue`, which contain only files that git tracks."""

from __future__ import annotations

import sys
from pathlib import Path

from ssfer.core.places import RAW

_MOST_LINKS = 1_000


def bring_raw_data(raw: str, root: Path | None = None) -> None:
    """Copy the project's links to raw data into a temporary folder; print what to do if the data are not links.

    Nothing happens outside such a folder, or if it already has the data.

    Args:
        raw: folder in data/raw (`data.raw`).
        root: of the project or temporary folder; None: the working folder. `project_root` is the project's in both.
    """
    root = root or Path.cwd()
    home = next((folder.parent for folder in root.resolve().parents if folder.name == ".dvc"), None)
    if home is None or (root / RAW / raw).exists():
        return
    here, there = root / RAW / raw, home / RAW / raw
    entries = [there] if there.is_symlink() else sorted(there.iterdir()) if there.is_dir() else []
    if entries and len(entries) <= _MOST_LINKS and all(entry.is_symlink() for entry in entries):
        for entry in entries:
            link = here / entry.relative_to(there)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
    elif there.exists():
        print(
            f"identify: {there} is not in this temporary folder of DVC; once stage align has run, add --allow-missing, "
            "or link the data instead of putting it there",
            file=sys.stderr,
            flush=True,
        )
