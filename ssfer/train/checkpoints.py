"""Resumable training state: a folder of snapshots outside DVC, written atomically, read without unpickling code.

DVC deletes a stage's outputs before it runs, so unfinished work is kept in .scratch/<stage>/<fingerprint>/<run>. The
fingerprint covers everything that the result depends on, so work of other settings, inputs or code is never continued.
Nor is it silently abandoned, because it may be days of computing: a run that would start from scratch beside it is
refused, and the error names what differs. Experiments (`dvc exp run`) are meant to differ: they start, and print which
unfinished work they leave.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from ssfer.core.errors import SsferError
from ssfer.core.files import atomic_file, project_root, read_json, scratch_dir, sha256_json, write_json
from ssfer.core.own_code import failure_in
from ssfer.core.process import rank_and_world
from ssfer.core.provenance import git_commit

log = logging.getLogger(__name__)
KEEP = 2  # if the newest file is damaged, the one before it is used
RECORD = "identity.json"  # what the fingerprint of a scratch folder was made from
SNAPSHOTS = "step-*.pt"
FAILED = "failed"  # marks a run whose loss was not finite, or whose own code failed: another may start without asking


class Scratch:
    """The locked scratch folder of one stage and one identity; a context manager.

    The first process of a launch holds the lock for all of them.

    Args:
        stage: name of the stage.
        identity: what the result depends on: settings, code, files (`ssfer.config.identity`) and inputs; JSON-able.

    Raises:
        SsferError: another launch holds the folder; or there is unfinished work of another identity, none of this
            one, and no experiment is running.
    """

    def __init__(self, stage: str, identity: Mapping[str, Any]) -> None:
        fingerprint = sha256_json(identity)[:16]
        self.stage, self.folder = stage, scratch_dir(stage, fingerprint)
        self._record = {
            "identity": json.loads(json.dumps(identity)),
            "commit": git_commit(),
            "experiment": os.environ.get("DVC_EXP_NAME"),
        }
        self._lock = FileLock(self.folder / "lock")
        self._first = rank_and_world()[0] == 0

    def __enter__(self) -> Scratch:
        if not self._first:
            return self
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise SsferError(
                f"another process is running stage {self.stage} with the same settings; wait for it or end it"
            ) from error
        try:
            if not list(self.folder.rglob(SNAPSHOTS)):
                self._check_unfinished()
                write_json(self.folder / RECORD, self._record)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._first and isinstance(value, Exception) and failure_in(value):
            (self.folder / FAILED).touch()  # a defect in the user's own file, which is going to be changed
        self._lock.release()

    def _check_unfinished(self) -> None:
        """Refuse to start beside unfinished work of another identity; an experiment only prints that it leaves it."""
        for folder in sorted(self.folder.parent.iterdir()):
            if folder == self.folder or not _abandoned(folder):
                continue
            found = read_json(folder / RECORD)
            place = folder.relative_to(project_root())
            changes = "; ".join(_differences(found, self._record))
            if self._record["experiment"]:
                print(f"{self.stage}: starts afresh, unfinished work stays in {place} ({changes})", file=sys.stderr)
            elif not found["experiment"]:
                raise SsferError(
                    f"{place} holds unfinished work of this stage that this run cannot continue ({changes}): change "
                    "that back to continue it, delete the folder to start afresh, or try the change with dvc exp run"
                )

    def checkpoints(self, run: str) -> Checkpoints:
        """Return the snapshots of one training run within the stage."""
        return Checkpoints(self.folder / run)

    def discard(self) -> None:
        """Delete all snapshots: the stage's outputs are complete."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


class Checkpoints:
    """Snapshots of one run, named by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Any], keep: int = KEEP) -> Path:
        """Write a snapshot of tensors and plain values, then drop all but the newest `keep`."""
        path = self.folder / f"step-{step:09d}.pt"
        with atomic_file(path) as file:
            torch.save({"step": step, **state}, file)
        (self.folder / FAILED).unlink(missing_ok=True)
        paths = self._paths()
        here = paths.index(path)
        # Snapshots of later steps are those that `load` could not read; counted as newest they would push out this one.
        for stale in paths[: max(here + 1 - keep, 0)] + paths[here + 1 :]:
            stale.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the newest readable snapshot, or None."""
        for path in reversed(self._paths()):
            try:
                with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums it writes
                    if (member := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"wrong checksum of {member}")
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            except Exception as error:  # damaged bytes raise nearly anything: KeyError, UnicodeDecodeError, ...
                log.warning("snapshot %s is damaged (%s); using the one before", path.name, type(error).__name__)
        return None

    def newest(self) -> str:
        """Return the newest snapshot's name, for messages."""
        paths = self._paths()
        return paths[-1].name if paths else "none"

    def give_up(self) -> None:
        """Mark the stage's work as failed, so that a run with other settings may start without asking."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILED).touch()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(SNAPSHOTS))


def _abandoned(folder: Path) -> bool:
    """Whether a scratch folder holds unfinished work that is not marked as failed and that no process works on."""
    if not (folder / RECORD).is_file() or not list(folder.rglob(SNAPSHOTS)) or list(folder.rglob(FAILED)):
        return False
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return "name was value, is value" for the settings and inputs that differ; if none do, the modules that do."""
    before, now = dict(_parts(old["identity"])), dict(_parts(new["identity"]))
    names = [name for name in before | now if before.get(name) != now.get(name)]
    shown = [f"{n[-1]} was {_short(before.get(n))}, is {_short(now.get(n))}" for n in names if n[0] != "code"]
    if not shown:
        modules = ", ".join(name[-1] for name in names[:3])
        return [f"code was that of commit {_short(old['commit'])}, is that of {_short(new['commit'])}: {modules}"]
    return shown[:3] + ([f"and {len(shown) - 3} more"] if len(shown) > 3 else [])


def _parts(identity: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield ((part, name), value) of an identity's parts: settings, code, files, inputs, or single values."""
    for part, content in identity.items():
        if isinstance(content, Mapping):
            yield from (((part, str(name)), value) for name, value in content.items())
        else:
            yield (part, part), content


def _short(value: Any) -> str:
    """Return a value as text; of a long hash the first characters."""
    text = str(value)
    long_hash = len(text) >= 40 and all(c in "0123456789abcdef" for c in text[:40])
    return text[:8] + ("-dirty" if text.endswith("-dirty") else "") if long_hash else text
