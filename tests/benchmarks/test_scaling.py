"""benchmarks.scaling: launches, efficiency, the command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import Launch
from ssfer.core.errors import SsferError
from tests.support import launches
from tests.support.tiny_benchmarks import TINY, as_main, command, let_python_fail


def test_launches_share_the_cores() -> None:
    assert scaling.launches([1, 2], False, 2) == [Launch(1, 1), Launch(2, 1), Launch(1, 2)]
    assert scaling.launches([4], False, 8) == [Launch(1, 2), Launch(4, 2), Launch(1, 8)]
    assert scaling.launches([1], False, 2) == [Launch(1, 2)]
    with pytest.raises(SsferError, match="from 1 to 2, the cores of this machine, found 3"):
        scaling.launches([3], False, 2)


def test_launches_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert scaling.launches([2, 4], True, 64) == [Launch(1, None), Launch(2, None), Launch(4, None)]
    with pytest.raises(SsferError, match="from 1 to 4, the GPUs of this machine, found 8"):
        scaling.launches([8], True, 64)


def test_efficiency_refers_to_one_process_with_as_many_threads() -> None:
    speeds = {Launch(1, 1): 10.0, Launch(2, 1): 15.0, Launch(1, 2): 19.0}
    assert scaling.efficiency(speeds, Launch(2, 1)) == 0.75
    assert scaling.efficiency(speeds, Launch(1, 2)) == 1.0


def test_launch_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    let_python_fail(tmp_path, monkeypatch, "scaling: error: no memory")
    with pytest.raises(
        SsferError, match="a launch of 2, 1 threads each ended with status 2: scaling: error: no memory"
    ):
        scaling.start(Launch(2, 1), [])


def test_torchrun_starts_processes_that_share_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The module on torchrun's command line is run as torchrun runs it, in two processes."""
    asked: list[list[str]] = []

    def torchrun(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        both = launches.Launch(tmp_path, as_main, *command[6:], world=2)
        assert both.wait() == [0, 0], both.errors(0) + both.errors(1)
        return subprocess.CompletedProcess(command, int(env["OMP_NUM_THREADS"]) - 1)

    monkeypatch.setattr(subprocess, "run", torchrun)
    options = [*TINY[:6], "--batch", "4", "--steps", "1", "--warm-up", "0"]
    assert 0 < scaling.start(Launch(2, 1), options) < 1e6
    assert asked[0][1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


def test_scaling_command_takes_medians(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two rounds of (1 process, 2 processes, 1 process with 2 threads); real launches: see the test above.
    speeds = iter([10.0, 15.0, 18.0, 20.0, 38.0, 30.0])
    asked: list[Launch] = []

    def start(launch: Launch, options: list[str]) -> float:
        asked.append(launch)
        assert {"--model=tiny", "--batch=4", "--device=cpu"} <= set(options)
        return next(speeds)

    monkeypatch.setattr(scaling, "start", start)
    file = tmp_path / "scaling.json"
    options = ["--model", "tiny", "--size", "32", "--device", "cpu", "--threads", "2", "--batch", "4", "--rounds", "2"]
    command(scaling, monkeypatch, *options, "--json", str(file))
    assert asked == [Launch(1, 1), Launch(2, 1), Launch(1, 2)] * 2
    found = json.loads(file.read_text())
    assert found["efficiency"] == pytest.approx((15 / 20 + 38 / 40) / 2)
    assert found["processes"] == 2
    assert found["images_per_second"] == 15.0
    out = capsys.readouterr().out
    assert "| 1, 1 threads each | 15.00 | - |" in out
    assert "| 2, 1 threads each | 26.50 | 85% |" in out
    assert "| 1, 2 threads each | 24.00 | - |" in out
    with pytest.raises(SsferError, match="--batch 5 does not divide"):
        command(scaling, monkeypatch, "--device", "cpu", "--threads", "2", "--batch", "5")
