"""data/weights/model.safetensors: the resulting network of a run, with everything that prediction needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssfer.config.schema import Params
from ssfer.core.places import FACES, TRAINED_MODEL
from ssfer.faces.alignment import transform_points
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.faces.settings import CROP_SETTINGS
from ssfer.formats.manifest import read_manifest
from ssfer.formats.weights import load_weights, save_weights
from ssfer.stages.common import Split

_DIGITS = 5  # of landmarks, as shares of the crop's side


def write_trained_model(path: Path, temperature: float, params: Params, split: Split) -> None:
    """Write the network of a weights file of stage semisup or finetune with its temperature and crop recipe.

    That file does not change: it is its stage's output, and the temperature is fitted later.
    """
    state, meta = load_weights(path)
    save_weights(
        TRAINED_MODEL, state, {**meta, "name": path.stem, "temperature": temperature, "crop": _crop(params, split)}
    )


def _crop(params: Params, split: Split) -> dict[str, Any]:
    """Return what `ssfer.predict.crop.CropRecipe` reads."""
    settings = DETECTORS.settings(params.align.detector, params.detectors)
    points = _points(split)
    return {
        **params.align.model_dump(mode="json", include=set(CROP_SETTINGS)),
        **({"turned": False, "min_face": None} if points else {}),  # in ready-made crops nothing was looked for
        "settings": settings.model_dump(mode="json"),
        "points": points,
    }


def _points(split: Split) -> list[list[float]] | None:
    """Return the median landmarks (5, 2) of ready-made crops, as shares of the crop's side.

    None if most labeled crops are aligned by their landmarks, which are then at the template. Ready-made crops are only
    resized, so a network trained on them needs new faces cropped like them.
    """
    labeled = set(split["labeled"])
    aligned, ready = 0, []
    for source in split["sources"]:
        table = read_manifest(FACES / source)
        for row in table.select(["sample_id", "crop_recipe", "landmarks", "matrix", "crop_size"]).to_pylist():
            if row["sample_id"] not in labeled:
                continue
            if not str(row["crop_recipe"]).startswith("resize-"):
                aligned += 1
            elif row["landmarks"] is not None:
                points = np.reshape(row["landmarks"], (5, 2))
                ready.append((transform_points(points, np.reshape(row["matrix"], (2, 3))) + 0.5) / row["crop_size"])
    if aligned >= len(ready):
        return None
    return [[round(float(v), _DIGITS) for v in point] for point in np.median(ready, axis=0)]
