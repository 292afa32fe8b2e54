"""What a result was made with: commit, versions, machine."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def git_commit() -> str:
    """Return the commit the run started from ('unknown' outside git), with '-dirty' if tracked files differ."""
    root = Path.cwd()
    try:
        rev = os.environ.get("DVC_EXP_BASELINE_REV") or _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "ssfer", "stages", "params.yaml")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return rev + ("-dirty" if dirty else "")


def _git(root: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *args], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def provenance(compute: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return versions and machine facts for the record; no host name, user name or absolute path.

    MLflow keeps it. It is in no output of a stage: these are compared between machines.

    Args:
        compute: device, driver, precision and compilation, of `ssfer.train.compute.Compute`; None: no network computes.
    """
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
        "machine": {
            "system": platform.system(),
            "arch": platform.machine(),
            "cpus": os.cpu_count(),
            **(compute or {}),
        },
    }
