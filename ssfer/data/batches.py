"""Training batches as a pure function of the step number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.images import fallback_box
from ssfer.core.rng import epoch_order, sample_key
from ssfer.data.augmentations.base import Transform
from ssfer.data.batch_parts import part_of_batch
from ssfer.data.dataset import FaceDataset
from ssfer.data.device_randaugment import DeviceRandAugment
from ssfer.data.shared_memory import BatchDataset


@dataclass(frozen=True)
class Stream:
    """One endless supply of samples within a step.

    Attributes:
        name: "lb" or "ulb"; the batch keys are x_<name>[_<view>], y_, boxes_, key_ and idx_<name>, and t_ with targets.
        views: suffix -> transform (boxes are the first one's); the suffix "" gives the plain key x_<name>.
        batch_size: global number of samples a step; at most len(dataset).
        fallback_frame: position of the box of an image without a detected face (SSFER specification, table 14, row 4):
            "source", it is a box of the stored crop and is mapped to the view; "augmented", it is equal in every view.
        targets: distribution over the classes of every sample, float32 (N, K); None: labels alone.
    """

    name: str
    dataset: FaceDataset
    batch_size: int
    views: Mapping[str, Transform]
    seed: int
    fallback_frame: Literal["source", "augmented"] = "source"
    targets: Tensor | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the remaining samples are dropped, different ones in every pass."""
        return len(self.dataset) // self.batch_size


class StepBatches(BatchDataset):
    """Map-style data set whose item t is the complete batch of training step t.

    So any worker can make any step, resuming at step t needs no replay, and N ranks take parts of the same global
    batch.

    Args:
        streams: the first one defines the length of an epoch.
        epochs: passes over the first stream.
        rank, world: this process trains on part `rank` of `world` of each global batch.
        on_device: leave to `arrived` what the device can do for a whole batch.

    Raises:
        SsferError: a stream with fewer samples than a batch, a batch size that is not a multiple of the ranks, or an
            augmentation that the device cannot do.
    """

    def __init__(
        self, streams: Sequence[Stream], epochs: int, rank: int = 0, world: int = 1, on_device: bool = False
    ) -> None:
        super().__init__()
        for s in streams:
            if s.steps_per_epoch == 0:
                raise SsferError(
                    f"batch_size {s.batch_size} is larger than the {len(s.dataset)} images of stream '{s.name}'"
                )
            if s.batch_size % world:
                raise SsferError(
                    f"the {s.batch_size} images that a step takes of stream '{s.name}', which has {len(s.dataset)}, do "
                    f"not divide over {world} processes; change the batch size or the number of processes"
                )
        self.streams, self.rank, self.world = list(streams), rank, world
        self.steps_per_epoch = streams[0].steps_per_epoch
        self.epochs = epochs
        self._views = {s.name: dict(s.views) for s in streams}
        self._left: dict[str, dict[str, DeviceRandAugment]] = {s.name: {} for s in streams}
        for s in streams if on_device else ():
            for suffix, transform in s.views.items():
                self._views[s.name][suffix], left = transform.on_device()
                if left is not None:
                    self._left[s.name][suffix] = left
        self._order: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def arrived(self, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return a batch on the device, where the rest of the augmentation is done; the host does not wait for it."""
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        for name, views in self._left.items():
            for suffix, left in views.items():
                view = _key(name, suffix)
                drawn = {part: moved.pop(f"{part}_{view}") for part in ("numbers", "order", "by")}
                moved[view] = left(moved[view], batch[f"numbers_{view}"], drawn)
        return moved

    def _batch(self, i: int) -> dict[str, Tensor]:
        return {key: value for stream in self.streams for key, value in self._part(stream, i).items()}

    def _part(self, stream: Stream, step: int) -> dict[str, Tensor]:
        epoch, i = divmod(step, stream.steps_per_epoch)
        views = self._views[stream.name]
        places = i * stream.batch_size + part_of_batch(stream.batch_size, self.rank, self.world)
        chosen = self._epoch_order(stream, epoch)[places].copy()
        # Work on Python objects first and last, pixels in between. If they alternated, each would evict the data of the
        # other from the processor's caches, and a batch would take a fifth longer.
        keys = {
            suffix: [sample_key(stream.seed, epoch, position, suffix or "x") for position in places.tolist()]
            for suffix in views
        }
        sides = stream.dataset.sides[chosen].tolist()
        crops = {
            suffix: [transform.draw(key, side, side) for key, side in zip(keys[suffix], sides, strict=True)]
            for suffix, transform in views.items()
        }
        images: dict[str, Tensor] = {}
        for row, index in enumerate(chosen.tolist()):
            image = stream.dataset.image(index)
            for suffix, transform in views.items():
                view = transform.render(image, crops[suffix][row], keys[suffix][row])
                if row == 0:
                    check_view(view, transform)
                    images[suffix] = self._room(len(chosen), view)
                images[suffix][row] = view
        suffix, transform = next(iter(views.items()))
        stored = stream.dataset.boxes[torch.from_numpy(chosen)]
        boxes = torch.stack([transform.place(box, crop) for box, crop in zip(stored, crops[suffix], strict=True)])
        if not boxes.isfinite().all():
            raise SsferError(f"augmentation {type(transform).__name__} places a face box at NaN or infinity")
        if stream.fallback_frame == "augmented":
            boxes[torch.from_numpy(~stream.dataset.box_found[chosen])] = torch.tensor(fallback_box(transform.size))
        name = stream.name
        out = {_key(name, suffix): v for suffix, v in images.items()}
        for suffix, left in self._left[name].items():
            out |= {f"{part}_{_key(name, suffix)}": drawn for part, drawn in left.draw(keys[suffix]).items()}
        out[f"y_{name}"] = torch.from_numpy(stream.dataset.labels[chosen])
        out[f"boxes_{name}"] = boxes
        if stream.targets is not None:
            out[f"t_{name}"] = stream.targets[torch.from_numpy(chosen)]
        out[f"key_{name}"] = torch.tensor([sample_key(stream.seed, epoch, p, "") for p in places.tolist()])
        out[f"idx_{name}"] = torch.from_numpy(chosen)
        return out

    def _epoch_order(self, stream: Stream, epoch: int) -> NDArray[np.int64]:
        """Return `epoch_order`, cached for an epoch: shuffling a million samples takes longer than making a batch."""
        if self._order.get(stream.name, (-1,))[0] != epoch:
            self._order[stream.name] = epoch, epoch_order(stream.seed, epoch, len(stream.dataset))
        return self._order[stream.name][1]

    def _room(self, count: int, image: Tensor) -> Tensor:
        """Return an empty tensor for `count` images like this one, channels last in memory, as decoders deliver pixels.

        With small pages, new memory costs more time than writing to it. So it is allocated once per batch: in a worker
        from its pool, else by numpy, which asks for large pages (torch does not).
        """
        channels, height, width = image.shape
        size = count * image.numel() * image.element_size()
        room = torch.from_numpy(np.empty(size, np.uint8)) if self._pool is None else self._pool.take(size)
        return room.view(image.dtype).view(count, height, width, channels).permute(0, 3, 1, 2)


def check_view(view: Tensor, transform: Transform) -> None:
    """Refuse a view of another type or size.

    Raises:
        SsferError: names the augmentation.
    """
    side = transform.size
    if not isinstance(view, Tensor):
        raise SsferError(f"augmentation {type(transform).__name__} makes a {type(view).__name__}; expected a tensor")
    if view.dtype != torch.uint8 or view.shape != (3, side, side):
        raise SsferError(
            f"augmentation {type(transform).__name__} makes views of {str(view.dtype).removeprefix('torch.')} "
            f"{tuple(view.shape)}; expected uint8 (3, {side}, {side})"
        )


def _key(stream: str, suffix: str) -> str:
    """Return the name of a view in a batch."""
    return f"x_{stream}_{suffix}" if suffix else f"x_{stream}"
