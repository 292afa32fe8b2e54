"""What a result was made with: commit, hash of the source code, versions, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any


def code_fingerprint(packages: Iterable[str] = ("ssfer",)) -> str:
    """Return a hash of the project's own Python sources: half-done work of other code is never continued."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def git_commit() -> str:
    """Return the commit the run started from ('unknown' outside git), with '-dirty' if tracked files differ."""
    root = Path(__file__).resolve().parents[2]
    try:
        rev = os.environ.get("DVC_EXP_BASELINE_REV") or _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "ssfer", "stages", "params.yaml")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return rev + ("-dirty" if dirty else "")


def _git(root: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *args], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def provenance() -> dict[str, Any]:
    """Return versions and machine facts for the record; no host name, user name or absolute path."""
    versions = {}
    for name in ("ssfer", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "dvc", "mlflow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    from ssfer import __version__

    return {
        "git_commit": git_commit(),
        "versions": {**versions, "ssfer": __version__, "python": platform.python_version()},
        "machine": {"system": platform.system(), "arch": platform.machine(), "cpus": os.cpu_count()},
    }
