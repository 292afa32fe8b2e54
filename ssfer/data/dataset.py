"""Stored crops as samples, and training batches as a pure function of the step number."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ssfer.boxes import fallback_box
from ssfer.data.transforms import Transform
from ssfer.errors import SsferError
from ssfer.manifest import read_manifest
from ssfer.rng import epoch_order, sample_key
from ssfer.shards import ShardReader


class Sample(NamedTuple):
    """image: uint8 (3, S, S); label: class index or -1; box: float32 (4,) in the stored crop."""

    image: Tensor
    label: int
    box: Tensor


class FaceDataset:
    """Random access to the stored crops of a list of sample ids, in that order.

    Args:
        folders: folders with a manifest and shards, e.g. data/faces/<source>.
        ids: sample ids; None means every stored image of the folders.
        classes: class names in index order; None means no labels are read (all -1).
        cache_gib: decode once and keep when all crops fit in this much memory.

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
        self.ids: list[str] = table["sample_id"].to_pylist()
        index = {name: i for i, name in enumerate(classes or ())}
        self.labels = np.array([index.get(name, -1) for name in table["label"].to_pylist()], dtype=np.int64)
        self._place = list(zip(*(table[c].to_pylist() for c in ("folder", "shard", "offset", "size")), strict=True))
        self._readers = [ShardReader(f) for f in folders]
        boxes = table["crop_box"].to_pylist()
        sizes = table["crop_size"].to_pylist()
        self._boxes = [torch.tensor(fallback_box(s)) if b is None else torch.tensor(b) for b, s in zip(boxes, sizes, strict=True)]
        self._cache: list[Tensor] | None = None
        if sum(3 * s * s for s in sizes) <= cache_gib * 2**30:
            self._cache = [self._decode(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Sample:
        image = self._cache[i] if self._cache is not None else self._decode(i)
        return Sample(image, int(self.labels[i]), self._boxes[i])

    def _decode(self, i: int) -> Tensor:
        folder, shard, offset, size = self._place[i]
        data = self._readers[folder].read(shard, offset, size)
        try:
            with Image.open(io.BytesIO(data)) as image:
                array = np.array(image.convert("RGB"))
        except OSError as error:
            raise SsferError(f"stored crop '{self.ids[i]}' cannot be decoded ({error}); rebuild data/faces") from error
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _select(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    row = {sample_id: i for i, sample_id in enumerate(table["sample_id"].to_pylist())}
    missing = [i for i in ids if i not in row]
    if missing:
        raise SsferError(
            f"{len(missing)} of {len(ids)} sample ids are not among the stored faces (e.g. '{missing[0]}'); "
            "the split and data/faces do not belong together: run dvc repro"
        )
    return table.take([row[i] for i in ids])


@dataclass(frozen=True)
class Stream:
    """One endless supply of samples within a step.

    Attributes:
        name: "lb" or "ulb"; the batch keys are x_<name>[_<view>], y_, boxes_, key_ and idx_<name>.
        views: suffix -> transform; the suffix "" gives the plain key x_<name>.
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

    So any worker can make any step, resuming at step t needs no replay, and N ranks take consecutive parts of the
    same global batch.

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
                raise SsferError(f"batch_size {s.batch_size} does not divide over {world} processes")
        self.streams, self.rank, self.world = list(streams), rank, world
        self.steps_per_epoch = streams[0].steps_per_epoch
        self.epochs = epochs

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for stream in self.streams:
            batch.update(self._part(stream, step))
        return batch

    def _part(self, stream: Stream, step: int) -> dict[str, Tensor]:
        epoch, i = divmod(step, stream.steps_per_epoch)
        order = epoch_order(stream.seed, epoch, len(stream.dataset))
        share = stream.batch_size // self.world
        first = i * stream.batch_size + self.rank * share
        samples, keys = [], []
        images: dict[str, list[Tensor]] = {suffix: [] for suffix in stream.views}
        boxes: list[Tensor] = []
        for position in range(first, first + share):
            sample = stream.dataset[int(order[position])]
            samples.append(sample)
            keys.append(sample_key(stream.seed, epoch, position, ""))
            for n, (suffix, transform) in enumerate(stream.views.items()):
                view = transform(sample.image, sample.box, sample_key(stream.seed, epoch, position, suffix or "x"))
                images[suffix].append(view.image)
                if n == 0:
                    boxes.append(view.box)
        name = stream.name
        out = {f"x_{name}_{suffix}" if suffix else f"x_{name}": torch.stack(v) for suffix, v in images.items()}
        out[f"y_{name}"] = torch.tensor([s.label for s in samples])
        out[f"boxes_{name}"] = torch.stack(boxes)
        out[f"key_{name}"] = torch.tensor(keys)
        out[f"idx_{name}"] = torch.from_numpy(order[first : first + share].copy())
        return out
