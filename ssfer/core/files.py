"""Folders of the project and files: written atomically, JSON, CSV, checksums."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

from ssfer.core.errors import SsferError


def project_root(required: bool = False) -> Path:
    """Return the project's folder: the nearest one with a params.yaml, from the working directory up.

    Without one it is the working directory. Inside a temporary experiment of DVC it is the folder of the project that
    the experiment was started in.

    Raises:
        SsferError: no folder has a params.yaml, and it is `required`.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    found = next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), None)
    if found is None and required:
        raise no_project()
    return found or here


def no_project() -> SsferError:
    """Return the error of a command that was not run in a project's folder."""
    if (root := project_root()) != Path.cwd():
        return SsferError(
            f"this folder lies inside the project {root}; run the command in the project's folder: "
            f"cd {quote(str(root))}"
        )
    return SsferError(
        "this folder is not a project: it has no params.yaml; go to a project's folder, or make one: ssfer init FOLDER"
    )


def scratch_dir(stage: str, fingerprint: str) -> Path:
    """Return the folder for resumable state of one stage and one identity, outside DVC and git."""
    path = project_root() / ".scratch" / stage / fingerprint
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name; flush it to disk and rename it into place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.tmp")
    try:
        with open(tmp, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    tmp.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it into place."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` atomically."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return JSON with sorted keys and a final newline: equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read JSON; SsferError when the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing; run the stage that writes it (dvc repro)") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested without end
        raise SsferError(f"{path} is not valid JSON ({error}); restore it with dvc checkout or git checkout") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write dict rows as CSV, atomically; columns default to the union of keys in order of appearance."""
    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def replace_dir(new: Path, final: Path) -> None:
    """Replace a folder by a finished one; after any failure the old folder is still there or restored."""
    old = final.with_name(f".{final.name}.old")
    if old.exists() and not final.exists():  # killed between the two renames
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(old)
    try:
        new.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_dir(final: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `final` at the end of the block; after an error nothing is left of it."""
    folder = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        replace_dir(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
