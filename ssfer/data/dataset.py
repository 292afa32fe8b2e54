"""Stored crops as samples, and training batches as a pure function of the step number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ssfer.boxes import fallback_box
from ssfer.data.decode import decode_rgb
from ssfer.data.parcel import ErrorInWorker, Pool
from ssfer.data.parts import part_of_batch
from ssfer.data.transforms import Transform
from ssfer.errors import SsferError
from ssfer.manifest import read_manifest
from ssfer.rng import epoch_order, sample_key
from ssfer.shards import ShardReader


class Sample(NamedTuple):
    """image: uint8 (3, S, S), channels last in memory; label: class index or -1; box: float32 (4,) in stored pixels."""

    image: Tensor
    label: int
    box: Tensor


class FaceDataset:
    """Random access to the stored crops of a list of sample ids, in that order.

    Whatever there is per sample lies in arrays, not in Python objects: 1.2 million samples take some 100 MB, and
    worker processes share them with their parent instead of copying them page by page as reference counts change.

    Args:
        folders: folders with a manifest and shards, e.g. data/faces/<source>.
        ids: sample ids; None means every stored image of the folders.
        classes: class names in index order; None means no labels are read (all -1).
        cache_gib: decode once and keep when all crops fit in this much memory.

    Attributes:
        labels: (N,) int64, class index or -1.
        sides: (N,) int32, pixels.
        boxes: (N, 4) float32, face boxes in the stored crops.

    Raises:
        SsferError: an id that no folder has or that has no stored image.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        ids: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        cache_gib: float = 0.0,
    ) -> None:
        folders = list(folders)
        columns = ["sample_id", "label", "shard", "offset", "size", "crop_size", "crop_box"]
        tables = [read_manifest(f).select(columns) for f in folders]
        tables = [t.append_column("folder", pa.array([i] * len(t), pa.int32())) for i, t in enumerate(tables)]
        table = pa.concat_tables(tables)
        table = table.filter(pc.is_valid(table["shard"]))
        if ids is not None:
            table = _select(table, ids)
        self._ids = table["sample_id"].combine_chunks()
        self.labels = _class_indices(table["label"], classes or ())
        self._readers = [ShardReader(f) for f in folders]
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._shards: list[str] = shards.dictionary.to_pylist()
        numbers = shards.indices, table["folder"], table["offset"], table["size"]
        self._shard, self._folder, self._offset, self._size = (column.to_numpy() for column in numbers)
        self.sides = table["crop_size"].to_numpy()
        self.boxes = torch.from_numpy(_boxes(table["crop_box"].combine_chunks(), self.sides))
        self._cache: list[Tensor] | None = None
        if 3 * (self.sides.astype(np.int64) ** 2).sum() <= cache_gib * 2**30:
            self._cache = [self._decode(i) for i in range(len(self))]

    @property
    def ids(self) -> list[str]:
        """The sample ids, in order."""
        return self._ids.to_pylist()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, i: int) -> Sample:
        return Sample(self.image(i), int(self.labels[i]), self.boxes[i])

    def image(self, i: int) -> Tensor:
        """Return the pixels of sample i, uint8 (3, S, S), channels last in memory."""
        return self._cache[i] if self._cache is not None else self._decode(i)

    def _decode(self, i: int) -> Tensor:
        reader, shard = self._readers[self._folder[i]], self._shards[self._shard[i]]
        data = reader.read(shard, int(self._offset[i]), int(self._size[i]))
        try:
            pixels = decode_rgb(data)
        except ValueError as error:
            name = self._ids[i].as_py()
            raise SsferError(f"stored crop '{name}' cannot be decoded ({error}); rebuild data/faces") from error
        if pixels.shape[:2] != (self.sides[i], self.sides[i]):
            raise SsferError(
                f"stored crop '{self._ids[i].as_py()}' has {pixels.shape[1]} x {pixels.shape[0]} pixels, expected "
                f"{self.sides[i]} x {self.sides[i]} as its manifest says; rebuild data/faces"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _class_indices(labels: pa.ChunkedArray, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each label in `classes`, -1 for null and for any other."""
    indices = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
    return pc.fill_null(indices, -1).cast(pa.int64()).to_numpy()


def _boxes(boxes: pa.ListArray, sizes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the boxes as (N, 4); a null is the fallback box for a crop of that size."""
    found = np.empty((len(boxes), 4), np.float32)
    for size in np.unique(sizes):
        found[sizes == size] = fallback_box(int(size))
    there = boxes.is_valid()
    found[there.to_numpy(zero_copy_only=False)] = boxes.filter(there).flatten().to_numpy().reshape(-1, 4)
    return found


def _select(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    row = {sample_id: i for i, sample_id in enumerate(table["sample_id"].to_pylist())}
    missing = [i for i in ids if i not in row]
    if missing:
        raise SsferError(
            f"{len(missing)} of {len(ids)} sample ids are not among the stored faces (e.g. '{missing[0]}'); "
            "the split and data/faces do not belong together: run dvc repro"
        )
    return table.take(pa.array([row[i] for i in ids], pa.int64()))


@dataclass(frozen=True)
class Stream:
    """One endless supply of samples within a step.

    Attributes:
        name: "lb" or "ulb"; the batch keys are x_<name>[_<view>], y_, boxes_, key_ and idx_<name>.
        views: suffix -> transform (boxes are the first one's); the suffix "" gives the plain key x_<name>.
        batch_size: global number of samples a step; at most len(dataset).
    """

    name: str
    dataset: FaceDataset
    batch_size: int
    views: Mapping[str, Transform]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of the pass is dropped, another rest every time."""
        return len(self.dataset) // self.batch_size


class StepBatches(Dataset[dict[str, Tensor]]):
    """Map-style data set whose item t is the complete batch of training step t.

    So any worker can make any step, resuming at step t needs no replay, and N ranks take the parts of the same
    global batch.

    Args:
        streams: the first one defines the length of an epoch.
        rank, world: which part of each global batch this process trains on.

    Raises:
        SsferError: a stream with fewer samples than a batch, or a batch that does not divide over the ranks.
    """

    def __init__(self, streams: Sequence[Stream], epochs: int, rank: int = 0, world: int = 1) -> None:
        for s in streams:
            if s.steps_per_epoch == 0:
                raise SsferError(
                    f"batch_size {s.batch_size} is larger than the {len(s.dataset)} images of stream '{s.name}'"
                )
            if s.batch_size % world:
                raise SsferError(f"batch_size {s.batch_size} does not divide over {world} processes; change either")
        self.streams, self.rank, self.world = list(streams), rank, world
        self.steps_per_epoch = streams[0].steps_per_epoch
        self.epochs = epochs
        self._pool: Pool | None = None
        self._order: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Return the batch of a step; in a worker process a parcel, which its parent receives as that."""
        if get_worker_info() is None:
            return self._batch(step)
        if self._pool is None:
            self._pool = Pool()
        try:
            return cast(dict[str, Tensor], self._pool.pack(self._batch(step)))
        except SsferError as error:
            raise ErrorInWorker(str(error)) from None

    def _batch(self, step: int) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for stream in self.streams:
            batch.update(self._part(stream, step))
        return batch

    def _part(self, stream: Stream, step: int) -> dict[str, Tensor]:
        epoch, i = divmod(step, stream.steps_per_epoch)
        places = i * stream.batch_size + part_of_batch(stream.batch_size, self.rank, self.world)
        chosen = self._epoch_order(stream, epoch)[places].copy()
        # Small work on Python objects first and last, pixels in between: in turns, each would find the other's data in
        # the processor's caches instead of its own, and a batch would take a fifth longer.
        keys = {
            suffix: [sample_key(stream.seed, epoch, position, suffix or "x") for position in places.tolist()]
            for suffix in stream.views
        }
        sides = stream.dataset.sides[chosen].tolist()
        crops = {
            suffix: [transform.draw(key, side, side) for key, side in zip(keys[suffix], sides, strict=True)]
            for suffix, transform in stream.views.items()
        }
        images: dict[str, Tensor] = {}
        for row, index in enumerate(chosen.tolist()):
            image = stream.dataset.image(index)
            for suffix, transform in stream.views.items():
                view = transform.render(image, crops[suffix][row], keys[suffix][row])
                if row == 0:
                    images[suffix] = self._room(len(chosen), view)
                images[suffix][row] = view
        suffix, transform = next(iter(stream.views.items()))
        stored = stream.dataset.boxes[torch.from_numpy(chosen)]
        boxes = [transform.place(box, crop) for box, crop in zip(stored, crops[suffix], strict=True)]
        name = stream.name
        out = {f"x_{name}_{suffix}" if suffix else f"x_{name}": v for suffix, v in images.items()}
        out[f"y_{name}"] = torch.from_numpy(stream.dataset.labels[chosen])
        out[f"boxes_{name}"] = torch.stack(boxes)
        out[f"key_{name}"] = torch.tensor([sample_key(stream.seed, epoch, p, "") for p in places.tolist()])
        out[f"idx_{name}"] = torch.from_numpy(chosen)
        return out

    def _epoch_order(self, stream: Stream, epoch: int) -> NDArray[np.int64]:
        """Return `epoch_order`, kept for the epoch: shuffling a million samples takes longer than making a batch."""
        if self._order.get(stream.name, (-1,))[0] != epoch:
            self._order[stream.name] = epoch, epoch_order(stream.seed, epoch, len(stream.dataset))
        return self._order[stream.name][1]

    def _room(self, count: int, image: Tensor) -> Tensor:
        """Return an empty tensor for `count` images like this one, channels last in memory, as decoders deliver pixels.

        Fresh memory costs more than what is written to it where pages are small. So it is claimed once per batch, in a
        worker from its pool, else from numpy, which asks for large pages (torch does not).
        """
        channels, height, width = image.shape
        size = count * image.numel() * image.element_size()
        room = torch.from_numpy(np.empty(size, np.uint8)) if self._pool is None else self._pool.take(size)
        return room.view(image.dtype).view(count, height, width, channels).permute(0, 3, 1, 2)
