"""The only inference loop: batches under the eval transform, and a classifier's probabilities for them."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssfer.core.pixels import normalize
from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.data.shared_memory import BatchDataset
from ssfer.models.prediction import predictions
from ssfer.models.settings import ModelSettings
from ssfer.train.device import Machine
from ssfer.train.loader import loader, read

Chosen = Sequence[int] | NDArray[np.int64]


class EvalBatches(BatchDataset):
    """Batches of eval views, in order: x_lb (B, 3, side, side) uint8, y_lb and idx_lb (B,) int64.

    Args:
        faces: the data set.
        side: of the network's input, pixels.
        batch_size: B; the last batch may be smaller.
        chosen: indices of the faces; None: all.
    """

    def __init__(self, faces: FaceDataset, side: int, batch_size: int, chosen: Chosen | None = None) -> None:
        super().__init__()
        self._faces, self._transform, self._size = faces, Eval(side), batch_size
        self._index = np.arange(len(faces)) if chosen is None else np.asarray(chosen, np.int64)

    def __len__(self) -> int:
        return -(-len(self._index) // self._size)

    def _batch(self, i: int) -> dict[str, Tensor]:
        index = self._index[i * self._size : (i + 1) * self._size].tolist()
        samples = [self._faces[n] for n in index]
        images = torch.stack([self._transform(s.image, s.box, 0).image for s in samples])
        if self._pool is not None:
            room = self._pool.take(images.nbytes).as_strided(images.shape, images.stride())
            images = room.copy_(images)
        return {"x_lb": images, "y_lb": torch.tensor([s.label for s in samples]), "idx_lb": torch.tensor(index)}


def eval_views(
    faces: FaceDataset, side: int, batch_size: int, chosen: Chosen | None = None, machine: Machine | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images (B, 3, side, side), uint8, under the eval transform, labels and indices (B,), in order, on the CPU.

    Args:
        faces, side, batch_size, chosen: see `EvalBatches`.
        machine: its workers prepare the batches, in pinned memory for CUDA; None: this process does.
    """
    batches = EvalBatches(faces, side, batch_size, chosen)
    order = range(len(batches))
    made: Iterator[dict[str, Tensor]] = map(batches.__getitem__, order)
    if machine is not None:
        # A generator of its own: torch's global one goes on as if no loader had been made.
        made = read(loader(batches, order, machine, torch.Generator()))
    for batch in made:
        yield batch["x_lb"], batch["y_lb"], batch["idx_lb"]


def eval_batches(
    faces: FaceDataset, *, machine: Machine, model: ModelSettings, chosen: Sequence[int] | None = None
) -> Generator[dict[str, Tensor], None, None]:
    """Yield all or the chosen samples in order, in batches on the device: x_lb (eval view), y_lb and idx_lb."""
    for batch in eval_views(faces, model.img_size, machine.params.eval_batch_size, chosen, machine):
        images, labels, index = (part.to(machine.device, non_blocking=True) for part in batch)
        yield {"x_lb": normalize(images, model.mean, model.std), "y_lb": labels, "idx_lb": index}


def predict(
    module: nn.Module,
    dataset: FaceDataset,
    *,
    machine: Machine,
    model: ModelSettings,
    chosen: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of all or the chosen samples in order, of the eval view and in eval mode.

    The network computes in machine.eval_precision.
    """
    batches = eval_batches(dataset, machine=machine, model=model, chosen=chosen)
    with machine.compute.evaluating(), closing(batches):
        probs: NDArray[np.float64] = predictions(module, batches)[0].numpy()
    return probs
