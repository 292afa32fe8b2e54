"""One build in one MLflow store: experiment, parent run, and the child run of the current stage.

Functions here may raise any exception; `ssfer.tracking.tracker` turns it into one line. This uses MLflow's client
interface, because the fluent one adds host, user and paths.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssfer.config.identity import settings
from ssfer.config.schema import Params
from ssfer.core.files import project_root, sha256_json
from ssfer.core.provenance import git_commit, provenance
from ssfer.core.yaml import flatten
from ssfer.tracking.values import is_number, public_text, with_lists
from ssfer.train.compute import choose_compute

_COMPUTING = ("align", "pretrain", "finetune", "semisup", "evaluate", "robustness")  # with networks
LOCK_SECONDS = 60.0  # creating the database takes about ten; two stages must not do it at once
BUSY_SECONDS = 10.0
# MLflow alone would wait two minutes for an answer and try eight times.
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MlflowRun:
    """The parent run of a build and, for a stage, its child.

    Args:
        server: URI of a tracking server or of another MLflow store; None: the project's mlflow.db.
        stage: name of the child run; None: only the parent.
        params: the whole configuration.
        data_fingerprint: hash of the data the stage reads; stored as a tag.
    """

    def __init__(self, server: str | None, stage: str | None, params: Params, data_fingerprint: str | None) -> None:
        from filelock import FileLock

        self.name, root = public_address(server), project_root()
        (root / ".scratch").mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".scratch" / "mlflow.lock", timeout=LOCK_SECONDS):
            self.client = open_store(server, root)
            artifacts = (root / "mlartifacts").resolve().as_uri() if server is None else None
            self.experiment = self._experiment(params.tracking.experiment, artifacts)
            common = {"ssfer.build": build_key(params), "git.rev": git_commit()}
            common["dvc.exp_name"] = os.environ.get("DVC_EXP_NAME", "")
            if server is not None:  # several people may run the same build
                common["ssfer.project"] = _project_id(root)
            self.parent = self._parent(common, params)
            self.child = None
            if stage is not None:
                self._kill_stale(common, stage)
                self.child = self._child(stage, common, params, data_fingerprint)

    def _experiment(self, name: str, artifacts: str | None) -> str:
        self.keeps_files = True
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, artifact_location=artifacts))
        if artifacts is not None and found.artifact_location != artifacts:
            self.keeps_files = False
            say("files are not copied: mlflow.db was made when the project lay in another folder; numbers are kept")
        return str(found.experiment_id)

    def _parent(self, tags: Mapping[str, str], params: Params) -> str:
        found = self.client.search_runs([self.experiment], _query(tags, "ssfer.role", "pipeline"), max_results=1)
        if found:
            run = found[0]
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            own = {**tags, "ssfer.role": "pipeline"}
            run = self.client.create_run(self.experiment, tags=own, run_name=_run_name(params))
        if not run.data.params:
            self._log_params(run.info.run_id, _logged(params))
        return str(run.info.run_id)

    def _child(self, stage: str, common: Mapping[str, str], params: Params, data_fingerprint: str | None) -> str:
        tags = {**common, "ssfer.role": "stage", "dvc.stage": stage, "mlflow.parentRunId": self.parent}
        if data_fingerprint:
            tags["ssfer.data_fingerprint"] = data_fingerprint
        facts = provenance(choose_compute(params.machine).facts() if stage in _COMPUTING else None)
        tags |= {f"{part}.{key}": str(value) for part in ("versions", "machine") for key, value in facts[part].items()}
        child = str(self.client.create_run(self.experiment, tags=tags, run_name=stage).info.run_id)
        self._log_params(child, {**settings(stage, params), "machine": params.machine.model_dump(mode="json")})
        return child

    def _kill_stale(self, tags: Mapping[str, str], stage: str) -> None:
        """End runs that a killed process of the same stage and build left RUNNING."""
        query = f"{_query(tags, 'dvc.stage', stage)} and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment], query):
            self.client.set_terminated(run.info.run_id, status="KILLED")

    def log(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Record numbers in the child; nested names are joined by dots."""
        assert self.child is not None
        self._log_numbers(self.child, _numbers(values), step)

    def log_results(self, values: Mapping[str, Any]) -> None:
        """Record numbers in the parent, except those it already has."""
        held = self.client.get_run(self.parent).data.metrics
        self._log_numbers(self.parent, {k: v for k, v in _numbers(values).items() if held.get(k) != v}, 0)

    def _log_numbers(self, run: str, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in numbers.items()]
        for start in range(0, len(metrics), 1000):  # MLflow's limit per call
            self.client.log_batch(run, metrics=metrics[start : start + 1000])

    def _log_params(self, run: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, public_text(value)) for key, value in flatten(values, with_lists)]
        for start in range(0, len(params), 100):  # MLflow's limit per call
            self.client.log_batch(run, params=params[start : start + 100])

    def keep(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the child, else to the parent; a store that takes no files still gets numbers."""
        if not self.keeps_files:
            return
        try:
            self.client.log_artifact(self.child or self.parent, str(path), folder)
        except Exception as error:
            self.keeps_files = False
            say(f"{self.name} takes no files of this stage; numbers are kept ({reason(error)})")

    def end(self, status: str) -> None:
        """End the child, and the parent with it."""
        if self.child is not None:
            self.client.set_terminated(self.child, status=status)
        self.client.set_terminated(self.parent, status="FINISHED" if status == "FINISHED" else "FAILED")

    def try_to_end(self) -> None:
        """End the run after a failure, if the store still answers; the failure was already printed."""
        try:
            self.end("FAILED")
        except Exception:
            return


def public_address(server: str | None) -> str:
    """Return a store's address for messages, without user and password."""
    if server is None:
        return "mlflow.db"
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else f"{parts.scheme or 'store'}:"


def reason(error: Exception) -> str:
    """Return the first line of an error, with credentials removed from addresses."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {re.sub(r'//[^/@ ]+@', '//', text)[:200]}"


def build_key(params: Params) -> str:
    """Return a build's name, which its parent run is found by: DVC experiment or commit, and the settings' hash."""
    commit, _, dirty = git_commit().partition("-")
    origin = os.environ.get("DVC_EXP_NAME") or f"repro-{commit[:10]}{'-dirty' if dirty else ''}"
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', origin)}-{settings_key(params)}"


def settings_key(params: Params) -> str:
    """Return the hash at the end of a build's name; it is the same for all builds with these settings."""
    return sha256_json(_logged(params))[:8]


def say(message: str) -> None:
    """Print one line about tracking."""
    print(f"tracking: {message}", file=sys.stderr, flush=True)


def open_store(server: str | None, root: Path) -> Any:
    """Return MLflow's client for a store; None: the project's mlflow.db."""
    database = root / "mlflow.db"
    if server is None:
        _check_database(database)
    os.environ.pop("MLFLOW_RUN_ID", None)  # set by another tool, it would redirect the run
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for name, value in HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=f"sqlite:///{database.as_posix()}" if server is None else server)


