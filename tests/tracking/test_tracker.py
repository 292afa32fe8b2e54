"""Runs in a real sqlite store in a temporary folder, and all that can be wrong with it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import Params, parse_params
from ssfer.core.yaml import flatten
from ssfer.tracking import mlflow_run
from ssfer.tracking.tracker import Tracker, log_build
from ssfer.tracking.values import with_lists
from tests.support.mlflow_runs import RESULTS, all_runs, by_role, client_of, make_params, write_results

mlflow = pytest.importorskip("mlflow")

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = """
import sys
from pathlib import Path
from ssfer.config.schema import load_params
from ssfer.tracking.tracker import Tracker
"""


def test_a_stage_leaves_parent_child_params_metrics_and_tags(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # left over by another tool
    with Tracker("pretrain", make_params(), data_fingerprint="f00d") as tracker:
        assert tracker.active
        tracker.log_epoch(0, {"loss": 0.5, "grad_norm": None})
        tracker.log_epoch(1, {"loss": 0.25, "lr": 0.001, "grad_norm": float("nan")})
        tracker.log_metrics({"pretrain": {"loss": 0.25, "epochs": 2, "sha": "abc", "ok": True, "ci": [0.1, 0.2]}})
    parent, (child,) = by_role(root)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["dvc.stage"] == child.info.run_name == "pretrain"
    assert child.data.tags["ssfer.build"] == parent.data.tags["ssfer.build"]
    assert child.data.tags["ssfer.data_fingerprint"] == "f00d"
    assert "versions.torch" in child.data.tags
    assert (child.data.tags["machine.device"], child.data.tags["machine.eval_precision"]) == ("CPU", "fp32")
    assert child.data.params["pretrain.lr"] == "0.002"
    assert child.data.params["pretrain.norm_pix_loss"] == "true"
    assert child.data.params["model.mean.2"] == str(make_params().model.mean[2])
    assert not any(key.startswith("semisup") for key in child.data.params)
    assert child.data.metrics == {
        "loss": 0.25, "lr": 0.001, "pretrain.loss": 0.25, "pretrain.epochs": 2.0,
        "pretrain.ci.0": 0.1, "pretrain.ci.1": 0.2,
    }  # fmt: skip
    client = client_of(root)
    assert [(m.step, m.value) for m in client.get_metric_history(child.info.run_id, "loss")] == [(0, 0.5), (1, 0.25)]
    assert "MLFLOW_RUN_ID" not in os.environ


def test_nothing_logged_names_the_user_the_host_or_a_folder(root: Path) -> None:
    raw = make_params().model_dump(mode="json")
    raw["data"]["sources"][0]["path"] = "/home/alice/secret/faces"
    raw["data"]["sources"][1]["path"] = "C:\\Users\\alice\\people"
    with Tracker("align", parse_params(raw)):
        pass
    words = [w for r in all_runs(root) for d in (r.data.params, r.data.tags) for kv in d.items() for w in kv]
    assert {"faces", "people"} <= set(words)
    for private in ("alice", str(root), str(ROOT), platform.node()):
        assert not any(private in word for word in words), private
    assert getpass.getuser() not in words
    assert all(r.info.user_id in ("", "unknown", None) for r in all_runs(root))


def test_stages_of_one_build_share_a_parent_and_other_params_get_their_own(root: Path) -> None:
    for stage in ("split", "finetune"):
        with Tracker(stage, make_params()):
            pass
    with Tracker("finetune", make_params(split__labeled_fraction=0.25, split__fold=2)):
        pass
    parents = [r for r in all_runs(root) if r.data.tags["ssfer.role"] == "pipeline"]
    assert sorted(p.info.run_name for p in parents) == ["synthetic-0.1-s2024", "synthetic-0.25-f2-s2024"]
    children = {}
    for run in all_runs(root):
        children.setdefault(run.data.tags.get("mlflow.parentRunId"), []).append(run.info.run_name)
    names = {p.info.run_name: sorted(children[p.info.run_id]) for p in parents}
    assert names == {"synthetic-0.1-s2024": ["finetune", "split"], "synthetic-0.25-f2-s2024": ["finetune"]}


def test_dvc_experiment_names_the_build(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "it's-a-try")  # legal in git, poison in a query
    monkeypatch.setattr(mlflow_run, "git_commit", lambda: "c0ffee" * 6 + "abcd-dirty")
    for _ in range(2):
        with Tracker("split", make_params()) as tracker:
            assert tracker.active
    parent, children = by_role(root)
    assert parent.info.run_name == "it's-a-try" and len(children) == 2
    assert parent.data.tags["dvc.exp_name"] == "it's-a-try"
    assert parent.data.tags["git.rev"].endswith("abcd-dirty")
    assert parent.data.tags["ssfer.build"].startswith("it_s-a-try-")


def test_build_is_the_commit_and_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setattr(mlflow_run, "git_commit", lambda: "0123456789abcdef-dirty")
    key = mlflow_run.build_key(make_params())
    assert key.startswith("repro-0123456789-dirty-") and key == mlflow_run.build_key(make_params())
    assert key != mlflow_run.build_key(make_params(pretrain__lr=0.003))


def test_children_of_a_killed_process_end_at_the_next_start_of_that_stage(root: Path) -> None:
    Tracker("pretrain", make_params()).__enter__()  # never left: as after kill -9
    Tracker("finetune", make_params()).__enter__()
    assert [c.info.status for c in by_role(root)[1]] == ["RUNNING", "RUNNING"]
    with Tracker("pretrain", make_params()):
        pass
    states = sorted((c.info.run_name, c.info.status) for c in by_role(root)[1])
    assert states == [("finetune", "RUNNING"), ("pretrain", "FINISHED"), ("pretrain", "KILLED")]


@pytest.mark.parametrize(("error", "status"), [(ValueError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_exceptions_mark_the_child_and_propagate(root: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), Tracker("split", make_params()):
        raise error
    parent, (child,) = by_role(root)
    assert (child.info.status, parent.info.status) == (status, "FAILED")


def test_the_parent_is_complete_when_dvc_skips_every_stage(root: Path) -> None:
    write_results(root, RESULTS)
    (root / "metrics/experiments").mkdir()
    (root / "metrics/experiments/record.json").write_text('{"accuracy": 0.5}')
    (root / "MODEL_CARD.md").write_text("# card\n")
    for _ in range(2):
        log_build(make_params(), files=[Path("MODEL_CARD.md"), root / "params.missing"])
    parent, children = by_role(root)
    assert children == []
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {f"{stage}.figure": float(number) for number, stage in enumerate(RESULTS)}
    assert set(parent.data.params) == {key for key, _ in flatten(make_params().model_dump(), with_lists)} - {
        "tracking.uri"
    }
    assert parent.data.params["methods.ema_teacher.lambda_u"] == "5.0"
    assert parent.data.params["split.labeled_total"] == "null"
    folder = root / "mlartifacts" / parent.info.run_id / "artifacts"
    kept = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert kept == {"MODEL_CARD.md", "metrics/semisup.csv", *(f"metrics/{stage}.json" for stage in RESULTS)}


def test_a_stage_logs_the_results_before_it_and_its_own_and_no_older_ones(root: Path) -> None:
    write_results(root, RESULTS)  # those of robustness are of an earlier run
    with Tracker("evaluate", make_params()):
        (root / "metrics/evaluate.json").write_text('{"evaluate": {"accuracy": 0.8, "classes": ["a"]}}')
        parent, _ = by_role(root)
        assert not any(name.startswith("evaluate") for name in parent.data.metrics)
    parent, _ = by_role(root)
    before = set(RESULTS) - {"evaluate", "robustness"}
    assert set(parent.data.metrics) == {f"{stage}.figure" for stage in before} | {"evaluate.accuracy"}
    assert len(parent.data.params) > 100


def test_figures_of_rendered_faces_are_not_logged_for_other_data(root: Path) -> None:
    write_results(root, RESULTS)
    log_build(make_params(data__raw="ferplus"))
    assert {name.partition(".")[0] for name in by_role(root)[0].data.metrics} == set(RESULTS) - {"generate"}


def test_a_stage_run_again_replaces_its_figures_in_the_parent(root: Path) -> None:
    write_results(root, ["split"])
    for figure in (1, 1, 2):
        with Tracker("split", make_params()):
            (root / "metrics/split.json").write_text(json.dumps({"split": {"figure": figure}}))
    parent, _ = by_role(root)
    assert parent.data.metrics["split.figure"] == 2
    history = client_of(root).get_metric_history(parent.info.run_id, "split.figure")
    assert [entry.value for entry in history] == [1, 2]


@pytest.mark.parametrize("gallery", [False, True])
def test_pictures_are_kept_only_with_the_gallery(root: Path, gallery: bool, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("face.PNG", "table.csv", "model.safetensors"):
        (root / name).write_text("x")
    with Tracker("report", make_params(report__gallery=gallery)) as tracker:
        for name in ("face.PNG", "table.csv", "model.safetensors"):
            tracker.log_file(root / name)
        assert tracker.active
    _, (child,) = by_role(root)
    kept = {p.name for p in (root / "mlartifacts" / child.info.run_id).rglob("*") if p.is_file()}
    assert kept == {"table.csv"} | ({"face.PNG"} if gallery else set())
    assert ("face.PNG is not copied" in capfd.readouterr().err) is not gallery


def test_database_of_a_moved_project_keeps_numbers_and_writes_no_file_elsewhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Tracker("split", make_params()):
        pass
    moved = tmp_path_factory.mktemp("moved")
    (root / "mlflow.db").rename(moved / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(moved))
    (moved / "t.csv").write_text("a\n")
    with Tracker("split", make_params()) as tracker:
        tracker.log_file(moved / "t.csv")
        tracker.log_metrics({"a": 1})
    assert sorted(r.data.metrics.get("a", 0) for r in all_runs(moved)) == [0, 0, 1]
    assert not (root / "mlartifacts").exists() and not (moved / "mlartifacts").exists()


# What may be wrong without costing the run ------------------------------------------------------------------------


def use(params: Params | None = None) -> None:
    """A stage that must run to its end, whatever the tracker meets."""
    with Tracker("pretrain", params or make_params()) as tracker:
        tracker.log_epoch(0, {"loss": 1.0})
        tracker.log_metrics({"loss": 1.0})
        tracker.log_file(Path("missing.csv"))
        assert not tracker.active


def make_a_directory(path: Path) -> None:
    path.mkdir()


def make_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 500)


def make_a_foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('of_the_future')")
        connection.execute("CREATE TABLE experiments (nonsense TEXT)")


@pytest.mark.parametrize("damage", [make_a_directory, make_garbage, make_a_foreign_database])
def test_unusable_database_costs_one_line(empty_root: Path, damage: Any, capfd: pytest.CaptureFixture[str]) -> None:
    damage(empty_root / "mlflow.db")
    start = time.monotonic()
    use()
    assert time.monotonic() - start < 15  # MLflow alone would retry for minutes
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("tracking: mlflow.db is switched off") and "the run goes on" in line


def test_locked_database_costs_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Tracker("split", make_params()):
        pass
    monkeypatch.setattr(mlflow_run, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    use()
    other.close()
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "database is locked" in line


def test_missing_mlflow_costs_one_line(
    empty_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    use()
    assert capfd.readouterr().err.count("\n") == 1


def test_failure_in_the_middle_switches_off_once_and_leaves_no_running_entry(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Tracker("pretrain", make_params()) as tracker:
        tracker.log_epoch(0, {"loss": 1.0})

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tracker._runs[0].client, "log_batch", full)
        tracker.log_epoch(1, {"loss": 0.5})
        tracker.log_epoch(2, {"loss": 0.5})
    assert capfd.readouterr().err.count("No space left on device") == 1
    parent, (child,) = by_role(root)
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")
    assert child.data.metrics == {"loss": 1.0}


def test_switches_leave_no_trace(empty_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(make_params(tracking__enabled=False))
    monkeypatch.setenv("RANK", "1")  # a second process of a multi-process run
    use()
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("SSFER_MLFLOW", "0")
    use()
    log_build(make_params())
    assert [path.name for path in empty_root.iterdir()] == ["dvc.yaml"]


def test_switched_off_tracking_never_imports_mlflow(empty_root: Path) -> None:
    code = IMPORTS + (
        "with Tracker('split', load_params(Path('params.yaml'))) as t: t.log_metrics({'a': 1})\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "SSFER_MLFLOW": "0"})


@pytest.mark.slow
def test_two_processes_may_create_the_database_at_once(empty_root: Path) -> None:
    code = IMPORTS + (
        "with Tracker(sys.argv[1], load_params(Path('params.yaml'))) as t: t.log_metrics({'a': 1}); assert t.active"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, s], cwd=ROOT) for s in ("split", "corpus")]
    assert [p.wait(180) for p in processes] == [0, 0]
    parent, children = by_role(empty_root)
    assert sorted(c.info.run_name for c in children) == ["corpus", "split"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
