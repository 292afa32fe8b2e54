"""ssfer.faces.shared_detector: one detector a GPU for many processes gives the same; its failures are errors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.faces.build import build_faces
from ssfer.faces.detectors.base import Detection
from ssfer.faces.shared_detector import shared_detectors
from ssfer.faces.workers import LocalProcesses
from tests.support.align_runs import PARAMS, contents, write_people
from tests.support.rendered_photos import BrightDetector, bright_photo

pytestmark = pytest.mark.usefixtures("forked_workers")
FACE = (10, 10, 60, 60)


class Telling(BrightDetector):
    """Its scores say in which process it works."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        if images[0].width == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if images[0].width == 2:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        found = super().detect(images)
        return [Detection(f.boxes, f.landmarks, np.full(len(f), os.getpid(), np.float32)) for f in found]


@pytest.mark.parametrize("gpus", [1, 2])
def test_workers_share_the_detectors_and_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    source = write_people(tmp_path, count=96)
    executor = LocalProcesses(2, "cuda:0", gpus)
    build_faces(source, tmp_path, tmp_path / "shared", PARAMS, executor, detector=BrightDetector)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "other"))
    build_faces(source, tmp_path, tmp_path / "own", PARAMS, detector=BrightDetector)
    assert contents(tmp_path / "shared") == contents(tmp_path / "own")


def test_detectors_live_in_one_other_process_that_ends_with_the_work() -> None:
    photo = bright_photo(FACE)
    with shared_detectors([Telling, Telling], gpus=1) as builds:
        first, second = (build() for build in builds)
        assert first.name == Telling().name
        pids = {int(detector.detect([photo])[0].scores[0]) for detector in (first, second, first)}
        assert len(pids) == 1 and os.getpid() not in pids
    assert not multiprocessing.active_children()


class TellingGpu(BrightDetector):
    """Its scores say which GPU it sees."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        gpu = int(os.environ["CUDA_VISIBLE_DEVICES"])
        return [Detection(f.boxes, f.landmarks, np.full(len(f), gpu, np.float32)) for f in super().detect(images)]


@pytest.mark.parametrize(("visible", "expected"), [(None, {0, 1, 2}), ("5,6,7", {5, 6, 7})])
def test_each_gpu_has_a_process_and_they_take_turns(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: set[int]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    photo = bright_photo(FACE)
    with shared_detectors([TellingGpu], gpus=3) as (build,):
        detector = build()
        turns = [int(detector.detect([photo])[0].scores[0]) for _ in range(6)]
    assert set(turns[:3]) == expected and turns[3:] == turns[:3]
    assert not multiprocessing.active_children()


def test_a_killed_detector_and_a_failing_gpu_are_errors_not_photos_without_a_face() -> None:
    with shared_detectors([Telling], gpus=1) as (build,):
        detector = build()
        with pytest.raises(torch.AcceleratorError, match="unspecified launch failure"):
            detector.detect([Image.new("RGB", (2, 2))])
        with pytest.raises(SsferError, match="the process that detects faces was killed"):
            detector.detect([Image.new("RGB", (1, 1))])
