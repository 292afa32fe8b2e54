"""Errors inside components of the user's own, as one sentence that names the place."""

import os
import re
import traceback
from pathlib import Path

from ssfer.core.errors import shortened

_FILES: set[str] = set()  # that hold components from outside ssfer
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def note_file(path: str) -> None:
    """Remember a file that holds a component from outside ssfer."""
    _FILES.add(path)


def failure_in(error: BaseException) -> str | None:
    """Return where a component from outside ssfer failed, and how; None if the error did not pass through one.

    Tracebacks of worker processes arrive as text inside the error, so its text is searched.
    """
    lines = "".join(traceback.format_exception(error))
    places = [found for found in _FRAME.findall(lines) if found[0] in _FILES]
    if not places:
        return None
    path, line, function = places[-1]
    said = shortened(next(filter(None, reversed(lines.splitlines()))).strip(), 300)
    if os.environ.get("SSFER_TRACEBACK") == "1":
        return f"{said}\n{lines}"
    name = os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
    return f"{name}, line {line}, in {function}: {said}; SSFER_TRACEBACK=1 shows the whole traceback"
