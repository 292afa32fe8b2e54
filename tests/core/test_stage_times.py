"""Progress of the whole pipeline: place, time left as of last time, and no word from a stage run by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.core.stage_times import place

SECONDS = Path(".scratch/stage_seconds.json")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("params.yaml").touch()
    Path("dvc.yaml").write_text("stages: {align: {cmd: x}, split: {cmd: x}}\n")


def test_time_left_is_that_of_this_stage_and_all_later_ones() -> None:
    stages = ["align", "split", "pretrain"]
    assert place("split", stages, {"split": 5.0, "pretrain": 3600.0}) == (
        "stage 2 of 3, split; last time 1:00:05 from here to the end"
    )
    assert place("split", stages, {"align": 1.0, "split": 5.0}) == "stage 2 of 3, split"


@pytest.mark.usefixtures("project")
def test_a_stage_that_dvc_runs_says_its_place_and_keeps_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SECONDS.parent.mkdir()
    SECONDS.write_text('{"align": 60.0, "split": 7.0}')
    monkeypatch.setenv("DVC_STAGE", "align")
    stage_main("align", lambda: None)
    assert capsys.readouterr().err == "ssfer: stage 1 of 2, align; last time 1:07 from here to the end\n"
    assert json.loads(SECONDS.read_text()) == {"align": 0.0, "split": 7.0}


@pytest.mark.usefixtures("project")
def test_times_that_cannot_be_kept_do_not_fail_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("DVC_STAGE", "align")
    monkeypatch.setattr("ssfer.core.stage_times.write_json", full)
    stage_main("align", lambda: None)


@pytest.mark.usefixtures("project")
def test_a_stage_that_fails_keeps_no_time_and_a_damaged_file_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SECONDS.parent.mkdir()
    SECONDS.write_text("{")
    monkeypatch.setenv("DVC_STAGE", "split")

    def fail() -> None:
        raise SsferError("no")

    with pytest.raises(SystemExit):
        stage_main("split", fail)
    assert capsys.readouterr().err == "ssfer: stage 2 of 2, split\nsplit: error: no\n"
    assert SECONDS.read_text() == "{"


@pytest.mark.usefixtures("project")
def test_a_stage_run_by_hand_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    stage_main("align", lambda: None)
    assert capsys.readouterr().err == "" and not SECONDS.exists()
