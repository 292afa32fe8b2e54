"""The only inference loop: batches under the eval transform, and a classifier's probabilities for them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssfer.core.pixels import normalize
from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.models.prediction import predictions
from ssfer.models.settings import ModelSettings
from ssfer.train.device import Machine


def eval_views(
    faces: FaceDataset, side: int, batch_size: int, chosen: Sequence[int] | NDArray[np.int64] | None = None
) -> Iterator[tuple[Tensor, list[int], list[int]]]:
    """Yield images (B, 3, side, side), uint8, under the eval transform, their labels and indices, in order.

    Args:
        faces: the data set.
        side: of the network's input, pixels.
        batch_size: B; the last batch may be smaller.
        chosen: indices of the faces to yield; None: all.
    """
    transform = Eval(side)
    index = list(range(len(faces))) if chosen is None else [int(i) for i in chosen]
    for first in range(0, len(index), batch_size):
        part = index[first : first + batch_size]
        samples = [faces[i] for i in part]
        yield torch.stack([transform(s.image, s.box, 0).image for s in samples]), [s.label for s in samples], part


def eval_batches(faces: FaceDataset, *, machine: Machine, model: ModelSettings) -> Iterator[dict[str, Tensor]]:
    """Yield all samples in order, in batches on the device: x_lb (eval transform, normalized), y_lb and idx_lb."""
    for images, labels, index in eval_views(faces, model.img_size, machine.params.eval_batch_size):
        yield {
            "x_lb": normalize(images.to(machine.device), model.mean, model.std),
            "y_lb": torch.tensor(labels, device=machine.device),
            "idx_lb": torch.tensor(index, device=machine.device),
        }


def predict(module: nn.Module, dataset: FaceDataset, *, machine: Machine, model: ModelSettings) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of all samples in order, under the eval transform and in eval mode."""
    probs: NDArray[np.float64] = predictions(module, eval_batches(dataset, machine=machine, model=model))[0].numpy()
    return probs
