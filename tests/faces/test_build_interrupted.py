"""Deaths and full disks leave nothing half-written, and the next run goes on."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from ssfer.faces.build import build_faces
from tests.support.align_runs import PARAMS, align, contents, write_people
from tests.support.launches import Launch
from tests.support.rendered_photos import BrightDetector, SlowDetector


class FullDisk(BrightDetector):
    """In its process a file size limit of the system makes real writes fail, as a full disk does."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where launches keep finished parts."""
    return tmp_path / ".scratch" / "align"


def straight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The same source done by one process from nothing."""
    monkeypatch.setenv("DVC_ROOT", str(folder / "other"))
    source = write_people(folder, count=96)
    build_faces(source, folder, folder / "straight", PARAMS, detector=BrightDetector)
    return contents(folder / "straight")


def test_killed_run_is_continued_with_what_it_finished(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(tmp_path, count=96)
    killed = Launch(tmp_path, align, tmp_path, SlowDetector, 2)
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/part-*.json")) and time.monotonic() < deadline and killed.processes[0].is_alive():
        time.sleep(0.02)
    os.killpg(killed.processes[0].pid or 0, signal.SIGKILL)  # with its workers
    assert killed.wait() == [-signal.SIGKILL]
    done = {path: path.stat().st_mtime_ns for path in scratch.glob("*/part-*.json")}
    assert 1 <= len(done) < 6
    assert not (tmp_path / "out").exists()
    again = Launch(tmp_path, align, tmp_path, SlowDetector)
    assert again.wait() == [0], again.errors(0)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert "align people: 96/96" in again.errors(0)
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_is_one_sentence_and_the_next_run_goes_on(
    tmp_path: Path, scratch: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(tmp_path, count=96)
    limited = Launch(tmp_path, align, tmp_path, FullDisk, workers)
    assert limited.wait() == [2]
    error = limited.errors(0)
    assert error.strip().splitlines()[-1].startswith("align: error: OSError: the file would be larger than")
    assert error.strip().splitlines()[-1].endswith("; finished work is kept, the same command continues")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    assert not list(scratch.glob("*/part-*.json"))
    assert not list(scratch.glob("*/*.tmp")), "half a file is not left lying about"
    again = Launch(tmp_path, align, tmp_path, BrightDetector)
    assert again.wait() == [0], again.errors(0)
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)
