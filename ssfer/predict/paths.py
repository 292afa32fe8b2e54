"""The PATHs of `ssfer predict`: a list on stdin, and what is refused before anything is written."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.predict.items import name_of


def listed(paths: Sequence[str], annotate: Path | None) -> Iterator[str]:
    """Yield the paths of a command line, "-" replaced by the list on stdin; `annotate`: see `check_apart`."""
    for path in paths:
        if path != "-":
            yield path
            continue
        for line in filter(None, (line.rstrip("\r\n") for line in sys.stdin)):
            check_apart(annotate, [line])
            yield line


def check_there(paths: Sequence[str]) -> None:
    """Check that PATHs name files and one of them is there, before the table of an earlier command is replaced."""
    for path in paths:
        if not path:
            raise SsferError("a PATH is empty; name photos, videos, folders or zip files, or . for this folder")
        if "://" in path:
            raise SsferError(f"{path} is an address; ssfer reads files only: download it first")
    if paths and "-" not in paths and not any(map(os.path.lexists, paths)):
        raise SsferError(f"there is nothing at {paths[0]}; name photos, videos, folders or zip files")


def not_empty(paths: Iterator[str]) -> Iterator[str]:
    """Return the same paths.

    Raises:
        SsferError: there is none.
    """
    first = next(paths, None)
    if first is None:
        raise SsferError("the list on stdin is empty; expected a path on each line")
    return itertools.chain([first], paths)


def check_apart(annotate: Path | None, inputs: Sequence[str]) -> None:
    """Check that annotated copies do not go among the inputs, where they would replace inputs or be read as such."""
    if annotate is None:
        return
    folders = [path for path in map(Path, inputs) if path.is_dir()]
    # Copies of a folder's photos go to a folder of its name.
    places = [annotate.resolve(), *((annotate / name_of(folder)).resolve() for folder in folders)]
    for path in map(Path, inputs):
        if path.is_dir():
            among = any(place.is_relative_to(path.resolve()) for place in places)
        else:
            among = annotate.resolve() == path.resolve().parent
        if among:
            raise SsferError(f"--annotate {annotate} lies among the inputs ({path}); name a folder of its own")
