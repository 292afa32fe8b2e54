"""What a cluster does to a run: it ends it with a signal, and starts it again, perhaps with something changed."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.core.process import Preempted, StopRequest
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest, write_manifest
from ssfer.train.checkpoints import Checkpoints, Scratch
from tests.support import factory
from tests.support.launches import Launch, run_stage_until, steps_saved
from tests.support.stage_runs import change, make_project, run_here, stop_here, tensors

TOTAL = {"pretrain": 15, "finetune": 6}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages ran without a disturbance."""
    root = tmp_path_factory.mktemp("whole") / "project"
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        for stage in TOTAL:
            run_here(root, stage, patch)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """The same project, with a snapshot every step."""
    shutil.copytree(whole, tmp_path / "project")
    change(tmp_path / "project", "machine", "checkpoint_minutes", 1e-9)
    return tmp_path / "project"


def assert_like_whole(root: Path, whole: Path, stage: str) -> None:
    ours, theirs = (tensors(r / "data/weights" / stage) for r in (root, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in (f"{stage}.json", f"curves/{stage}.csv"):
        assert (root / "metrics" / name).read_bytes() == (whole / "metrics" / name).read_bytes()


@pytest.mark.parametrize(
    ("stage", "number", "step"),
    [("pretrain", signal.SIGTERM, 9), ("finetune", signal.SIGUSR1, 3), ("finetune", signal.SIGINT, 2)],
)
def test_a_signal_stops_with_a_snapshot_and_the_next_run_ends_with_the_same_bits(
    root: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    number: int,
    step: int,
) -> None:
    shutil.rmtree(root / "data/weights" / stage)
    stop_here(root, stage, monkeypatch, step, number)
    where = f"by {signal.Signals(number).name} at step {step + 1} of {TOTAL[stage]}"
    printed = capsys.readouterr().err
    assert printed.endswith(f"{stage}: stopped {where} with a snapshot; the same command continues there\n")
    assert "Traceback" not in printed and steps_saved(root, stage) == step + 1
    assert not (root / "data/weights" / stage).exists()
    run_here(root, stage, monkeypatch)
    assert_like_whole(root, whole, stage)


def test_a_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_loader_workers_outlive_a_signal_to_all(root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(root, "machine", "num_workers", 2)
    launch = Launch(root, run_stage_until, "pretrain", 9, signal.SIGUSR1)
    assert launch.wait() == [128 + signal.SIGUSR1], launch.errors(0)
    assert "Traceback" not in launch.errors(0) and steps_saved(root, "pretrain") == 10
    run_here(root, "pretrain", monkeypatch)
    assert_like_whole(root, whole, "pretrain")


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [9, 10]), (100, [10])])
def test_the_newest_two_snapshots_are_kept_and_one_is_written_even_if_none_was_due(
    root: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, saved: list[int]
) -> None:
    change(root, "machine", "checkpoint_minutes", minutes)
    stop_here(root, "pretrain", monkeypatch)
    steps = sorted(int(p.stem.removeprefix("step-")) for p in (root / ".scratch/pretrain").rglob("*.pt"))
    assert steps == saved


