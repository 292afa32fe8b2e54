"""The corpus on a real Ray of two nodes: the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageOps

from ssfer.copies import find, near
from ssfer.core.cluster_start import ray_cluster
from ssfer.corpus.selection import build_corpus
from ssfer.corpus.settings import CorpusSettings
from ssfer.datasets.base import SourceSettings
from ssfer.faces.alignment import template
from tests.support.align_runs import contents
from tests.support.face_sets import copies, photo, write_faces
from tests.support.image_files import picture
from tests.support.ray_nodes import two_nodes


@pytest.mark.slow
def test_nodes_find_the_copies_that_this_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(near, "_ROWS", (8, 8))
    monkeypatch.setattr(find, "BLOCK", 8)
    faces, rows = Path("faces"), [(photo(i), {}) for i in range(20)]
    rows += [(copy, {}) for i in (3, 30, 31) for copy in copies(photo(i))]
    seen, points = picture(160, 160, 1), template(96) + 30.0
    mirrored = np.column_stack([159 - points[:, 0], points[:, 1]])[[1, 0, 2, 4, 3]]
    face, mirror_face = ({"landmarks": p.ravel().tolist(), "crop_recipe": "resize-v1-96"} for p in (points, mirrored))
    write_faces(faces / "a", [*rows, (photo(5), {}), (seen, face)], size=96)
    exam = [(photo(30), {"usage": "test"}), (ImageOps.mirror(seen), {"usage": "test", **mirror_face})]
    write_faces(faces / "b", exam, size=96)
    sources = [
        SourceSettings(name=n, kind="rendered", path=n, labeled=True, align="similarity", corpus=n == "a") for n in "ab"
    ]
    params = CorpusSettings(min_side=20)
    expected, _ = build_corpus(sources, params, faces, Path("here"), shard_size=8)
    with two_nodes(), ray_cluster(1) as cluster:
        assert cluster.nodes == 2
        counts, _ = build_corpus(sources, params, faces, Path("there"), 8, cluster)
    assert counts == expected
    assert counts["dropped"] == {
        "exact_copy_of_image": 1,
        "near_copy_of_evaluation_image": 4 + 1,
        "near_copy_of_image": 4 + 3,
    }
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
