"""The learning-rate search, killed with signal 9 in the middle of a candidate and started again."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from ssfer.search.lr import RESULT, Settings, run_search
from tests.support import factory
from tests.support.launches import Launch
from tests.support.search_inputs import write_inputs

EPOCHS = 10  # of one step each


def finished(root: Path) -> list[Path]:
    """Return the records of the candidates that are done."""
    return list((root / ".scratch/search").rglob("candidate-*.json"))


def in_the_third(root: Path) -> bool:
    """Whether two candidates are done and another one has a snapshot."""
    try:
        done = {path.stem for path in finished(root)}
        begun = {path.parent.name for path in (root / ".scratch/search").rglob("step-*.pt")}
    except FileNotFoundError:  # a folder of snapshots went away while it was read
        return False
    return len(done) == 2 and bool(begun - done)


def long_search(epochs: int) -> None:
    """Work of a launch: search in the working directory, with a snapshot after every step."""
    run_search(factory.tiny_params(machine={"checkpoint_minutes": 1e-9}), Settings(3, 2, epochs=epochs))


def test_kill_minus_9_in_the_middle_of_a_candidate_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path / "killed")
    shutil.copytree(tmp_path / "killed", tmp_path / "whole")
    launch = Launch(tmp_path / "killed", long_search, EPOCHS)
    try:
        deadline = time.monotonic() + 120
        while not in_the_third(tmp_path / "killed"):
            assert launch.processes[0].is_alive(), launch.errors(0)
            assert time.monotonic() < deadline and len(finished(tmp_path / "killed")) <= 2
            time.sleep(0.001)
        launch.processes[0].kill()
        assert launch.wait() == [-signal.SIGKILL]
    finally:
        launch.kill()
    assert not (tmp_path / "killed" / RESULT).exists()
    done = {path: path.stat().st_mtime_ns for path in finished(tmp_path / "killed")}
    for name in ("killed", "whole"):
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
        capsys.readouterr()
        long_search(EPOCHS)
        assert ("continues at" in capsys.readouterr().err) == (name == "killed")
    assert (tmp_path / "killed" / RESULT).read_bytes() == (tmp_path / "whole" / RESULT).read_bytes()
    assert done == {path: path.stat().st_mtime_ns for path in done}  # reused, not trained again
