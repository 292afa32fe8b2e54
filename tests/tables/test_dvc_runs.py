"""Experiments through DVC and git: refused before anything is lost, run once, taken up after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ssfer.config.identity import settings
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.tables import dvc_runs
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import table_numbers
from ssfer.tables.plan import Study
from ssfer.tables.records import read_records
from ssfer.tables.run import ids_hash, plan, read_result, run_jobs
from tests.support.experiment_fakes import cell_of

KNOWN = catalogue()
ROOT = Path(__file__).resolve().parents[2]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def git(*words: str) -> str:
    return subprocess.run([*GIT, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit_all() -> str:
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", "t")
    return git("rev-parse", "HEAD")


@pytest.fixture
def repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project as a git repository with one commit."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (project / ".gitignore").write_text("/.scratch/\n/data/\n")
    git("init", "-q", "-b", "main")
    commit_all()
    return project


def test_hash_of_the_test_part_ignores_its_order() -> None:
    assert ids_hash(["b", "a"]) == ids_hash(["a", "b"]) != ids_hash(["a", "b", "c"])
    assert ids_hash(["ab", "c"]) != ids_hash(["a", "bc"])


def test_runs_of_a_folder_in_no_repository_or_without_git_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SsferError, match=f"and {project} is in no git repository; .*: git init && git add"):
        dvc_runs.finished("mine")
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(SsferError, match="runs are read from git, which is not installed here; install it"):
        dvc_runs.finished("mine")
    assert dvc_runs.read_text("HEAD", "params.yaml") is None


def test_a_folder_without_git_is_refused(project: Path) -> None:
    with pytest.raises(SsferError, match="need a git repository with at least one commit"):
        dvc_runs.check_repository()


def test_files_of_a_project_below_the_repositorys_root_are_read(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "mine").mkdir()
    (repository / "mine/params.yaml").write_text("of the project below")
    commit_all()
    monkeypatch.chdir(repository / "mine")
    assert dvc_runs.read_text("HEAD", "params.yaml") == "of the project below"


def test_code_that_git_does_not_know_is_refused(repository: Path) -> None:
    """`dvc exp run --temp` would leave it out, and fail in the middle."""
    dvc_runs.check_repository()
    (repository / "notes.txt").write_text("no code")
    dvc_runs.check_repository()
    (repository / "ssfer").mkdir()
    (repository / "ssfer" / "new.py").write_text("")
    with pytest.raises(SsferError, match=r"run without ssfer/new.py, which git does not know: commit it first"):
        dvc_runs.check_repository()


def test_a_shallow_clone_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would train, exit with 0 and keep nothing."""
    (repository / "more").write_text("")
    commit_all()
    git("clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(SsferError, match="shallow clone: git fetch --unshallow"):
        dvc_runs.check_repository()


def test_a_cache_below_a_folder_with_an_umlaut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would fail with "'ascii' codec can't encode character" after each experiment had begun."""
    repo = pytest.importorskip("dvc.repo")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, message in (("plain", None), ("für mich", r"other than ASCII ones, found .*für mich.*; move or rename")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        repo.Repo.init(no_scm=True).close()
        with pytest.raises(SsferError, match=message) if message else nullcontext():
            dvc_runs.check_cache()


def test_raw_photos_must_have_become_faces_here(project: Path) -> None:
    study = Study(KNOWN, "ferplus")
    message = "first: ssfer profile paper ferplus --write && dvc repro align"
    with pytest.raises(SsferError, match=message):
        dvc_runs.check_faces(study.prepared, study.profiles)
    with pytest.raises(SsferError, match=r", nor is data/raw/ferplus/ferplus there \(profiles") as refusal:
        dvc_runs.check_faces(study.prepared, study.profiles)
    assert "\n" not in str(refusal.value)
    for source in study.prepared.data.sources:
        (project / "data/raw/ferplus" / source.path).mkdir(parents=True)
    with pytest.raises(SsferError, match=r"\(ferplus, 224 px\); first: "):
        dvc_runs.check_faces(study.prepared, study.profiles)
    found = settings("align", study.prepared)
    write_json(project / dvc_runs.FACES_IDENTITY, {"settings": found})
    dvc_runs.check_faces(study.prepared, study.profiles)
    write_json(project / dvc_runs.FACES_IDENTITY, {"settings": found | {"align.size": 112}})
    with pytest.raises(SsferError, match=r"does not hold the faces of these settings \(ferplus, 224 px\)"):
        dvc_runs.check_faces(study.prepared, study.profiles)
    dvc_runs.check_faces(Study(KNOWN, "demo").prepared, ())


def test_command_runs_apart_and_forces_nothing(project: Path) -> None:
    """--force would train everything again; without --temp DVC changes params.yaml, data and HEAD."""
    study = Study(KNOWN, "demo")
    experiment = study.experiment(cell_of(study, "table10", "Baseline"), 2025)
    words = dvc_runs.command(experiment, ["evaluate"])
    assert words[:4] == ["exp", "run", "--temp", "-n"]
    assert words[4] == experiment.name and words[-1] == "evaluate"
    values = [b for a, b in pairwise(words) if a == "-S"]
    assert values == [
        "split.seed=2025",
        "finetune.seed=2025",
        "finetune.baselines=[]",
        "finetune.facemix.mode=none",
        "semisup.seed=2025",
    ]
    assert not {"-f", "--force", "--allow-missing"} & set(words)
    assert "--queue" in dvc_runs.command(experiment, ["evaluate"], queue=True)
    real = Study(KNOWN, "rafdb")
    assert "--allow-missing" in dvc_runs.command(real.experiment(cell_of(real, "table2", "SSFER"), 1), ["evaluate"])


def test_experiments_are_found_by_name_whatever_they_started_from(repository: Path) -> None:
    def experiment(code: str, when: str) -> tuple[str, str]:
        base = git("rev-parse", "HEAD")
        (repository / "ssfer").mkdir(exist_ok=True)
        (repository / "ssfer" / "a.py").write_text(code)
        git("add", "-A")
        tree = git("write-tree")
        dated = {**os.environ, "GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when}
        made = subprocess.run(
            [*GIT, "commit-tree", tree, "-p", base, "-m", "exp"], env=dated, check=True, capture_output=True, text=True
        ).stdout.strip()
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/mine", made)
        return base, made

    base, old = experiment("", "2020-01-01T00:00:00Z")
    assert dvc_runs.origin(old) == f"{base}-dirty", "its code is not the commit's"
    base = commit_all()
    _, new = experiment("", "2021-01-01T00:00:00Z")
    assert dvc_runs.origin(new) == base
    assert dvc_runs.finished("mine") == [new, old]
    assert dvc_runs.finished("min") == dvc_runs.finished("other") == []
    assert dvc_runs.read_text(new, "ssfer/a.py") == ""
    assert dvc_runs.read_text(new, "absent") is None


def test_metrics_of_another_model_are_not_taken_for_current(repository: Path) -> None:
    """An experiment that did not run stage robustness still has its parent's metrics/robustness.json."""

    def lock(trained: str, attacked: str) -> str:
        stages = {
            "semisup": {"outs": [{"path": "data/weights/semisup", "md5": trained}]},
            "robustness": {"deps": [{"path": "data/weights/semisup", "md5": attacked}, {"path": "a.py", "md5": "x"}]},
        }
        YAML().dump({"schema": "2.0", "stages": stages}, repository / "dvc.lock")
        return commit_all()

    assert dvc_runs.is_current(lock("new", "new"), "robustness")
    stale = lock("new", "old")
    assert not dvc_runs.is_current(stale, "robustness")
    assert not dvc_runs.is_current(stale, "evaluate"), "never ran"


def test_lock_file_of_a_commit_is_read_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outs = [{"path": "data/weights/pretrain", "md5": "1.dir"}]
    YAML().dump({"stages": {"pretrain": {"outs": outs}, "evaluate": {"deps": outs}}}, repository / "dvc.lock")
    first = commit_all()
    outs[0]["md5"] = "2.dir"
    YAML().dump({"stages": {"pretrain": {"outs": outs}}}, repository / "dvc.lock")
    second = commit_all()
    reads: list[str] = []
    read = dvc_runs.read_text
    monkeypatch.setattr(dvc_runs, "read_text", lambda commit, path: (reads.append(commit), read(commit, path))[1])
    for commit, weights, current in ((first, "1.dir", True), (second, "2.dir", False)):
        assert [dvc_runs.is_current(commit, "evaluate") for _ in range(3)] == [current] * 3
        assert dvc_runs.pretrained(commit) == weights
    assert reads == [first, second]


def test_a_result_is_of_the_settings_labels_and_stages_asked_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split comes from DVC's cache, which only the slow tests have."""
    split = {"hash": "h", "labeled": ["a"], "valid": [], "unlabeled": ["b", "c"], "test": ["d", "e"]}
    monkeypatch.setattr(dvc_runs, "read_split", lambda commit: split)
    study = Study(KNOWN, "demo")
    (job,) = plan(study, ["table2"], [2024])[0]
    params = (repository / "params.yaml").read_text()
    own = params.replace("baselines: [scratch, plain]", "baselines: []")
    evaluated = {"models": {}, "classes": ["a", "b"], "headline_model": "teacher_last"}
    metrics, lock = {"evaluate": evaluated}, {"stages": {"evaluate": {"deps": []}}}

    def result(params: str, metrics: Any = metrics, lock: Any = lock) -> Any:
        (repository / "params.yaml").write_text(params)
        (repository / "metrics").mkdir(exist_ok=True)
        (repository / "metrics" / "evaluate.json").write_text(json.dumps(metrics))
        YAML().dump(lock, repository / "dvc.lock")
        return read_result(commit_all(), job, study.defaults)

    found = result(own)
    assert (found.name, found.labels, found.seed, found.fold) == (job.experiment.name, "10%", 2024, None)
    assert found.split == {"hash": "h", "labeled": 1, "valid": 0, "unlabeled": 2, "test": 2}
    assert found.test == {"images": 2, "sha256": ids_hash(["d", "e"])}
    assert (found.pretrained, found.confusion, found.identity, found.outputs) == (None, None, {}, {})
    outs = [{"path": "data/weights/other", "md5": "1"}, {"path": "data/weights/pretrain", "md5": "2.dir"}]
    deps = {
        s: [{"path": f"data/identity/{s}.json", "md5": s}] for s in ("generate", "pretrain", "robustness", "report")
    }
    stages = {s: {"deps": d} for s, d in deps.items()} | {"pretrain": {"deps": deps["pretrain"], "outs": outs}}
    (repository / "metrics" / "confusion.csv").write_text("actual,predicted\na,a\na,b\na,b\nb,b\n")
    started = result(own, lock={"stages": {**lock["stages"], **stages}})
    assert started.pretrained == "2.dir"
    assert started.identity == {"pretrain": "pretrain"}, "neither unmeasured stages nor faces that were not used"
    assert started.outputs == {"data/weights/other": "1", "data/weights/pretrain": "2.dir"}
    counts = [[1, 2], [0, 1]]
    assert started.confusion == {"model": "teacher_last", "classes": ["a", "b"], "counts": counts}
    assert found.metrics == metrics
    assert found.settings == job.experiment.settings
    asked = own.replace("device: auto ", "device: cpu ").replace("threads: auto ", "threads: 3 ")
    assert asked.count("device: cpu ") == asked.count("threads: 3 ") == 1
    computed = {"device": "cpu", "precision": "fp32", "threads": 3, "torch": str(torch.__version__)}
    assert result(asked).computed == computed and found.computed["threads"] == torch.get_num_threads()
    assert result(own.replace("device: auto ", "device: cuda:99 ")).computed is None, "not a device of this machine"
    assert result(params) is None, "other settings"
    assert result(own.replace("classes: synthetic ", "classes: affectnet7 ")) is None, "other labels"
    assert result("data: {}\n") is None, "params of another time"
    assert result(own, lock={"stages": {}}) is None, "stage evaluate did not run"
    assert result(own) is not None


DVC_YAML = """
stages:
  split:
    cmd: python toy.py split
    params: [split]
    outs: [data/splits]
  semisup:
    cmd: python toy.py semisup
    deps: [data/splits]
    params: [finetune, semisup]
    outs: [data/weights]
  evaluate:
    cmd: python toy.py evaluate
    deps: [data/splits, data/weights]
    params: [evaluate]
    metrics: [metrics/evaluate.json: {cache: false}]
  robustness:
    cmd: python toy.py robustness
    deps: [data/splits, data/weights]
    params: [robustness]
    metrics: [metrics/robustness.json: {cache: false}]
"""
# Accuracy is mode and seed, so that a mixed-up result shows. A file `hang` in the project stops training forever.
TOY = """
import json, os, pathlib, sys, time, yaml
stage, params = sys.argv[1], yaml.safe_load(open("params.yaml"))
home = pathlib.Path(os.environ["DVC_ROOT"])
with open(home / ".scratch" / "log", "a") as log:
    print(stage, file=log)
seed, mode = params["semisup"]["seed"], params["finetune"]["facemix"]["mode"]
def put(path, value):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(json.dumps(value))
if stage == "split":
    parts = {"labeled": ["a"], "valid": [], "unlabeled": ["b", "c"], "test": ["d", "e"]}
    put("data/splits/split.json", {"hash": f"h{params['split']['seed']}", **parts})
elif stage == "semisup":
    while (home / "hang").exists():
        time.sleep(0.1)
    if mode == "mixup":
        sys.exit("no mixup here")
    put("data/weights/w.json", [mode, seed])
else:
    mode, seed = json.load(open("data/weights/w.json"))
    accuracy = {"none": 0.5, "facemix": 0.6}[mode] + (seed - 2024) / 10
    last = {"last": {"accuracy": accuracy}}
    if stage == "evaluate":
        models = {"teacher": last, "plain" if mode == "none" else mode: last}
    else:
        models = {"teacher": {"focused": {"0.02": {"accuracy": accuracy / 2}}}}
    put(f"metrics/{stage}.json", {stage: {"models": models}})
"""


@pytest.fixture
def toy(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project whose stages take no time, with a clean git status."""
    pytest.importorskip("dvc")
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    # `project_root()` of this process, which has no DVC_ROOT, would be ssfer's own
    monkeypatch.setattr("ssfer.tables.run.project_root", lambda: repository)
    (repository / "dvc.yaml").write_text(DVC_YAML)
    (repository / "toy.py").write_text(TOY)
    (repository / ".scratch").mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    commit_all()
    return repository


def ran(toy: Path) -> list[str]:
    """Return the stages that ran since the last call."""
    log = toy / ".scratch" / "log"
    stages = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return stages


def run(tables: list[str], seeds: list[int], **how: Any) -> list[str]:
    study = Study(KNOWN, "demo")
    return run_jobs(plan(study, tables, seeds)[0], study, **how)


@pytest.mark.slow
def test_real_dvc_runs_once_records_and_leaves_the_project_alone(toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    head = git("rev-parse", "HEAD")
    assert run(["table10"], [2024]) == []
    assert ran(toy) == ["split", "semisup", "evaluate", "semisup", "evaluate"], "the split is shared"
    assert git("status", "--porcelain") == "?? metrics/" and git("symbolic-ref", "--short", "HEAD") == "main"
    records = read_records("demo")
    assert {(r.commit, r.split["hash"], r.test["images"], r.seed) for r in records} == {(head, "h2024", 2, 2024)}
    lines = {line.row: line.mean for line in table_numbers("table10", Study(KNOWN, "demo")).lines}
    expected = {"Baseline": 50, "+ FaceMix": 60, "+ EMA-Teacher": 50, "+ FaceMix + EMA-Teacher": 60}
    assert lines == pytest.approx(expected)

    before = {path: path.read_bytes() for path in sorted((toy / "metrics").rglob("*.json"))}
    assert (run(["table10"], [2024]), ran(toy)) == ([], []), "all done"
    for path in before:
        path.unlink()
    assert (run(["table10"], [2024]), ran(toy)) == ([], []), "killed before the record was written"
    assert {path: path.read_bytes() for path in sorted((toy / "metrics").rglob("*.json"))} == before
    assert "had finished, recorded" in capfd.readouterr().out

    assert (run(["table7"], [2024]), ran(toy)) == ([], ["robustness"]), "evaluate-only: nothing is trained"
    attacked = table_numbers("table7", Study(KNOWN, "demo")).lines
    assert next(x.mean for x in attacked if (x.row, x.point) == ("focused", "0.02")) == pytest.approx(30)
    assert (run(["table10"], [2024], again=True), ran(toy)) == ([], []), "DVC has it all in its cache"


@pytest.mark.slow
def test_a_failure_stops_only_itself(toy: Path) -> None:
    failed = run(["table13"], [2024])
    assert [name.partition("-mode-mixup-")[0] for name in failed] == ["demo-10pct"]
    assert [line.mean for line in table_numbers("table13", Study(KNOWN, "demo")).lines] == [None, pytest.approx(60)]


@pytest.mark.slow
def test_a_kill_in_the_middle_is_taken_up(toy: Path) -> None:
    (toy / "hang").write_text("")
    commit_all()
    words = [sys.executable, "-m", "ssfer", "experiments", "run", "table2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(toy)}
    process = subprocess.Popen(words, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    log = toy / ".scratch" / "log"
    for _ in range(600):
        if log.exists() and "semisup" in log.read_text():
            break
        time.sleep(0.1)
    with pytest.raises(SsferError, match="another `ssfer experiments run` is running"):
        run(["table2"], [2024])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ran(toy)
    (toy / "hang").unlink()
    assert git("symbolic-ref", "--short", "HEAD") == "main"
    assert dvc_runs.leftovers() == 1
    assert (run(["table2"], [2024]), ran(toy)) == ([], ["semisup", "evaluate"])
    assert [r.seed for r in read_records("demo")] == [2024]


@pytest.mark.slow
def test_what_waits_in_the_queue_is_not_queued_twice(toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = {job.experiment.name for job in plan(Study(KNOWN, "demo"), ["table10"], [2024])[0]}
    assert run(["table10"], [2024], queue=True) == []
    assert dvc_runs.queued() == names
    capfd.readouterr()
    assert run(["table10"], [2024], queue=True) == run(["table10"], [2024]) == []
    assert capfd.readouterr().out.count("waits in DVC's queue") == 4
    assert (read_records("demo"), ran(toy)) == ([], [])
    status = subprocess.run([sys.executable, "-m", "dvc", "queue", "status"], capture_output=True, text=True).stdout
    assert status.count("Queued") == 2
