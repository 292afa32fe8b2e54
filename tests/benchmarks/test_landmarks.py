"""benchmarks.landmarks: its figures by hand, and the command on a folder of rendered photos."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import landmarks
from ssfer.core.errors import SsferError
from ssfer.faces.alignment import TEMPLATE
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import ShardReader
from tests.support.rendered_photos import render_once

EYES = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))


def test_figures_by_hand() -> None:
    points = [TEMPLATE + np.array([0.1 * EYES, 0]), TEMPLATE + np.array([0, 0.3 * EYES]), TEMPLATE * 1.25, None]
    compared = landmarks.compare(points, [TEMPLATE] * 4)
    assert len(compared) == 3
    np.testing.assert_allclose(compared[:2, 0], [0.1, 0.3])
    np.testing.assert_allclose(compared[:, 1], [1, 1, 0.8])
    median, far, right = landmarks.figures(compared)
    assert (float(median), float(far), float(right)) == (30.0, 66.7, 66.7)


def test_offsets_are_those_in_the_crop() -> None:
    lower = np.zeros((5, 2))
    lower[3:, 1] = 4.0
    turned = np.array([[0.0, 2.0], [-2.0, 0.0]])  # a photo of twice the size, lying on its side
    points, reference = ([turned @ p for p in pair] for pair in ((TEMPLATE + lower).T[None], TEMPLATE.T[None]))
    offsets = landmarks.mean_offsets([points[0].T, None], [reference[0].T, TEMPLATE])
    np.testing.assert_allclose(offsets, lower, atol=1e-9)


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = render_once(tmp_path_factory) / "expressions"
    reader = ShardReader(source)
    for row in read_manifest(source).to_pylist():
        if json.loads(row["truth"])["trouble"] is None:
            image = Image.open(BytesIO(reader.read(row["shard"], row["offset"], row["size"])))
            image.save(tmp_path / f"{row['sample_id'].replace('/', '-')}.png")
    return tmp_path


def test_command_measures_every_border(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["landmarks", str(folder), "--images", "4", "--mirror"])
    landmarks.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| mtcnn")]
    assert [row[1] for row in rows] == ["never", "edge", "always"]
    assert {tuple(row[2:4]) for row in rows} == {("4", "4")}
    assert rows[0][4:7] == rows[1][4:7]  # rendered heads keep away from the edge
    assert all(float(row[7]) < 20 for row in rows)  # against the mirrored photo


def test_a_reference_that_is_not_measured_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["landmarks", str(folder), "--borders", "edge", "--reference", "mtcnn:always"])
    with pytest.raises(SsferError, match="mtcnn:always is not measured; expected one of mtcnn:edge"):
        landmarks.main()
