"""The benchmarks of whole pretraining: feeding, several processes, hours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import mae_setup, pretrain_feed, pretrain_hours, scaling
from benchmarks.scaling import Launch
from ssfer.core.errors import SsferError
from ssfer.data.dataset import FaceDataset
from tests.support.tiny_benchmarks import TINY, command, let_python_fail, setup


def test_corpus_is_one_the_stage_reads(tmp_path: Path) -> None:
    size = pretrain_feed.write_corpus(tmp_path, None, 6, 224)
    assert size == pytest.approx(10.8, abs=1.0)
    dataset = FaceDataset([tmp_path])
    assert len(dataset) == 6
    assert dataset.image(5).shape == (3, 224, 224)


def test_memory_batches_are_those_of_the_first_step(tmp_path: Path) -> None:
    pretrain_feed.write_corpus(tmp_path, None, 6, 32)
    weak = pretrain_feed.Weak(32, 0.2)
    stream = pretrain_feed.Stream("ulb", FaceDataset([tmp_path]), 2, {"w": weak}, 0)
    ready = pretrain_feed.FromMemory([stream], 2, pinned=False)
    first = pretrain_feed.StepBatches([stream], 2)[0]
    assert len(ready) == 6
    assert ready[4] is ready[0]
    assert all(torch.equal(ready[4][k], v) for k, v in first.items())


def test_clock_counts_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = pretrain_feed.Clock()
    times = iter([0.0, 10.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr(pretrain_feed.time, "perf_counter", lambda: next(times))
    for _ in range(5):
        assert clock(0.0) > 0
    assert clock.rate(batch=8, warm_up=1) == 3 * 8 / 4.0


def test_feed_command_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "feed.json"
    options = ["--batch", "4", "--images", "8", "--side", "40", "--steps", "3", "--warm-up", "1", "--workers", "0", "1"]
    command(pretrain_feed, monkeypatch, *TINY, *options, "--json", str(file))
    found = json.loads(file.read_text())
    names = ["training from memory", "training from shards, 0 workers", "loader alone, 0 workers"]
    names += ["training from shards, 1 workers", "loader alone, 1 workers"]
    assert sorted(found["ways"]) == sorted(names)
    assert all(0 < v < 1e6 for v in found["ways"].values())
    assert found["images_per_second"] == max(v for k, v in found["ways"].items() if "from shards" in k)
    out = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")][2:] == [f"| {n}" for n in names]
    with pytest.raises(SsferError, match="expected at least --batch 4 images, got --images 3"):
        command(pretrain_feed, monkeypatch, *TINY, "--batch", "4", "--images", "3")


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


def test_torchrun_starts_processes_that_share_a_batch() -> None:
    options = [*TINY[:6], "--batch", "4", "--steps", "1", "--warm-up", "0"]
    assert 0 < scaling.start(Launch(2, 1), options) < 1e6


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


def test_hours_by_hand() -> None:
    assert pretrain_hours.hours(1_200_000, 600, 2000) == pytest.approx(100.0)
    assert pretrain_hours.hours(1_200_000, 600, 2000, 8) == pytest.approx(12.5)
    assert pretrain_hours.hours(1_200_000, 600, 2000, 8, 0.5) == pytest.approx(25.0)
    assert pretrain_hours.hours(1_200_000, 600, 2000, 1, 0.5) == pytest.approx(100.0)


def test_hours_command_takes_measured_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, curve, out = tmp_path / "feed.json", tmp_path / "scaling.json", tmp_path / "hours.json"
    mae_setup.write_figures(figures, setup(), "CPU", {"images_per_second": 2000.0})
    command(pretrain_hours, monkeypatch, "--figures", str(figures))
    said = capsys.readouterr().out
    assert "| 1 | 100.0 | 4.2 |" in said
    assert "| 8 | at least 12.5 | 0.5 |" in said  # nobody measured eight
    mae_setup.write_figures(curve, setup(), "CPU", {"images_per_second": 1.0, "efficiency": 0.5, "processes": 2})
    command(pretrain_hours, monkeypatch, "--figures", str(figures), "--scaling", str(curve), "--json", str(out))
    said = capsys.readouterr().out
    assert "| 8 | at least 25.0 | 1.0 |" in said  # two were measured
    assert "50%, measured with 2 on CPU" in said
    assert json.loads(out.read_text())["estimates"][1] == {"processes": 8, "hours": 25.0, "lower_bound": True}
    options = ["--figures", str(figures), "--scaling", str(curve)]
    command(pretrain_hours, monkeypatch, *options, "--processes", "2")
    assert "| 2 | 100.0 | 4.2 |" in capsys.readouterr().out
    command(pretrain_hours, monkeypatch, "--rate", "1000", "--efficiency", "0.8", "--processes", "2")
    assert "| 2 | 125.0 | 5.2 |" in capsys.readouterr().out


def test_hours_command_measures_when_told_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(pretrain_hours, monkeypatch, *TINY, "--batch", "2", "--rounds", "1", "--processes", "1")
    assert "ViT-tiny/16 at 32 px, batch 2, CPU, 1 threads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "expected a --rate above 0"),
        (["--rate", "5", "--efficiency", "0"], "expected an --efficiency above 0"),
        (["--rate", "5", "--processes", "0"], "expected --processes of at least 1, found 0"),
        (["--figures", "nothing.json"], "expected figures written by --json of a benchmark in nothing.json"),
        (["--figures", "{other}"], "has no images_per_second"),
        (["--rate", "5", "--scaling", "{rate_only}"], "has no efficiency"),
    ],
)
def test_hours_are_never_made_up(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "rate_only.json").write_text('{"images_per_second": 3}')
    places = {"other": str(tmp_path / "other.json"), "rate_only": str(tmp_path / "rate_only.json")}
    with pytest.raises(SsferError, match=message):
        command(pretrain_hours, monkeypatch, *[o.format(**places) for o in options])
