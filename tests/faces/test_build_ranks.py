"""Several processes, as torchrun starts them, share one source; deaths and full disks leave nothing half-written."""

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


def test_ranks_share_the_chunks_and_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_people(tmp_path, count=96)
    ranks = Launch(tmp_path, align, tmp_path, SlowDetector, world=2)
    assert ranks.wait() == [0, 0], ranks.errors(0) + ranks.errors(1)
    assert [(tmp_path / f"stdout-{rank}").read_text() for rank in range(2)] == ["wrote\n", "helped\n"]
    assert "align people: 96/96" in ranks.errors(0)
    assert "align people" not in ranks.errors(1), "one rank reports progress"
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)


def test_killed_rank_is_replaced_by_the_other(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead rank's locks on its chunks end with it; rank 0 takes them, keeps what is done, and finishes alone."""
    write_people(tmp_path, count=96)
    second = Launch(tmp_path, align, tmp_path, SlowDetector, 2, "people", (1, 2))
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/part-*.json")) and time.monotonic() < deadline and second.processes[0].is_alive():
        time.sleep(0.02)
    os.killpg(second.processes[0].pid or 0, signal.SIGKILL)  # with its workers
    assert second.wait() == [-signal.SIGKILL]
    done = {path: path.stat().st_mtime_ns for path in scratch.glob("*/part-*.json")}
    assert 1 <= len(done) < 6
    assert not (tmp_path / "out").exists()
    first = Launch(tmp_path, align, tmp_path, SlowDetector, 1, "people", (0, 2))
    assert first.wait() == [0] and (tmp_path / "stdout-0").read_text() == "wrote\n", first.errors(0)
    assert {path: path.stat().st_mtime_ns for path in done} == done
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
