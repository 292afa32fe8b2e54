"""Log every run to MLflow: one parent per build, one child per executed stage, in `mlflow.db` and on a server.

DVC's files remain the reference. MLflow adds curves, timings and pages to browse them, and it must never stop a run:
an error of a store prints one line and switches that store off for the stage. A build is one commit with one
params.yaml (and one DVC experiment), so a stage that runs again joins the same parent. Skipped and restored stages have
no child. The parent has all parameters from the start; a running stage adds the results of the stages before it, which
DVC has verified to belong to this build. Stage `log`, which always runs, adds all results. Nothing logged contains an
absolute path, a host or a user name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.files import read_json
from ssfer.core.places import TRAINED_MODEL
from ssfer.core.process import rank_and_world
from ssfer.tracking.mlflow_run import MlflowRun, public_address, reason, say
from ssfer.tracking.results import result_files, stages_before

TEXT_SUFFIXES = {".csv", ".json", ".html", ".md", ".txt", ".yaml", ".yml"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}


class Tracker:
    """Record one stage, as a context manager; no method raises because of MLflow.

    An exception inside the block ends the child run as FAILED (interrupts: KILLED) and propagates unchanged.

    Args:
        stage: name of the stage, also the child run's name.
        params: the whole configuration.
        data_fingerprint: hash of the data the stage reads; stored as a tag.
    """

    def __init__(self, stage: str, params: Params, data_fingerprint: str | None = None) -> None:
        self.stage, self.params = stage, params
        self._data_fingerprint = data_fingerprint
        self._runs: list[MlflowRun] = []

    @property
    def active(self) -> bool:
        """Return whether a store still takes values."""
        return bool(self._runs)

    def __enter__(self) -> Tracker:
        self._runs = _open(self.stage, self.params, self._data_fingerprint)
        self._each(lambda run: run.log_results(_results(stages_before(self.stage, self.params.data.raw))))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._each(lambda run: run.log_results(_results([self.stage])))
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._each(lambda run: run.end(status))
        self._runs = []

    def log_epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Record one epoch's numbers in one write; None and non-finite values are left out."""
        self._each(lambda run: run.log(values, step=epoch))

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Record final numbers, nested names joined by dots; values that are not finite numbers are left out."""
        self._each(lambda run: run.log(values))

    def log_file(self, path: Path) -> None:
        """Store a copy of a csv, json, html, md, txt or yaml file; of images only if report.gallery is true."""
        if self._runs and _may_be_kept(path, self.params.report.gallery):
            self._each(lambda run: run.keep(path))

    def _each(self, action: Callable[[MlflowRun], None]) -> None:
        self._runs = _survivors(self._runs, action)


def log_build(params: Params, files: Sequence[Path] = ()) -> None:
    """Write the results of every stage, their curves and `files` to the parent run, whether stages ran or not."""
    runs = _open(None, params, None)
    if not runs:
        return
    stages = stages_before("log", params.data.raw)
    kept: list[tuple[Path, str | None]] = [(path, "metrics") for stage in stages for path in result_files(stage)]
    kept += [(path, None) for path in files if _may_be_kept(path, params.report.gallery)]
    runs = _survivors(runs, lambda run: run.log_results(_results(stages)))
    for path, folder in kept:
        runs = _survivors(runs, partial(MlflowRun.keep, path=path, folder=folder))
    if (name := params.tracking.register_model) is not None:
        from ssfer.tracking.registered_model import registration  # imports torch, which stage log rarely needs

        with registration(name, TRAINED_MODEL) as register:
            runs = _survivors(runs, register) if register else runs
    _survivors(runs, lambda run: run.end("FINISHED"))


def _open(stage: str | None, params: Params, data_fingerprint: str | None) -> list[MlflowRun]:
    """Return the runs in mlflow.db and on the server; of several processes only the first writes.

    SSFER_MLFLOW=0 also avoids the import of MLflow.
    """
    switched_off = os.environ.get("SSFER_MLFLOW", "1").lower() in ("0", "false", "no")
    if not params.tracking.enabled or switched_off or rank_and_world()[0]:
        return []
    server = os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri
    runs = []
    for store in [None, server] if server else [None]:
        try:
            runs.append(MlflowRun(store, stage, params, data_fingerprint))
        except Exception as error:  # tracking must not stop a run of hours
            _switched_off(public_address(store), error)
    return runs


def _survivors(runs: Sequence[MlflowRun], action: Callable[[MlflowRun], None]) -> list[MlflowRun]:
    """Return the runs for which an action succeeded; end the others, with one line each."""
    left = []
    for run in runs:
        try:
            action(run)
            left.append(run)
        except Exception as error:
            _switched_off(run.name, error)
            run.try_to_end()
    return left


def _switched_off(store: str, error: Exception) -> None:
    say(f"{store} is switched off for this stage, the run goes on ({reason(error)})")


def _results(stages: Sequence[str]) -> dict[str, Any]:
    """Return the content of the stages' metrics files."""
    files = [path for stage in stages for path in result_files(stage) if path.suffix == ".json"]
    return {key: value for path in files for key, value in read_json(path).items()}


def _may_be_kept(path: Path, gallery: bool) -> bool:
    """Return whether a file may be copied; if not, print why."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES and not gallery:
        say(f"{path.name} is not copied: params.report.gallery is false, pictures may show people")
    elif suffix not in TEXT_SUFFIXES | IMAGE_SUFFIXES:
        say(f"{path.name} is not copied: only texts, tables and pictures are")
    elif not path.is_file():
        say(f"{path.name} is not copied: there is no such file")
    else:
        return True
    return False
