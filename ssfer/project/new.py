"""`ssfer init FOLDER`: create a project whose pipeline runs with the installed package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssfer.core.errors import SsferError
from ssfer.core.shipped import shipped
from ssfer.core.yaml import read_yaml, round_trip

DVC = (".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots")
SHIPPED = ("params.yaml", "dvc.yaml", "stages", ".gitignore", *DVC)
OWN = ("README.md", "Makefile")


def new_project(folder: Path, complete: Callable[[Path], None] | None = None) -> bool:
    """Write a project: settings, pipeline, a short README and a Makefile; all of it or nothing.

    It becomes a git repository unless it is inside one. Without git DVC works, except its experiments (`dvc exp run`).

    Args:
        folder: an empty or a new folder.
        complete: called with the written project before it is put there, such as for `set_data`.

    Returns:
        Whether the project is in a git repository.

    Raises:
        SsferError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SsferError(f"{folder} is not an empty folder; name a new or an empty one, since nothing is overwritten")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        is_there = folder.exists()
        with tempfile.TemporaryDirectory(prefix=".ssfer-", dir=folder if is_there else folder.parent) as temporary:
            made = Path(temporary) / folder.absolute().name
            _write(made)
            if complete is not None:
                complete(made)
            git = _git(made)
            if not git:
                config = made / ".dvc/config"
                config.write_text(config.read_text() + "    no_scm = true\n")  # of [core], the last section
            if is_there:  # it may be the working folder or a mount, which cannot be replaced
                for entry in made.iterdir():
                    entry.replace(folder / entry.name)
            else:
                made.replace(folder)
    except OSError as error:
        raise SsferError(f"{folder} cannot be written ({error.strerror or error}); choose another folder") from error
    return git


def set_data(folder: Path, place: Path, raw: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Set a project's data set: link it into data/raw and write its settings, with `report.gallery` off.

    Args:
        folder: the project's.
        place: folder or file of the data set.
        raw: name of its folder in data/raw.
        settings: section of params.yaml -> values.
    """
    link = folder / "data/raw" / raw
    if place.is_file():
        link.mkdir()
        link = link / place.name
    link.symlink_to(place.resolve(), target_is_directory=place.is_dir())
    params = folder / "params.yaml"
    document = read_yaml(params, keep_comments=True)
    for section, values in settings.items():
        document[section].update(values)
    document["report"].update({"title": raw, "gallery": False})
    with open(params, "w", encoding="utf-8") as file:
        round_trip().dump(document, file)


def _write(folder: Path) -> None:
    for name in SHIPPED:
        source, target = shipped(name), folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for name in OWN:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    for name in ("data/raw", "metrics"):
        (folder / name).mkdir(parents=True)


def _git(folder: Path) -> bool:
    """Make the folder a git repository unless it is inside one; return whether it is in one now."""
    try:
        inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=folder, capture_output=True).returncode == 0
        return inside or subprocess.run(["git", "init", "--quiet"], cwd=folder, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
