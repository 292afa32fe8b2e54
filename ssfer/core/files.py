"""What every stage needs around its science: folders, atomic writes, seeds, device, provenance, errors."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from ssfer.core.errors import SsferError

LAST_WORD_SECONDS = 3.0


def project_root() -> Path:
    """Return the main repository's root; inside a DVC temp experiment that is not the working directory."""
    return Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[2])


def scratch_dir(stage: str, fingerprint: str) -> Path:
    """Return the folder for resumable state of one stage and one identity, outside DVC and git."""
    path = project_root() / ".scratch" / stage / fingerprint
    path.mkdir(parents=True, exist_ok=True)
    return path


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Preempted(BaseException):
    """Training stopped because a signal asked for it, with a snapshot written; not an error, so no `except` eats it.

    Args:
        message: where it stopped and how to go on.
        number: of the signal; the exit status is 128 + number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequest:
    """Context manager that notes SIGTERM and SIGUSR1 instead of dying of them: a cluster wants the machine back.

    Signals can only be caught in the main thread; elsewhere nothing changes. After `Preempted` the signals stay
    caught, because launchers repeat them while the process is already on its way out.

    Attributes:
        number: of the signal that came, None before.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not Preempted:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def stage_main(name: str, main: Callable[[], None]) -> None:
    """Run a stage; an SsferError becomes one sentence on stderr and exit status 2.

    Full disks and missing permissions are the user's to mend as well, so they get a sentence, too. Of several
    processes the first speaks for all; launchers end the others as soon as it is gone.
    """
    try:
        main()
    except SsferError as error:
        sys.exit(_fail(name, str(error)))
    except Preempted as stop:
        if rank_and_world()[0] == 0:
            print(f"{name}: {stop}", file=sys.stderr, flush=True)
        sys.exit(stop.status)
    except (OSError, MemoryError) as error:
        if isinstance(error, (FileNotFoundError, BrokenPipeError)):
            raise
        sys.exit(_fail(name, f"{type(error).__name__}: {error}; nothing was written, mend it and run again"))


def _fail(name: str, message: str) -> int:
    rank = rank_and_world()[0]
    if rank:
        time.sleep(LAST_WORD_SECONDS)  # still here afterwards: the trouble is this process's own
    print(f"{name}{f' (process {rank})' if rank else ''}: error: {message}", file=sys.stderr, flush=True)
    return 2


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
    """Write JSON with sorted keys and a final newline, atomically: equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; SsferError when the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing; run the stage that writes it (dvc repro)") from error
    except json.JSONDecodeError as error:
        raise SsferError(f"{path} is not valid JSON ({error}); restore it with dvc checkout or git checkout") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write dict rows as CSV, atomically; columns default to the union of keys in order of appearance."""
    from io import StringIO

    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def replace_dir(new: Path, final: Path) -> None:
    """Put a finished folder in the place of an older one; on any failure the older one is still there or restored."""
    old = final.with_name(f".{final.name}.old")
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


def temp_dir_for(final: Path) -> Path:
    """Return an empty working folder beside `final`, to be handed to `replace_dir` when it is complete."""
    path = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
