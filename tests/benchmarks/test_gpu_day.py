"""The first day on a GPU: what goes into its table, and that a part that fails, hangs or is late stops no other."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import evaluate_speed, gpu_day, loader, method_step
from benchmarks.gpu_day import Played, choose, play, reason, run_day
from benchmarks.gpu_day_parts import ROOT, Day, Part, complaint, parts, rows
from ssfer.core.errors import SsferError
from tests.support.tiny_benchmarks import command

METHODS = "| method | ratio | waits |\n| --- | --- | --- |\n| vat | 2.0 | 0.0 |\n| leaf | 3.5 | {} |\n"
DOCTOR = "computes  NVIDIA H200, bf16\n\n  pretrain                1,234 images/s, {} waits for the GPU a step\n"


def test_rows_of_all_tables_by_column() -> None:
    log = "x\n| a | b | a |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n\n| c |\n|---|\n| 4 |\n| 5 |\n"
    assert list(rows(log)) == [{"a": "1", "b": "2"}, {"c": "4"}, {"c": "5"}]


def test_a_step_that_waits_for_the_gpu_is_a_complaint() -> None:
    assert complaint(METHODS.format("0.0")) is complaint(DOCTOR.format("0.0")) is None
    assert complaint(METHODS.format("16.0")) == "a step waits for the GPU: leaf 16.0 times"
    assert complaint(DOCTOR.format("3.0")) == "a step waits for the GPU: pretrain 3.0 times"


def test_results_of_parts_whose_commands_cost_too_much_here() -> None:
    day = {part.name: part for part in parts(Day(Path("/out"), "cuda", toy=False))}
    assert day["steps of methods"].result(METHODS.format("0.0")) == (
        "2 methods; none waits for the GPU; slowest leaf, 3.5 x supervised"
    )
    assert day["doctor"].result(DOCTOR.format("0.0")) == "NVIDIA H200, bf16; pretrain 1,234 images/s"
    step = "| step | images/s | x plain | of a matrix product | of 790 TFLOP/s |\n|---|\n"
    step += "| plain | 4300 | 1.0 | 33% | 32% |\n| ours | 6100 | 1.4 | 46% | 45% |\n"
    assert day["step of MAE"].result(step) == (
        "6100 images/s, 1.4 x plain PyTorch, 46% of a matrix product, 45% of 790 TFLOP/s"
    )
    stages = "| stage | s |\n|---|\n| align | 1.5 |\n| split | 0.5 |\n\n"
    stages += "| killed | compared with the undisturbed run |\n|---|\n| pretrain | same bytes |\n"
    assert day["stages, kill -9"].result(stages) == "2 stages in 2 s; killed and resumed: pretrain: same bytes"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("$ x\nTraceback\nalign: error: no photos\n", "align: error: no photos"),
        ("$ x\nWARNING: an NVIDIA GPU\n  pretrain 5 images/s\n", "WARNING: an NVIDIA GPU"),
        ("$ x\nTraceback (most recent call last):\nValueError: bug\n", "ValueError: bug"),
        ("$ x\n", "status 2, no output"),
    ],
)
def test_reason_of_a_failure(said: str, expected: str) -> None:
    assert reason(said, 2) == expected


def made(folder: Path, name: str, code: str, limit: float = 30.0) -> Part:
    """Return a part that runs this code."""
    (folder / f"{name}.py").write_text(code)
    return Part(name, limit, (name,), lambda log: log.splitlines()[1], folder)


def test_a_part_that_fails_is_a_line_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = Day(tmp_path / "out", "cpu", toy=True)
    chosen = [
        made(tmp_path, "bad", "import sys; sys.exit('bad: error: no | GPU')"),
        replace(made(tmp_path, "nowhere", ""), folder=tmp_path / "missing"),
        made(tmp_path, "good", "print('| a |\\n|---|\\n| 5 images/s |')"),
    ]
    played = run_day(day, chosen, budget=60)
    assert [one.ok for one in played] == [False, False, True]
    assert "good: ok" in capsys.readouterr().out
    text = (day.out / "gpu_day.md").read_text()
    assert re.search(r"^\| bad \| FAILED \| \d+ \| bad: error: no / GPU \| bad.log \|$", text, re.M)
    assert "No such file or directory" in played[1].result
    assert "## good\n\n| a |\n|---|\n| 5 images/s |\n" in text
    found = json.loads((day.out / "gpu_day.json").read_text())
    assert [one["ok"] for one in found["parts"]] == [False, False, True] and found["device"] == "cpu"
    assert (day.out / "bad.log").read_text().startswith("$ python -m bad\n")


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time\n"
    child += "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], start_new_session=True)\n"
    child += "print(p.pid, flush=True); time.sleep(99)\n"
    for seconds in (2, 10, 50):  # a busy machine takes long to start it
        found = play(made(tmp_path, "hangs", child), tmp_path / "log", seconds)
        assert not found.ok and found.result == f"not done after {seconds} s"
        if (said := (tmp_path / "log").read_text().splitlines()[1:]) != []:
            break
    pid = int(said[0])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_parts_for_which_no_time_is_left_are_said(tmp_path: Path) -> None:
    part = made(tmp_path, "late", "print('never')")
    assert run_day(Day(tmp_path / "out", "cpu", True), [part], budget=1.0) == [
        Played("late", False, 0.0, "no time left of 0.0166667 minutes", "late.log")
    ]


def test_parts_are_chosen_by_name() -> None:
    known = parts(Day(Path("/out"), "cpu", toy=True))
    assert choose(known, []) == known
    assert [part.name for part in choose(known, ["loader", "doctor"])] == ["doctor", "loader"]
    with pytest.raises(SsferError, match="there is no part 'lader'; the parts are 'stages, kill -9', 'workers'"):
        choose(known, ["lader"])


def test_a_failed_part_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = [made(tmp_path, "fails", "raise SystemExit(3)")]
    monkeypatch.setattr(gpu_day, "parts", lambda day: made_up)
    with pytest.raises(SystemExit) as ended:
        command(gpu_day, monkeypatch, "--toy", "--out", str(tmp_path / "out"))
    assert ended.value.code == 1
    made_up[0] = made(tmp_path, "works", "print('fine')")
    command(gpu_day, monkeypatch, "--toy", "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("loader", loader, "1 workers: "),
        ("evaluate", evaluate_speed, "crops alone: "),
        ("steps of methods", method_step, "2 methods; slowest "),
    ],
)
def test_toy_commands_give_the_table_that_is_read(
    name: str,
    module: object,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (part,) = choose(parts(Day(tmp_path, "cpu", toy=True)), [name])
    command(module, monkeypatch, *part.command[1:])
    assert part.result(capsys.readouterr().out).startswith(expected)


@pytest.mark.slow
def test_a_toy_day_on_a_cpu(tmp_path: Path) -> None:
    """A few minutes of CPU time: each part as on the day."""
    toy = [str(ROOT / "benchmarks/gpu_day.sh"), "--toy", "--out", str(tmp_path)]
    done = subprocess.run(toy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]
    assert [one["part"] for one in found] == [part.name for part in parts(Day(tmp_path, "cpu", toy=True))]
    assert "semisup: same bytes" in found[0]["result"] and "spawn: same bytes" in found[1]["result"]
