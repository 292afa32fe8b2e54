"""Detectors under CUDA's rules for devices, without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks.photos import rendered_in
from ssfer.faces.detectors.base import Detector
from ssfer.faces.detectors.mtcnn import MtcnnDetector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from tests.support.pretend_gpu import pretended_gpu
from tests.support.random_retinaface import random_state
from tests.support.rendered_photos import render_once


def mtcnn(folder: Path, device: str) -> Detector:
    return MtcnnDetector(MtcnnDetector.Settings(), device)


def retinaface(folder: Path, device: str) -> Detector:
    path = folder / "random.safetensors"
    save_file(random_state("mobilenet0.25"), path)
    return RetinaFaceDetector(RetinaFaceDetector.Settings(weights=str(path)), device)


@pytest.mark.parametrize("build", [mtcnn, retinaface])
def test_detectors_keep_to_their_device(
    build: Callable[[Path, str], Detector], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    photos = [image for image, _ in rendered_in(render_once(tmp_path_factory))][:3]
    expected = build(tmp_path, "cpu").detect(photos)
    with pretended_gpu():
        found = build(tmp_path, "cuda").detect(photos)
    assert sum(map(len, found)) > 0
    for one, other in zip(found, expected, strict=True):
        for name in ("boxes", "landmarks", "scores"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
