"""Runs that are killed and resumed: which weights count as the same; what is measured of /dev/shm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import stage_runs
from benchmarks.fault_stages import Ended
from benchmarks.stage_runs import Project, apart, finished, watch_shared_memory
from ssfer.core.errors import SsferError
from ssfer.formats.weights import save_weights


def write(project: Path, *values: float, name: str = "mae") -> Path:
    """Write weights of `pretrain`."""
    save_weights(project / f"data/weights/pretrain/{name}.safetensors", {"w": torch.tensor(values)}, {"kind": "mae"})
    return project


def test_distance_is_relative_to_the_norm(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", 3.0, 4.0)
    assert apart(whole, write(tmp_path / "b", 3.0, 4.0), "pretrain") == (True, 0.0)
    same, distance = apart(whole, write(tmp_path / "c", 3.0, 4.5), "pretrain")
    assert not same and distance == pytest.approx(0.1)
    with pytest.raises(SsferError, match=r"pretrain wrote other.safetensors, the undisturbed run mae.safetensors"):
        apart(whole, write(tmp_path / "d", 3.0, 4.0, name="other"), "pretrain")


def test_a_cpu_needs_the_same_bytes(tmp_path: Path) -> None:
    project = Project(write(tmp_path / "a", 3.0, 4.0), "cpu")
    assert project.judge(write(tmp_path / "b", 3.0, 4.0), "pretrain") == "same bytes"
    with pytest.raises(SsferError, match=r"other bytes than the undisturbed run; weights differ by 2\.0e-04"):
        project.judge(write(tmp_path / "c", 3.0, 4.001), "pretrain")


def test_a_gpu_may_differ_as_two_undisturbed_runs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(folder: Path, stage: str, seconds: float) -> Ended:
        write(folder, 3.0, 4.01)
        return Ended(0, "", 1.0)

    monkeypatch.setattr(stage_runs, "run", again)
    project = Project(write(tmp_path / "a", 3.0, 4.0), "cuda")
    assert project.judge(write(tmp_path / "b", 3.0, 4.02), "pretrain") == (
        "weights differ by 4.0e-03, those of two undisturbed runs by 2.0e-03"
    )
    with pytest.raises(SsferError, match=r"pretrain: weights differ by 1\.0e-02, those of two .* by 2\.0e-03"):
        project.judge(write(tmp_path / "c", 3.0, 4.05), "pretrain")


def test_a_stage_that_fails_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SsferError, match="align ended with status 2; its output is above"):
        finished(Ended(2, "align: error: no GPU", 1.0), "align")
    assert "no GPU" in capsys.readouterr().out
    with pytest.raises(SsferError, match="align was not done after 9 s"):
        finished(Ended(None, "", 9.0), "align")


def test_shared_memory_in_use_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([100, 100, 350])
    usage = lambda _: type("Usage", (), {"used": next(free, 120)})  # noqa: E731
    monkeypatch.setattr(stage_runs, "SHARED", tmp_path)
    monkeypatch.setattr(stage_runs.shutil, "disk_usage", usage)
    with watch_shared_memory() as most:
        while not most[0]:
            pass
    assert most == [250]
