"""Runs that also go to a team's server: a real one, one that is away, silent or killed."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import parse_params
from ssfer.core.errors import SsferError
from ssfer.tracking.tracker import Tracker, log_build
from tests.support.mlflow_runs import RESULTS, by_role, make_params, write_results

mlflow = pytest.importorskip("mlflow")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits for a server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def away() -> str:
    """Address of a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def use(**changes: Any) -> None:
    """Run a stage that logs something."""
    with Tracker("split", make_params(**changes)) as tracker:
        tracker.log_epoch(0, {"loss": 1.0})
        tracker.log_metrics({"labeled": 7})
        assert tracker.active


def check_local(root: Path) -> None:
    parent, (child,) = by_role(root)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.metrics == {"loss": 1.0, "labeled": 7.0}
    assert len(parent.data.params) > 100


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("by", ["environment", "setting"])
def test_a_server_that_is_away_costs_one_line(
    root: Path, away: str, by: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@{away}")
    use(**{} if by == "environment" else {"tracking__uri": f"http://{away}"})
    check_local(root)
    out, err = capfd.readouterr()
    (line,) = err.strip().splitlines()
    assert line.startswith(f"tracking: http://{away} is switched off for this stage, the run goes on (")
    assert "secret" not in line
    assert out == ""


@pytest.mark.usefixtures("quick")
def test_a_server_that_never_answers_costs_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        use()
    assert time.monotonic() - start < 10
    check_local(root)
    assert capfd.readouterr().err.count("\n") == 1


def test_the_environment_goes_before_the_setting(
    root: Path, away: str, fresh_database: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Any store that MLflow knows will do: here a second database, which gets the same as the project's own."""
    (root / "team").mkdir()
    shutil.copy(fresh_database, root / "team" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/team/mlflow.db")
    use(tracking__uri=f"http://{away}")
    check_local(root)
    check_local(root / "team")
    assert capfd.readouterr().err == ""


def test_an_address_that_is_none_costs_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-store://somewhere")
    use()
    check_local(root)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("tracking: no-such-store://somewhere is switched off")


def test_the_parent_does_not_depend_on_the_address(root: Path, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-store://somewhere")
    use()
    use(tracking__uri=f"http://{away}")
    parent, children = by_role(root)
    assert len(children) == 2
    assert not [value for value in parent.data.params.values() if away in value]


def test_credentials_do_not_belong_in_params_yaml() -> None:
    raw = make_params().model_dump(mode="json")
    raw["tracking"]["uri"] = "https://someone:secret@mlflow.example.org"
    with pytest.raises(SsferError, match=r"'tracking.uri': an address without user and password is expected.*USERNAME"):
        parse_params(raw)


# A real server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, fresh_database: Path, away: str) -> Iterator[tuple[str, Any]]:
    """Address and process of `mlflow server`, with files."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(fresh_database, folder / "mlflow.db")
    port = away.rpartition(":")[2]
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://{away}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield f"http://{away}", process
    finally:
        stop(process)


def stop(process: Any) -> None:
    """End a server and its worker."""
    if process.poll() is None:
        os.killpg(process.pid, 15)
    process.wait(20)


def on_server(address: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=address)
    return list(client.search_runs([client.get_experiment_by_name("ssfer").experiment_id]))


@pytest.mark.slow
def test_a_real_server_gets_what_the_project_gets(
    root: Path, server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    address, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    write_results(root, RESULTS)
    with Tracker("split", make_params()) as tracker:
        tracker.log_epoch(0, {"loss": 1.0})
        tracker.log_metrics({"labeled": 7})
        tracker.log_file(root / "metrics/curves/semisup.csv")
    log_build(make_params())
    capfd.readouterr()
    local, (local_child,) = by_role(root)
    runs = on_server(address)
    (parent,) = [r for r in runs if r.data.tags["ssfer.role"] == "pipeline"]
    (child,) = [r for r in runs if r is not parent]
    for own, theirs in ((local, parent), (local_child, child)):
        assert (theirs.data.metrics, theirs.data.params) == (own.data.metrics, own.data.params)
        assert (theirs.info.status, theirs.info.run_name) == ("FINISHED", own.info.run_name)
        words = [w for d in (theirs.data.params, theirs.data.tags) for kv in d.items() for w in kv]
        assert getpass.getuser() not in words
        assert not [w for w in words if platform.node() in w or str(root) in w]
    assert parent.data.metrics["robustness.figure"] == 8
    client = mlflow.MlflowClient(tracking_uri=address)
    assert [f.path for f in client.list_artifacts(child.info.run_id)] == ["semisup.csv"]
    assert len(client.list_artifacts(parent.info.run_id, "metrics")) == len(RESULTS) + 1

    (root / ".scratch" / "mlflow_project").unlink()  # as in another person's clone
    with Tracker("split", make_params()):
        assert [r.info.status for r in on_server(address)].count("RUNNING") == 2
    assert len([r for r in on_server(address) if r.data.tags["ssfer.role"] == "pipeline"]) == 2
    assert capfd.readouterr().err == ""

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Tracker("finetune", make_params()) as tracker:
        tracker.log_epoch(0, {"loss": 1.0})
        stop(process)
        tracker.log_epoch(1, {"loss": 0.5})
        tracker.log_epoch(2, {"loss": 0.25})
    assert capfd.readouterr().err.count("\n") == 1
    (last,) = [r for r in by_role(root)[1] if r.info.run_name == "finetune"]
    assert (last.info.status, last.data.metrics) == ("FINISHED", {"loss": 0.25})
