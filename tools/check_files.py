"""Refuse images and large files in git; checks the files named, or with `--all` every file under git.

Photos, crops, galleries and weights are licensed or show people; they stay in DVC's cache. Images are recognized by
name and by content. ALLOWED has the exceptions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

LARGEST = 500_000  # bytes
ALLOWED = (
    "metrics/report.html",  # the result page of the rendered demo
    "docs/results/demo.png",  # faces and chart of that page (tools/picture.py)
    "docs/tutorials/notebook-*.png",  # rendered faces (tools/notebook.py)
    "requirements.lock",
    "models/ferplus-small.*",  # the shipped model (models/README.md)
    ".dvc/plots/vega.js",  # draws the page of `dvc plots diff` without network
)
SUFFIXES = {
    ".bmp", ".gif", ".heic", ".jfif", ".jpeg", ".jpg", ".npy", ".npz", ".parquet", ".png", ".pt", ".pth", ".rec",
    ".safetensors", ".tar", ".tif", ".tiff", ".webp", ".zip",
}  # fmt: skip
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"PK\x03\x04")


def problem(path: Path) -> str | None:
    """Return why a file may not be committed, or None."""
    if any(fnmatch(path.as_posix(), pattern) for pattern in ALLOWED) or not path.is_file() or path.is_symlink():
        return None
    if path.suffix.lower() in SUFFIXES:
        return f"{path}: '{path.suffix}' files hold images, data or weights; they belong to DVC (data/), never to git"
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return f"{path}: looks like an image or archive whatever its name says; it belongs to DVC (data/), never to git"
    if (size := path.stat().st_size) > LARGEST:
        return f"{path}: {size} bytes, more than {LARGEST}; put it under DVC, or allow it in tools/check_files.py"
    return None


def tracked() -> list[Path]:
    """Return the files under git; ends with git's message where it cannot list them."""
    answer = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr.strip())
    return [Path(name) for name in answer.stdout.split("\0") if name]


def main(arguments: Iterable[str]) -> int:
    """Print every problem; exit status 1 if there is one."""
    names = list(arguments)
    problems = [text for path in (tracked() if names == ["--all"] else map(Path, names)) if (text := problem(path))]
    print("\n".join(problems), end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
