"""Run and kill stages of a small project; each run is a process forked from one that has imported everything."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ssfer.config.profiles import merge
from ssfer.core.files import write_json
from ssfer.core.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("generate", "align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate", "robustness")
# Outputs of each stage, which DVC deletes before it runs.
OUTPUTS: Mapping[str, Sequence[str]] = {
    "generate": ["data/raw/synthetic"],
    "align": ["data/faces"],
    "corpus": ["data/corpus"],
    "split": ["data/splits"],
    **{name: [f"data/weights/{name}"] for name in ("pretrain", "finetune", "semisup")},
    "evaluate": ["metrics/confusion.csv"],
    "robustness": ["metrics/curves/robustness.csv"],
}
SMALL: dict[str, Any] = {
    "generate": {"train": 63, "test": 14, "people": 30, "people_identities": 10},
    "align": {"size": 32, "shard_size": 16},
    "corpus": {"min_score": 0.5, "min_side": 8},
    "split": {"labeled_fraction": 0.5},
    "model": {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "pretrain": {
        "epochs": 6, "warmup_epochs": 1, "batch_size": 16,
        "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
    },
    "finetune": {"epochs": 4, "epochs_few_labels": 4, "warmup_epochs": 1, "batch_size": 8, "eval_every": 1},
    "semisup": {"epochs": 4, "batch_size": 8, "eval_every": 1},
    "machine": {"device": "cpu", "threads": 1, "num_workers": 0, "checkpoint_minutes": 0.0005},
    "tracking": {"enabled": False},
    "report": {"gallery": False},
}  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit status (negative: signal; None: it did not end), its output, and its seconds."""

    status: int | None
    said: str
    seconds: float

    def verdict(self, same: bool) -> str:
        """Return "same bytes", "sentence", or the failure: "traceback", "silent", "stuck", "died"."""
        if "Traceback (most recent call last)" in self.said:
            return "traceback"
        if self.status is None:
            return "stuck"
        if self.status == 0:
            return "same bytes" if same else "silent"
        last = (self.said.strip().splitlines() or [""])[-1]
        return "sentence" if self.status == 2 and ": error: " in last and last.isprintable() else "died"


def snapshots(folder: Path, stage: str) -> list[Path]:
    """Return the snapshots of a training stage that has not ended."""
    return sorted((folder / ".scratch" / stage).rglob("step-*.pt"))


def prepare() -> None:
    """Start the server that forks runs; importing everything once takes most of a small stage's time."""
    work = [f"ssfer.stages.{name}" for name in STAGES if name not in ("generate", "corpus")]
    _CONTEXT.set_forkserver_preload([*work, "ssfer.corpus.selection", "ssfer.report.corpus_page"])


def new_project(folder: Path, **sections: Any) -> None:
    """Make a folder with params.yaml of a small project."""
    folder.mkdir(parents=True)
    write_params(folder, **sections)


def write_params(folder: Path, **sections: Any) -> None:
    """Write params.yaml of a small project, with these values in its sections."""
    raw = read_yaml(ROOT / "params.yaml")
    for change in (SMALL, sections):
        merge(raw, change, "faults")
    write_json(folder / "params.yaml", raw)


class Run:
    """A run of a stage in a process; its output comes through a pipe, which the limits do not affect."""

    def __init__(self, folder: Path, stage: str, before: Callable[[], None] | None = None) -> None:
        self.began = time.monotonic()
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(folder, stage, before, theirs))
        self._process.start()
        theirs.close()
        self._said: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def wait(self, seconds: float = 240) -> Ended:
        """Wait until the run ends, stop its other processes, and return how it ended."""
        self._process.join(seconds)
        status = self._process.exitcode
        self.stop()
        self._reader.join(5)
        return Ended(status, b"".join(self._said).decode(errors="replace"), time.monotonic() - self.began)

    def alive(self) -> bool:
        """Return whether the run has not ended yet."""
        return self._process.is_alive()

    def stop(self) -> None:
        """Kill the run and all processes that it started."""
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.join()

    def _read(self, pipe: Connection) -> None:
        while data := os.read(pipe.fileno(), 65536):
            self._said.append(data)


def run(folder: Path, stage: str, seconds: float = 240) -> Ended:
    """Run a stage as DVC does: its outputs are deleted first."""
    clear(folder, stage)
    return Run(folder, stage).wait(seconds)


def clear(folder: Path, stage: str) -> None:
    """Delete what a stage writes."""
    for name in OUTPUTS[stage]:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """Return the sha256 of every file that a stage has written, by path."""
    paths = [p for name in OUTPUTS[stage] for p in [folder / name, *(folder / name).rglob("*")] if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


@dataclass(frozen=True)
class Limit:
    """A resource limit for a run; picklable."""

    kind: int
    value: int

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails, as on a full disk
        resource.setrlimit(self.kind, (self.value, self.value))


@dataclass(frozen=True)
class Nobody:
    """Run without root's rights, because read-only folders do not stop root."""

    def __call__(self) -> None:
        os.setgid(65534)
        os.setuid(65534)


def _run(folder: Path, stage: str, before: Callable[[], None] | None, said: Connection) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ |= {"DVC_ROOT": str(folder), "SSFER_MLFLOW": "0", "OMP_NUM_THREADS": "1"}
    for stream in (sys.stdout, sys.stderr):
        os.dup2(said.fileno(), stream.fileno())
    said.close()
    if before is not None:
        before()
    runpy.run_module(f"stages.{stage}", run_name="__main__")
