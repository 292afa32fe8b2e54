"""Reading params.yaml and profiles, with the line and the column of a mistake in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfer.core.errors import SsferError
from ssfer.core.yaml import read_yaml


def read_settings(path: Path, keep_comments: bool = False) -> Any:
    """Return the unchecked content of a file of settings; see `ssfer.core.yaml.parse_yaml`.

    Raises:
        SsferError: the file is missing or is not valid YAML; the message says where the mistake is.
    """
    try:
        return read_yaml(path, keep_comments)
    except SsferError as error:
        if (mistake := _mistake(error.__cause__, path)) is None:
            raise
        raise SsferError(f"{path} is not valid YAML: {mistake}") from error


def _mistake(error: Any, path: Path) -> str | None:
    """Return where an error of a YAML parser is, what is wrong there and what to do; None if it does not say where."""
    mark, begin = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if mark is None:
        return None
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    if str(error.problem).startswith("key "):  # of the parser in `ssfer.core.yaml`, which marks the section
        return f"{error.problem} in the section that begins in {where}; remove one of the two"
    since = f" that begins in line {begin.line + 1}" if begin is not None and begin.line != mark.line else ""
    context = f"{error.context}{since}, " if error.context else ""
    lines = path.read_text(encoding="utf-8").split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    indented_by_tab = "\t" in line.removesuffix(line.lstrip())
    advice = "a tab indents this line, so replace it by spaces" if indented_by_tab else "correct it there"
    if begin is not None and mark.line >= len(lines) - 1 and not line.strip():  # something is open to the end
        where, advice = f"line {begin.line + 1}, column {begin.column + 1}", "close what begins there"
    return f"{where}: {context}{error.problem}; {advice}"
