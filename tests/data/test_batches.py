"""ssfer.data.batches: batches as a function of the step, whoever makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssfer.core.errors import SsferError
from ssfer.core.images import fallback_box
from ssfer.core.rng import epoch_order, sample_key
from ssfer.data.augmentations.base import Crop, map_box
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batch_parts import part_of_batch
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest, write_manifest
from tests.support.factory import CLASSES, write_faces

LABELS = [i % 3 for i in range(22)]
WEAK, STRONG = Weak(16, 0.3), Strong(16, 0.3, "rand-m9-mstd0.5-inc1", (0.588, 0.459, 0.402))


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    write_faces(tmp_path / "faces", "faces", LABELS, seed=2)
    return tmp_path / "faces"


def unlabeled_stream(faces: Path, batch_size: int = 6) -> Stream:
    return Stream("ulb", FaceDataset([faces]), batch_size, {"w": WEAK, "s": STRONG}, seed=11)


def labeled_stream(faces: Path, batch_size: int = 4) -> Stream:
    dataset = FaceDataset([faces], [f"faces/train{i:06d}" for i in range(10)], CLASSES)
    return Stream("lb", dataset, batch_size, {"": WEAK}, seed=12)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_has_the_named_parts(faces: Path) -> None:
    batch = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=2)[0]
    shapes = {k: tuple(v.shape) for k, v in batch.items()}
    assert shapes == {
        **{f"x_ulb_{view}": (6, 3, 16, 16) for view in "ws"},
        **{"y_ulb": (6,), "boxes_ulb": (6, 4), "key_ulb": (6,), "idx_ulb": (6,)},
        **{"x_lb": (4, 3, 16, 16), "y_lb": (4,), "boxes_lb": (4, 4), "key_lb": (4,), "idx_lb": (4,)},
    }
    assert batch["x_lb"].dtype == torch.uint8
    assert {batch[k].dtype for k in ("y_lb", "key_lb", "idx_lb")} == {torch.int64}


def test_every_entry_of_a_batch_is_what_step_epoch_and_position_say(faces: Path) -> None:
    stream = unlabeled_stream(faces)
    batch = StepBatches([stream], epochs=3)[4]  # 3 steps an epoch: epoch 1, positions 6..11
    order = epoch_order(11, 1, 22)[6:12]
    assert batch["idx_ulb"].tolist() == order.tolist()
    for place, position in enumerate(range(6, 12)):
        sample = stream.dataset[int(order[place])]
        weak = WEAK(sample.image, sample.box, sample_key(11, 1, position, "w"))
        strong = STRONG(sample.image, sample.box, sample_key(11, 1, position, "s"))
        assert torch.equal(batch["x_ulb_w"][place], weak.image)
        assert torch.equal(batch["boxes_ulb"][place], weak.box)  # of the first view
        assert torch.equal(batch["x_ulb_s"][place], strong.image)
        assert batch["key_ulb"][place] == sample_key(11, 1, position, "")


def test_weak_and_strong_views_are_independent_crops(faces: Path) -> None:
    stream = Stream("ulb", FaceDataset([faces]), 20, {"w": WEAK, "s": WEAK}, seed=1)
    batch = StepBatches([stream], epochs=1)[0]
    assert not any(torch.equal(w, s) for w, s in zip(batch["x_ulb_w"], batch["x_ulb_s"], strict=True))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_ranks_parts_make_up_the_batch_of_one_rank(faces: Path, world: int) -> None:
    streams = [unlabeled_stream(faces), Stream("lb", labeled_stream(faces).dataset, 6, {"": WEAK}, seed=12)]
    whole = StepBatches(streams, epochs=3)
    parts = [StepBatches(streams, epochs=3, rank=rank, world=world) for rank in range(world)]
    places = torch.from_numpy(np.concatenate([part_of_batch(6, rank, world) for rank in range(world)]))
    for step in (0, 4):
        joined = {k: torch.cat([p[step][k] for p in parts]) for k in whole[step]}
        assert equal(joined, {k: v[places] for k, v in whole[step].items()})
    assert {len(p) for p in parts} == {len(whole)}


def test_worker_processes_make_the_same_batches_as_none(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=2)
    loaders = [DataLoader(batches, batch_size=None, sampler=range(1, 6), num_workers=n) for n in (0, 2)]
    alone, helped = (list(loader) for loader in loaders)
    assert len(alone) == len(helped) == 5
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.slow  # each worker imports torch
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_started_workers_get_the_cached_crops_by_one_descriptor(faces: Path, method: str) -> None:
    """Python 3.14 starts workers with forkserver, which passes on at most 256 descriptors."""
    ids = [f"faces/train{i % 22:06d}" for i in range(300)]
    dataset = FaceDataset([faces], ids, CLASSES, cache_gib=1)
    streams = [Stream("ulb", dataset, 6, {"w": WEAK, "s": STRONG}, seed=11)]
    batches = StepBatches(streams, epochs=1)
    loader = DataLoader(batches, batch_size=None, sampler=range(3), num_workers=1, multiprocessing_context=method)
    assert all(equal(batch, batches[step]) for step, batch in enumerate(loader))


def test_batches_from_workers_are_right_when_their_memory_is_used_again(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces)], epochs=14)
    loader = DataLoader(batches, batch_size=None, sampler=range(42), num_workers=1)
    view = None
    for step, batch in enumerate(loader):
        assert equal(batch, batches[step])
        if step == 3:  # a view of one image outlives its batch and must not be written over
            view, copy = batch["x_ulb_w"][2, 1], batch["x_ulb_w"][2, 1].clone()
    assert view is not None
    assert torch.equal(view, copy)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_cut_short_is_one_sentence_through_the_loader(faces: Path, workers: int) -> None:
    batches = StepBatches([unlabeled_stream(faces, batch_size=22)], epochs=1)
    rows = read_manifest(faces).to_pylist()
    with open(faces / "shard-00000.tar", "r+b") as shard:
        shard.truncate(rows[-1]["offset"] + 10)
    loader = iter(DataLoader(batches, batch_size=None, sampler=range(1), num_workers=workers))
    with pytest.raises(SsferError) as error:
        next(loader)
    if workers:
        loader._shutdown_workers()  # type: ignore[attr-defined]  # the garbage collector takes 5 s for each
    size, offset = rows[-1]["size"], rows[-1]["offset"]
    assert str(error.value) == (
        f"shard {faces / 'shard-00000.tar'} is cut short: expected {size} bytes at {offset}, found 10; "
        "restore it with dvc checkout --force or rebuild it"
    )


def test_an_epochs_order_is_drawn_once(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def noted(seed: int, epoch: int, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        drawn.append((seed, epoch, n))
        return epoch_order(seed, epoch, n)

    monkeypatch.setattr("ssfer.data.batches.epoch_order", noted)
    batches = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=2)  # 3 and 2 steps a pass
    for step in range(6):
        _ = batches[step]
    assert drawn == [(11, 0, 22), (12, 0, 10), (12, 1, 10), (11, 1, 22), (12, 2, 10)]


def test_an_epoch_visits_distinct_samples_drops_the_rest_and_reshuffles(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces)], epochs=20)
    assert batches.steps_per_epoch == 3  # 22 faces, batches of 6
    assert len(batches) == 60
    epochs = [[i for s in range(3) for i in batches[3 * e + s]["idx_ulb"].tolist()] for e in range(6)]
    assert all(len(set(visited)) == 18 for visited in epochs)
    assert len({tuple(visited) for visited in epochs}) == 6
    assert len({frozenset(visited) for visited in epochs}) > 1  # not always the same ones are dropped
    assert set().union(*epochs) == set(range(22))


def test_a_shorter_second_stream_starts_over_reshuffled(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=2)
    assert len(batches) == 6  # the first stream counts
    seen = [batches[step]["idx_lb"].tolist() for step in range(6)]  # 10 faces, batches of 4: 2 steps a pass
    passes = [seen[0] + seen[1], seen[2] + seen[3], seen[4] + seen[5]]
    assert all(len(set(p)) == 8 for p in passes)
    assert passes[0] != passes[1] != passes[2]
    keys = torch.cat([batches[step]["key_lb"] for step in range(6)])
    assert len(set(keys.tolist())) == 24  # never the same augmentation twice


def test_too_large_a_batch_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="batch_size 23 is larger than the 22 images of stream 'ulb'"):
        StepBatches([unlabeled_stream(faces, batch_size=23)], epochs=1)


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="the 6 images .* of stream 'ulb', which has 22, do not divide over 4"):
        StepBatches([unlabeled_stream(faces)], epochs=1, world=4)


@pytest.mark.parametrize("frame", ["source", "augmented"])
def test_the_box_of_an_image_without_a_face_moves_with_the_crop_or_lies_in_every_view_alike(
    faces: Path, frame: str
) -> None:
    rows = read_manifest(faces).to_pylist()
    missing = {"crop_box": list(fallback_box(24)), "crop_box_fallback": True}
    write_manifest([r | (missing if i % 2 else {}) for i, r in enumerate(rows)], faces / MANIFEST_NAME)
    stream = Stream("lb", FaceDataset([faces]), 22, {"": WEAK}, 5, frame)
    batch = StepBatches([stream], epochs=1)[0]
    assert batch["boxes_lb"].dtype == torch.float32
    alike = 0
    for place, (i, box) in enumerate(zip(batch["idx_lb"].tolist(), batch["boxes_lb"], strict=True)):
        moved = map_box(stream.dataset.boxes[i], WEAK.draw(sample_key(5, 0, place, "x"), 24, 24), 16)
        fixed = torch.tensor(fallback_box(16))
        assert torch.equal(box, fixed if i % 2 and frame == "augmented" else moved)
        alike += int(i % 2 and torch.equal(moved, fixed))
    assert alike < 11  # or else the two frames were one


@pytest.mark.parametrize("kind", ["float", "larger"])
def test_views_that_are_no_pictures_of_the_size_are_refused(faces: Path, kind: str) -> None:
    """A float view in 0..1 would be taken for a nearly black picture."""

    class Wrong(Weak):
        def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
            view = super().render(image, crop, key)
            return view.float() / 255 if kind == "float" else view.repeat(1, 2, 2)

    batches = StepBatches([Stream("lb", FaceDataset([faces]), 4, {"": Wrong(16, 0.3)}, seed=1)], 1)
    found = {"float": r"float32 \(3, 16, 16\)", "larger": r"uint8 \(3, 32, 32\)"}[kind]
    with pytest.raises(SsferError, match=rf"augmentation Wrong makes views of {found}; expected uint8 \(3, 16, 16\)"):
        batches[0]
