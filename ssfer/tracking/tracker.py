"""Logs every run to MLflow: one parent per build, one child per executed stage, in `mlflow.db` (sqlite).

DVC's files stay the truth. MLflow adds curves, timings and a page to browse them, and it must never stop a run:
whatever goes wrong here prints one line and switches tracking off. A build is one commit with one params.yaml (and one
DVC experiment), so a stage that is run again joins the same parent. Skipped and cached stages make no child; therefore
`log_pipeline` writes all parameters and results to the parent. Nothing logged carries an absolute path, a host or a
user name: the client interface is used because MLflow's fluent one adds them.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ssfer.config.identity import settings
from ssfer.config.schema import Params
from ssfer.core.files import project_root, read_json, sha256_json
from ssfer.core.provenance import git_commit, provenance
from ssfer.core.yaml import flatten
from ssfer.tracking.values import is_number, public_text, with_lists

TEXT_SUFFIXES = {".csv", ".json", ".html", ".md", ".txt", ".yaml", ".yml"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
LOCK_SECONDS = 60.0  # creating the database takes about ten; two stages must not do it at once
BUSY_SECONDS = 10.0


class Tracker:
    """Context manager that records one stage; every method returns normally whatever happens to MLflow.

    An exception inside the block ends the child run as FAILED (interrupts: KILLED) and propagates unchanged.

    Args:
        stage: name of the stage, also the child run's name.
        params: the whole configuration.
        data_fingerprint: hash of the data the stage reads; stored as a tag.
    """

    def __init__(self, stage: str, params: Params, data_fingerprint: str | None = None) -> None:
        self.stage, self.params, self.data_fingerprint = stage, params, data_fingerprint
        self._run: _Run | None = None

    @property
    def active(self) -> bool:
        """Whether values still reach MLflow."""
        return self._run is not None

    def __enter__(self) -> Tracker:
        if _wanted(self.params):
            with self._guard():
                self._run = _Run(self.stage, self.params, self.data_fingerprint)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        run, self._run = self._run, None
        if run is not None:
            with self._guard():
                run.end("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def log_epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Record one epoch's numbers in one write; None and non-finite values are left out."""
        if self._run:
            with self._guard():
                self._run.log(self._run.child, values, step=epoch)

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Record final numbers; nested names are joined by dots, what is no finite number is left out."""
        if self._run:
            with self._guard():
                self._run.log(self._run.child, values)

    def log_file(self, path: Path) -> None:
        """Keep a copy of a csv, json, html, md, txt or yaml file; pictures only if params.report.gallery is true."""
        if self._run:
            with self._guard():
                self._run.keep(self._run.child, path)

    def log_pipeline(self, metrics_dir: Path = Path("metrics"), files: Sequence[Path] = ()) -> None:
        """Record the whole params.yaml, every metrics/*.json, the curves and `files` in the parent run."""
        if self._run:
            with self._guard():
                self._run.log_params(self._run.parent, self.params.model_dump(mode="json"))
                for path in sorted(metrics_dir.glob("*.json")):
                    self._run.log(self._run.parent, read_json(path))
                for path in sorted([*metrics_dir.glob("**/*.json"), *metrics_dir.glob("**/*.csv")]):
                    self._run.keep(self._run.parent, path, "metrics")
                for path in files:
                    self._run.keep(self._run.parent, path)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tracking must not stop a run of hours
            reason = (str(error).strip().splitlines() or [""])[0]
            _say(f"switched off for this stage, the run goes on ({type(error).__name__}: {reason[:200]})")
            run, self._run = self._run, None
            if run is not None:
                run.try_to_end()


class _Run:
    """The MLflow side: opens database, experiment, parent and child; may raise anything."""

    def __init__(self, stage: str, params: Params, data_fingerprint: str | None) -> None:
        from filelock import FileLock

        root = project_root()
        self.gallery = params.report.gallery
        (root / ".scratch").mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".scratch" / "mlflow.lock", timeout=LOCK_SECONDS):
            _check_database(root / "mlflow.db")
            os.environ.pop("MLFLOW_RUN_ID", None)  # left by other tools, it would hijack the run
            logging.getLogger("alembic").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            self.client = MlflowClient(tracking_uri=f"sqlite:///{(root / 'mlflow.db').as_posix()}")
            artifacts = (root / "mlartifacts").resolve().as_uri()
            self.experiment = self._experiment(params.tracking.experiment, artifacts)
            build = _build_key(params)
            commit = git_commit()
            common = {"ssfer.build": build, "git.rev": commit, "dvc.exp_name": os.environ.get("DVC_EXP_NAME", "")}
            self.parent = self._parent(build, _run_name(params), common)
            self._kill_stale(build, stage)
        tags = {**common, "ssfer.role": "stage", "dvc.stage": stage, "mlflow.parentRunId": self.parent}
        if data_fingerprint:
            tags["ssfer.data_fingerprint"] = data_fingerprint
        facts = provenance()
        tags |= {f"{part}.{key}": str(value) for part in ("versions", "machine") for key, value in facts[part].items()}
        self.child = self.client.create_run(self.experiment, tags=tags, run_name=stage).info.run_id
        self.log_params(self.child, {**settings(stage, params), "machine": params.machine.model_dump(mode="json")})

    def _experiment(self, name: str, artifacts: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            self.keeps_files = True
            return str(self.client.create_experiment(name, artifact_location=artifacts))
        self.keeps_files = found.artifact_location == artifacts
        if not self.keeps_files:
            _say("files are not copied: mlflow.db was made when the project lay in another folder; numbers are kept")
        return str(found.experiment_id)

    def _parent(self, build: str, name: str, tags: Mapping[str, str]) -> str:
        query = f"tags.`ssfer.build` = '{build}' and tags.`ssfer.role` = 'pipeline'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        run = self.client.create_run(self.experiment, tags={**tags, "ssfer.role": "pipeline"}, run_name=name)
        return str(run.info.run_id)

    def _kill_stale(self, build: str, stage: str) -> None:
        """End what a killed process of the same stage and build left RUNNING."""
        query = f"tags.`ssfer.build` = '{build}' and tags.`dvc.stage` = '{stage}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment], query):
            self.client.set_terminated(run.info.run_id, status="KILLED")

    def log(self, run: str, values: Mapping[str, Any], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = (
            (re.sub(r"[^\w .:/-]", "_", key), value) for key, value in flatten(values, with_lists) if is_number(value)
        )
        metrics = [Metric(key, float(value), now, step) for key, value in numbers]
        for start in range(0, len(metrics), 1000):  # MLflow's limit of one write
            self.client.log_batch(run, metrics=metrics[start : start + 1000])

    def log_params(self, run: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, public_text(value)) for key, value in flatten(values, with_lists)]
        for start in range(0, len(params), 100):  # MLflow's limit of one write
            self.client.log_batch(run, params=params[start : start + 100])

    def keep(self, run: str, path: Path, folder: str | None = None) -> None:
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES and not self.gallery:
            _say(f"{path.name} is not copied: params.report.gallery is false, pictures may show people")
        elif suffix not in TEXT_SUFFIXES | IMAGE_SUFFIXES:
            _say(f"{path.name} is not copied: only texts, tables and pictures are")
        elif not path.is_file():
            _say(f"{path.name} is not copied: there is no such file")
        elif self.keeps_files:
            self.client.log_artifact(run, str(path), folder)

    def end(self, status: str) -> None:
        self.client.set_terminated(self.child, status=status)
        self.client.set_terminated(self.parent, status="FINISHED" if status == "FINISHED" else "FAILED")

    def try_to_end(self) -> None:
        """After a failure: leave no RUNNING entry if the database still takes it; the failure was printed already."""
        try:
            self.end("FAILED")
        except Exception:
            return


def _wanted(params: Params) -> bool:
    """Only the first process of a multi-process run writes; SSFER_MLFLOW=0 spares even the import."""
    switched_off = os.environ.get("SSFER_MLFLOW", "1").lower() in ("0", "false", "no")
    return params.tracking.enabled and not switched_off and os.environ.get("RANK", "0") == "0"


def _check_database(path: Path) -> None:
    """Fail at once where MLflow would retry for minutes: a folder, a damaged, locked or read-only file."""
    if not path.exists():
        return
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT count(*) FROM sqlite_master")
        connection.rollback()
    finally:
        connection.close()


def _build_key(params: Params) -> str:
    """Return what one parent run stands for: the DVC experiment or the commit, and the parameters."""
    commit, _, dirty = git_commit().partition("-")
    origin = os.environ.get("DVC_EXP_NAME") or f"repro-{commit[:10]}{'-dirty' if dirty else ''}"
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', origin)}-{sha256_json(params.model_dump(mode='json'))[:8]}"


def _run_name(params: Params) -> str:
    split = params.split
    labels = split.labeled_fraction or (
        f"{split.labeled_per_class}pc" if split.labeled_per_class else split.labeled_total
    )
    fold = "" if split.fold is None else f"-f{split.fold}"
    return os.environ.get("DVC_EXP_NAME") or f"{params.data.raw}-{labels}{fold}-s{split.seed}"


def _say(message: str) -> None:
    print(f"tracking: {message}", file=sys.stderr, flush=True)
