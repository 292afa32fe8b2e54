"""Faces for an export: labeled crops that calibrate quantization, and the validation part that measures accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssfer.core.places import FACES, SPLIT_FILE
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.evaluation.inference import eval_views
from ssfer.evaluation.metrics import accuracy
from ssfer.export.network import Run

BATCH = 64


class SplitFaces:
    """Crops of the split that weights were trained on.

    Args:
        split: as `ssfer.data.split` reads it.
        size: side of the network's input in pixels.
    """

    def __init__(self, split: Mapping[str, Any], size: int) -> None:
        self._split, self._size = split, size

    def crops(self, part: str, most: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return eval views of crops (N, size, size, 3), uint8, and labels (N,); at most `most`, evenly spaced."""
        folders = [FACES / name for name in self._split["sources"]]
        faces = FaceDataset(folders, self._split[part], self._split["classes"])
        chosen = np.linspace(0, len(faces) - 1, min(len(faces), most or len(faces))).astype(int)
        views = [images.permute(0, 2, 3, 1).numpy() for images, _, _ in eval_views(faces, self._size, BATCH, chosen)]
        empty = np.zeros((0, self._size, self._size, 3), np.uint8)
        return np.concatenate([empty, *views]), faces.labels[chosen]


def split_faces(meta: Mapping[str, Any]) -> SplitFaces | None:
    """Return the faces of the split in this project, if the weights were trained on it.

    Raises:
        SsferError: the split is damaged, or the faces have changed since it was drawn.
    """
    if not SPLIT_FILE.is_file():
        return None
    split = load_split()
    return SplitFaces(split, int(meta["size"])) if split["hash"] == meta["data_fingerprint"] else None


def accuracies(runs: Mapping[str, Run], crops: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the accuracy of each of several models, 0..1, on the same crops (N, size, size, 3), labels (N,)."""
    batches = range(0, len(crops), BATCH)
    return {
        name: accuracy(np.concatenate([run(crops[first : first + BATCH]) for first in batches]), labels)
        for name, run in runs.items()
    }
