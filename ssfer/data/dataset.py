"""Stored crops as samples."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.images import fallback_box
from ssfer.core.labels import FERPLUS_VOTES
from ssfer.data.crop_cache import CropCache
from ssfer.data.decode import decode_rgb
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import PLACE, ShardReader


class Sample(NamedTuple):
    """image: uint8 (3, S, S), channels last in memory; label: class index or -1; box: float32 (4,) in stored pixels."""

    image: Tensor
    label: int
    box: Tensor


class FaceDataset:
    """Random access to the stored crops of a list of sample ids, in that order.

    Data per sample is stored in arrays, not in Python objects: 1.2 million samples take about 100 MB, and worker
    processes share them with their parent instead of copying them page by page as reference counts change.

    Args:
        folders: folders with a manifest and shards, e.g. data/faces/<source>.
        ids: sample ids; None: every stored image of the folders.
        classes: class names in index order; None: no labels are read (all -1).
        cache_gib: decode once and keep the pixels if all crops fit in this much memory.

    Attributes:
        labels: (N,) int64, class index or -1.
        sides: (N,) int32, pixels.
        boxes: (N, 4) float32, face boxes in the stored crops.
        box_found: (N,) bool, False where no face was found and `boxes` has the fallback box.

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
        columns = ["sample_id", "label", "votes", *PLACE, "crop_size", "crop_box", "crop_box_fallback"]
        tables = [read_manifest(f).select(columns) for f in folders]
        tables = [t.append_column("folder", pa.array([i] * len(t), pa.int32())) for i, t in enumerate(tables)]
        table = pa.concat_tables(tables)
        table = table.filter(pc.is_valid(table["shard"]))
        if ids is not None:
            table = _select(table, ids)
        self._ids = table["sample_id"].combine_chunks()
        indices = pc.index_in(table["label"], value_set=pa.array(classes or (), pa.string()))
        self.labels: NDArray[np.int64] = pc.fill_null(indices, -1).cast(pa.int64()).to_numpy()
        self._classes, self._votes, self._stored_labels = list(classes or ()), table["votes"], self.labels
        self._readers = [ShardReader(f) for f in folders]
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._shards: list[str] = shards.dictionary.to_pylist()
        numbers = shards.indices, table["folder"], table["offset"], table["size"]
        self._shard, self._folder, self._offset, self._size = (column.to_numpy() for column in numbers)
        self._crc32: NDArray[np.int64] = pc.fill_null(table["crc32"], -1).to_numpy()
        self.sides = table["crop_size"].to_numpy()
        boxes = table["crop_box"].combine_chunks()
        self.boxes = torch.from_numpy(_boxes(boxes, self.sides))
        fallback = pc.fill_null(table["crop_box_fallback"].combine_chunks(), False)
        self.box_found = pc.and_(boxes.is_valid(), pc.invert(fallback)).to_numpy(zero_copy_only=False)
        self._cache: CropCache | None = None
        if 3 * (self.sides.astype(np.int64) ** 2).sum() <= cache_gib * 2**30:
            self._cache = CropCache(self.sides, self._decode)

    @property
    def ids(self) -> list[str]:
        """The sample ids, in order."""
        return self._ids.to_pylist()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, i: int) -> Sample:
        return Sample(self.image(i), int(self.labels[i]), self.boxes[i])

    def digest(self) -> str:
        """Return a sha256 of what training reads of the stored crops: their bytes (by checksum), boxes and votes."""
        found = hashlib.sha256(json.dumps(self._votes.to_pylist(), separators=(",", ":")).encode())
        for values in (self._crc32, self.boxes.numpy(), self.box_found):
            found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()

    def close(self) -> None:
        """Close the shards; they are opened again when a sample is read."""
        for reader in self._readers:
            reader.close()

    def __getstate__(self) -> dict[str, Any]:
        # torch would move a pickled tensor to /dev/shm.
        return {**self.__dict__, "boxes": self.boxes.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, boxes=torch.from_numpy(state["boxes"]))

    def vote_shares(self) -> Tensor:
        """Return per sample and class the share of the votes for it, float32 (N, K): training targets.

        Votes for anything but the classes are ignored. The label gets the whole share if a sample has no votes, if none
        is for a class, or if the label is not the stored one (split.label_noise).
        """
        shares = np.zeros((len(self), len(self._classes)), np.float32)
        known = [i for i, name in enumerate(FERPLUS_VOTES) if name in self._classes]
        places = [self._classes.index(FERPLUS_VOTES[i]) for i in known]
        for row, votes in enumerate(self._votes.to_pylist()):
            if votes is not None and self.labels[row] == self._stored_labels[row]:
                shares[row, places] = np.asarray(votes, np.float32)[known]
        total = shares.sum(axis=1, keepdims=True)
        labels = np.eye(len(self._classes), dtype=np.float32)[self.labels]
        return torch.from_numpy(np.where(total > 0, shares / np.maximum(total, 1), labels))

    def forget_boxes(self) -> None:
        """Replace every face box by the fallback box, as if no face had been found."""
        self.boxes = torch.tensor([fallback_box(int(side)) for side in self.sides])
        self.box_found = np.zeros(len(self), bool)

    def image(self, i: int) -> Tensor:
        """Return the pixels of sample i, uint8 (3, S, S), channels last in memory."""
        return self._cache[i] if self._cache is not None else self._decode(i)

    def _decode(self, i: int) -> Tensor:
        reader, shard = self._readers[self._folder[i]], self._shards[self._shard[i]]
        crc32 = int(self._crc32[i])
        data = reader.read(shard, int(self._offset[i]), int(self._size[i]), None if crc32 < 0 else crc32)
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
