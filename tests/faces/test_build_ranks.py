"""Several processes, as torchrun starts them, share one source; deaths and full disks leave nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssfer.faces.build import build_faces
from tests.support.align_runs import PARAMS, contents, write_people
from tests.support.rendered_photos import BrightDetector

SCRIPT = """
import resource, sys
from pathlib import Path
from tests.support.rendered_photos import SlowDetector
from tests.support.align_runs import PARAMS
from ssfer.faces.build import build_faces
from ssfer.datasets.base import SourceSettings
from ssfer.core.process import stage_main

def main():
    source = SourceSettings(name="people", kind="identities", path="people", labeled=False, align="similarity")
    root, workers, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    built = build_faces(source, root, root / "out", PARAMS, workers=workers, detector=SlowDetector)
    print("wrote" if built else "helped", flush=True)

if __name__ == "__main__":
    stage_main("align", main)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    return tmp_path / "project" / ".scratch" / "align"


def launch(folder: Path, root: Path, rank: int = 0, world: int = 1, workers: int = 1, limit: int = 0):
    (folder / "main.py").write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root)]),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
    }
    command = [sys.executable, str(folder / "main.py"), str(folder), str(workers), str(limit)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def straight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The same source done by one process from nothing."""
    monkeypatch.setenv("DVC_ROOT", str(folder / "other"))
    source = write_people(folder, count=96)
    build_faces(source, folder, folder / "straight", PARAMS, detector=BrightDetector)
    return contents(folder / "straight")


def test_ranks_share_the_chunks_and_write_the_same_bytes(
    tmp_path: Path, scratch: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(tmp_path, count=96)
    ranks = [launch(tmp_path, root, rank, 2) for rank in range(2)]
    answers = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], answers
    assert [out.strip() for out, _ in answers] == ["wrote", "helped"]
    assert "align people: 96/96" in answers[0][1]
    assert "align people" not in answers[1][1], "one rank reports progress"
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)


def test_killed_rank_is_replaced_by_the_other(
    tmp_path: Path, scratch: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead rank's lock on its chunk ends with it; rank 0 takes the chunk and finishes alone."""
    write_people(tmp_path, count=96)
    second = launch(tmp_path, root, 1, 2)
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/part-*.json")) and time.monotonic() < deadline and second.poll() is None:
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert len(list(scratch.glob("*/part-*.json"))) < 6
    first = launch(tmp_path, root, 0, 2)
    out, error = first.communicate(timeout=120)
    assert (first.returncode, out.strip()) == (0, "wrote"), error
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_is_one_sentence_and_the_next_run_goes_on(
    tmp_path: Path, scratch: Path, root: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit of the system makes real writes fail, as a full disk does."""
    write_people(tmp_path, count=96)
    limited = launch(tmp_path, root, workers=workers, limit=12_000)
    _, error = limited.communicate(timeout=120)
    assert limited.returncode == 2
    assert error.strip().splitlines()[-1].startswith("align: error: OSError: the file would be larger than")
    assert error.strip().splitlines()[-1].endswith("; finished work is kept, the same command continues")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    assert not list(scratch.glob("*/part-*.json"))
    assert not list(scratch.glob("*/*.tmp")), "half a file is not left lying about"
    again = launch(tmp_path, root)
    assert again.wait(timeout=120) == 0
    assert contents(tmp_path / "out") == straight(tmp_path, monkeypatch)
