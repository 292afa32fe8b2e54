"""A few dozen rendered photos with ground truth, made once per test session, and a detector that needs no network."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ssfer.faces.detectors.base import Detection, Detector
from ssfer.rendered.settings import GenerateSettings

SETTINGS = GenerateSettings(seed=1, size=96, train=7, test=10, people=6, people_identities=6, troubles=True)


def render_once(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with expressions/ (18 train, 10 test) and people/ (31): all classes, troubles and copies."""
    from ssfer.rendered.generate import generate

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "rendered"  # once for all workers
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            generate(SETTINGS, folder, workers=1)
    return folder


class BrightDetector(Detector):
    """Finds one face per bright rectangle of a dark picture."""

    title = name = "bright"
    paper = ""

    def __init__(self) -> None:
        pass

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        return [self._one(np.asarray(image.convert("L"))) for image in images]

    def _one(self, grey: np.ndarray) -> Detection:
        _, _, spots, _ = cv2.connectedComponentsWithStats((grey > 200).astype(np.uint8))
        boxes = [[x, y, x + width, y + height] for x, y, width, height, area in spots[1:].tolist() if area > 20]
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        # Eyes, nose and mouth at fixed places of the box; the larger face gets the higher score.
        places = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
        sides = corners[:, 2:] - corners[:, :2]
        points = corners[:, None, :2] + places * sides[:, None]
        scores = 0.5 + 0.5 * sides.prod(axis=1) / grey.size
        order = np.argsort(-scores)
        return Detection(corners[order], points[order].astype(np.float32), scores[order].astype(np.float32))


class SlowDetector(BrightDetector):
    """Takes its time, so that a test can interrupt it."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        time.sleep(0.02 * len(images))
        return super().detect(images)


def bright_photo(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (100, 80), seed: int = 0) -> Image.Image:
    """Return a dark noisy photo with white rectangles where BrightDetector shall find faces."""
    pixels = np.random.default_rng(seed).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels)
