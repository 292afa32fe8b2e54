"""`ssfer init FOLDER`: a project whose pipeline runs with the installed package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.shipped import shipped

DVC = (".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots")
SHIPPED = ("params.yaml", "dvc.yaml", "stages", ".gitignore", *DVC)
OWN = ("README.md", "Makefile")


def new_project(folder: Path) -> bool:
    """Write a project: settings, pipeline, a short README and a Makefile; all of it or nothing.

    It becomes a git repository unless it lies in one or git is not installed; DVC then works without git, and only its
    experiments (`dvc exp run`) are not to be had.

    Args:
        folder: an empty folder, or one that is made.

    Returns:
        Whether the project lies in a git repository.

    Raises:
        SsferError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SsferError(f"{folder} is not an empty folder; name one that is not there yet, and nothing is overwritten")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            _write(made)
            git = _git(made)
            if not git:
                config = made / ".dvc/config"
                config.write_text(config.read_text() + "    no_scm = true\n")
            made.replace(folder)
    except OSError as error:
        raise SsferError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    return git


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
    """Make the folder a git repository unless it lies in one; return whether it lies in one now."""
    try:
        inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=folder, capture_output=True).returncode == 0
        return inside or subprocess.run(["git", "init", "--quiet"], cwd=folder, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