def test_signals_are_caught_only_while_training_and_stay_caught_on_the_way_out() -> None:
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert stop.number is None
        signal.raise_signal(signal.SIGUSR1)
        assert stop.number == signal.SIGUSR1
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before
    try:
        with pytest.raises(Preempted) as raised, StopRequest():
            raise Preempted("on the way out", signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # would end the tests
        assert raised.value.status == 143
    finally:
        for number, handler in zip(StopRequest.SIGNALS, before, strict=True):
            signal.signal(number, handler)


# --- something changed meanwhile ---


def refused(root: Path, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a stage that must be refused; return its sentence. The snapshots stay as they are."""
    before = {p: p.read_bytes() for p in (root / ".scratch").rglob("*.pt")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_here(root, stage, monkeypatch)
    assert ended.value.code == 2
    assert {p: p.read_bytes() for p in (root / ".scratch").rglob("*.pt")} == before and before
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    return sentence


def test_a_changed_setting_is_refused_with_both_values_and_can_be_put_back(
    root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_here(root, "pretrain", monkeypatch)
    change(root, "pretrain", "lr", 0.001)
    sentence = refused(root, "pretrain", monkeypatch, capsys)
    assert "this run cannot continue (pretrain.lr was 0.002, is 0.001): change that back to continue it" in sentence
    place = sentence.split()[2]
    assert list((root / place).rglob("*.pt"))
    change(root, "pretrain", "lr", 0.002)
    run_here(root, "pretrain", monkeypatch)
    assert_like_whole(root, whole, "pretrain")


@pytest.mark.parametrize(("stage", "folder"), [("pretrain", "corpus"), ("finetune", "faces/faces")])
def test_other_crops_of_the_same_photos_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, folder: str
) -> None:
    """Aligned with another JPEG quality, for instance, they have the same ids, labels, photos and recipe."""
    stop_here(root, stage, monkeypatch, step=3)
    place = root / "data" / folder
    rows = read_manifest(place).to_pylist()
    write_manifest([row | {"crop_box": [1.0, 1.0, 9.0, 9.0]} for row in rows], place / MANIFEST_NAME)
    assert "(crops was " in refused(root, stage, monkeypatch, capsys)


def test_another_corpus_is_refused_and_deleting_the_folder_starts_afresh(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_here(root, "pretrain", monkeypatch)
    shutil.rmtree(root / "data/corpus")
    factory.write_faces(root / "data/corpus", "corpus", [-1] * 41, seed=9)
    sentence = refused(root, "pretrain", monkeypatch, capsys)
    assert "(corpus was " in sentence and "delete the folder to start afresh" in sentence
    shutil.rmtree(root / sentence.split()[2])
    run_here(root, "pretrain", monkeypatch)
    assert "continues at" not in capsys.readouterr().err


def test_an_experiment_may_differ_and_says_what_it_leaves(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_here(root, "pretrain", monkeypatch)
    saved = steps_saved(root, "pretrain")
    change(root, "pretrain", "lr", 0.001)
    monkeypatch.setenv("DVC_EXP_NAME", "slow-otter")
    run_here(root, "pretrain", monkeypatch)
    printed = capsys.readouterr().err
    assert "pretrain: starts afresh, unfinished work stays in .scratch/pretrain/" in printed
    assert "(pretrain.lr was 0.002, is 0.001)" in printed
    assert steps_saved(root, "pretrain") == saved


@pytest.fixture
def scratch_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def leave(identity: dict[str, object], stage: str = "s") -> Checkpoints:
    """Leave a snapshot of a run that did not finish."""
    with Scratch(stage, identity) as scratch:
        snapshots = scratch.checkpoints("run")
        snapshots.save(5, {"weight": torch.zeros(1)})
    return snapshots


def test_differences_name_nested_settings_shorten_hashes_and_count_the_rest(scratch_root: Path) -> None:
    leave({"p": {"a": 1, "b": [1, 2], "c": 3, "d": 4}, "input": "ab" * 32})
    changed = {"p": {"a": 2, "b": (1, 2), "c": 5, "d": 6}, "input": "cd" * 32}
    wanted = r"\(input was abababab, is cdcdcdcd; a was 1, is 2; c was 3, is 5; and 1 more\)"
    with pytest.raises(SsferError, match=wanted), Scratch("s", changed):
        pass
    changed["input"] = "ab" * 32
    wanted = r"\(a was 1, is 2; c was 3, is 5; d was 4, is 6\)"
    with pytest.raises(SsferError, match=wanted), Scratch("s", changed):
        pass


def test_other_code_is_refused_and_names_the_commits(scratch_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssfer.train.checkpoints.git_commit", lambda: "0123456789" * 4)
    leave({"a": 1, "code": {"ssfer.train.loop": "x"}})
    monkeypatch.setattr("ssfer.train.checkpoints.git_commit", lambda: "9876543210" * 4 + "-dirty")
    with (
        pytest.raises(
            SsferError, match=r"code was that of commit 01234567, is that of 98765432-dirty: ssfer\.train\.loop"
        ),
        Scratch("s", {"a": 1, "code": {"ssfer.train.loop": "y"}}),
    ):
        pass


def test_work_that_protects_nothing_does_not_refuse(scratch_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave({"a": 1}).give_up()  # its loss exploded: changing a setting is what the message asked for
    with Scratch("s", {"a": 6}) as stage:
        stage.checkpoints("scratch").save(1, {})
        stage.checkpoints("plain").give_up()  # before its first snapshot
    with Scratch("s", {"a": 2}) as finished:
        finished.checkpoints("run").save(1, {})
        finished.discard()
    leave({"a": 1}, stage="other")  # another stage
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "slow-otter")
        leave({"a": 3})  # an experiment
    with Scratch("s", {"a": 4}) as running:  # a launch that is alive
        running.checkpoints("run").save(1, {})
        with Scratch("s", {"a": 5}):
            pass


def test_work_whose_own_code_failed_does_not_refuse(scratch_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its author is going to change the file, which is what a rerun would be refused for."""
    for kind, told in ((KeyError, "own.py, line 3"), (KeyError, None)):
        monkeypatch.setattr("ssfer.train.checkpoints.failure_in", lambda error, told=told: told)
        with pytest.raises(kind), Scratch("s", {"told": told}) as stage:
            stage.checkpoints("run").save(1, {})
            raise kind
        if told:
            with Scratch("s", {"a": 2}):
                pass
    with pytest.raises(SsferError, match="holds unfinished work"), Scratch("s", {"a": 2}):
        pass


def test_a_run_that_gave_up_and_then_got_on_is_protected_again(scratch_root: Path) -> None:
    snapshots = leave({"a": 1})
    snapshots.give_up()
    snapshots.save(6, {})
    with pytest.raises(SsferError, match="a was 1, is 2"), Scratch("s", {"a": 2}):
        pass


def test_own_unfinished_work_is_continued_whatever_lies_beside(
    scratch_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave({"a": 1})
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "slow-otter")
        leave({"a": 2})
    with Scratch("s", {"a": 2}) as scratch:
        found = scratch.checkpoints("run").load()
    assert found is not None and found["step"] == 5
