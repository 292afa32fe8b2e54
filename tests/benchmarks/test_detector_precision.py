"""Detectors in float32 and TF32: distances by hand, TF32 only where it is allowed, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import detector_precision
from benchmarks.detector_precision import in_tf32, moved
from ssfer.faces.alignment import TEMPLATE
from ssfer.faces.detectors import mtcnn
from ssfer.faces.detectors.base import Detection
from tests.support.rendered_photos import render_once
from tests.support.tiny_benchmarks import command

EYES = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))


def face(shift: float) -> Detection:
    """Return a face whose points are moved to the right."""
    points = (TEMPLATE + np.array([shift, 0.0])).astype(np.float32)
    return Detection(np.zeros((1, 4), np.float32), points[None], np.ones(1, np.float32))


def test_distances_by_hand() -> None:
    found, one_only = moved([face(0), face(0), Detection(), face(0)], [face(2), face(0), face(0), Detection()])
    np.testing.assert_allclose(found, [[2, 200 / EYES], [0, 0]], atol=1e-5)
    assert one_only == 2


def test_tf32_is_allowed_for_a_while() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with in_tf32(), mtcnn.exact_float32():
        assert matmul.allow_tf32
    with mtcnn.exact_float32():
        assert not matmul.allow_tf32
    assert matmul.allow_tf32 == before


def test_command_on_rendered_photos(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw: Path = render_once(tmp_path_factory)
    command(detector_precision, monkeypatch, "--raw", str(raw), "--images", "3", "--rounds", "1")
    line = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert line[0] == "mtcnn" and float(line[1]) > 0
    assert line[4:] == ["0", "0", "0", "0", "0"]  # a CPU has no TF32
