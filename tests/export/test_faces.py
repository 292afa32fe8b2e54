"""The split's faces beside an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssfer.data.split import load_split
from ssfer.export.faces import accuracies, split_faces
from tests.support import factory


def test_faces_are_those_of_the_split_that_the_weights_were_trained_on(project: Path) -> None:
    assert split_faces({"size": 16, "data_fingerprint": "x"}) is None
    factory.write_project(project)
    assert split_faces({"size": 16, "data_fingerprint": "another"}) is None
    faces = split_faces({"size": 16, "data_fingerprint": load_split()["hash"]})
    assert faces is not None
    crops, labels = faces.crops("valid")
    assert crops.shape == (6, 16, 16, 3) and crops.dtype == np.uint8 and sorted(labels) == [0, 0, 1, 1, 2, 2]
    some, few = faces.crops("labeled", 4)
    assert some.shape == (4, 16, 16, 3) and len(few) == 4 and crops.std() > 10


def test_accuracies_by_hand() -> None:
    labels = np.array([0, 1, 1, 0])
    crops = np.zeros((4, 2, 2, 3), np.uint8)
    runs = {
        "first": lambda c: np.eye(2, dtype=np.float32)[[0] * len(c)],
        "last": lambda c: np.eye(2, dtype=np.float32)[[1, 1, 1, 0]],
    }
    assert accuracies(runs, crops, labels) == {"first": 0.5, "last": 0.75}
