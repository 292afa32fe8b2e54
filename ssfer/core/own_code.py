"""Code of the user's own: importing a file by its path, and errors inside it as one sentence that names the place."""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ssfer.core.errors import shortened
from ssfer.core.files import project_root

PREFIX = "ssfer_user_"  # of the names of modules that are files of the user; worker processes know no others
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
    loaded = {str(module.__file__) for name, module in list(sys.modules.items()) if name.startswith(PREFIX)}
    places = [found for found in _FRAME.finditer(lines) if found[1] in _FILES | loaded]
    if not places:
        return None
    path, line, function = places[-1].groups()
    after = lines[places[-1].end() :].splitlines()[1:]  # frames are indented; the error's first line is not
    said = shortened(next((text for text in after if text[:1].strip()), type(error).__name__), 300)
    if os.environ.get("SSFER_TRACEBACK") == "1":
        return f"{said}\n{lines}"
    name = os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
    return f"{name}, line {line}, in {function}: {said}; SSFER_TRACEBACK=1 shows the whole traceback"


def module_at(place: str) -> ModuleType:
    """Import a module by its dotted name, or a file by its path, which ends in .py."""
    if (root := str(project_root())) not in sys.path:
        sys.path.append(root)  # the user's own modules
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    return importlib.import_module(f"{PREFIX}{path.stem}_{str(path).encode().hex()}")


class _FilesByName(MetaPathFinder):
    """Finds a user's file by the path in its module's name: worker processes import it when they unpickle."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how to load the module, None for every other name."""
        if not fullname.startswith(PREFIX):
            return None
        return importlib.util.spec_from_file_location(fullname, bytes.fromhex(fullname.rpartition("_")[2]).decode())


sys.meta_path.append(_FilesByName())