def _check_database(path: Path) -> None:
    """Fail at once on a folder or a damaged, locked or read-only file, where MLflow would retry for minutes."""
    if not path.exists():
        return
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT count(*) FROM sqlite_master")
        connection.rollback()
    finally:
        connection.close()


def _project_id(root: Path) -> str:
    """Return this project folder's random name, drawn once and stored."""
    path = root / ".scratch" / "mlflow_project"
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return path.read_text().strip()


def _query(tags: Mapping[str, str], key: str, value: str) -> str:
    wanted = {k: tags[k] for k in ("ssfer.build", "ssfer.project") if k in tags} | {key: value}
    return " and ".join(f"tags.`{k}` = '{v}'" for k, v in wanted.items())


def _logged(params: Params) -> dict[str, Any]:
    """Return the whole configuration except the server's address."""
    return params.model_dump(mode="json", exclude={"tracking": {"uri"}})


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers by name, with characters that MLflow refuses replaced by _."""
    found = {re.sub(r"[^\w .:/-]", "_", key): value for key, value in flatten(values, with_lists)}
    return {key: float(value) for key, value in found.items() if is_number(value)}


def _run_name(params: Params) -> str:
    split = params.split
    labels = split.labeled_fraction or (
        f"{split.labeled_per_class}pc" if split.labeled_per_class else split.labeled_total
    )
    fold = "" if split.fold is None else f"-f{split.fold}"
    return os.environ.get("DVC_EXP_NAME") or f"{params.data.raw}-{labels}{fold}-s{split.seed}"
