"""The files that symbolic links in a folder lead to. DVC sees only the links, not changes of the files behind them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def linked_files(folder: Path) -> str | None:
    """Return a hash over name, size and time of the files that links in a folder lead to; None if it has no link.

    Args:
        folder: may be a link itself, or missing.
    """
    lines = sorted(_lines(folder, "", frozenset()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else None


def _lines(path: Path, name: str, behind: frozenset[Path]) -> Iterator[str]:
    """Yield a line per file that is reached through a link; `behind` are the real folders on the way since the link."""
    if path.is_symlink():
        real = path.resolve()
        if not real.exists():
            yield f"{name}\0nothing"
            return
        if real in behind:
            return
        path, behind = real, behind | {real}
    if path.is_dir():
        for entry in os.scandir(path):
            if entry.is_symlink() or entry.is_dir() or behind:
                yield from _lines(Path(entry.path), f"{name}/{entry.name}", behind | {path} if behind else behind)
    elif behind:
        info = path.stat()
        yield f"{name}\0{info.st_size}\0{info.st_mtime_ns}"
