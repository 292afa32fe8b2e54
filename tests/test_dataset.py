"""ssfer.data.dataset: stored crops by id; batches as a function of the step, whoever makes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import CLASSES, pattern, write_faces
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from ssfer.data.dataset import FaceDataset, StepBatches, Stream
from ssfer.data.parts import part_of_batch
from ssfer.data.transforms import Eval, Strong, Weak
from ssfer.errors import SsferError
from ssfer.manifest import MANIFEST_NAME, read_manifest, write_manifest
from ssfer.rng import epoch_order, sample_key

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


# --- FaceDataset ---


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_samples_are_the_stored_pictures_in_the_order_of_the_ids(faces: Path, cache_gib: float) -> None:
    rng = np.random.default_rng(2)
    pictures = [pattern(label, rng) for label in LABELS]  # as the factory draws them
    ids = [f"faces/train{i:06d}" for i in (7, 0, 21)]
    dataset = FaceDataset([faces], ids, CLASSES, cache_gib)
    assert dataset.ids == ids
    for place, i in enumerate((7, 0, 21)):
        sample = dataset[place]
        assert sample.image.dtype == torch.uint8
        assert torch.equal(sample.image, torch.from_numpy(pictures[i]).permute(2, 0, 1))
        assert sample.label == LABELS[i]
        assert sample.box.tolist() == [2 + i % 5, 3, 20, 22]


def test_without_ids_all_stored_images_of_all_folders_are_taken(faces: Path, tmp_path: Path) -> None:
    write_faces(tmp_path / "more", "more", [0, 1], seed=3)
    dataset = FaceDataset([faces, tmp_path / "more"])
    assert len(dataset) == 24
    assert dataset.ids[-1] == "more/train000001"
    expected = FaceDataset([tmp_path / "more"])[1].image
    assert torch.equal(dataset[23].image, expected)


@pytest.mark.parametrize("classes", [CLASSES, tuple(reversed(CLASSES))])
def test_labels_are_indices_into_the_given_classes(faces: Path, classes: tuple[str, ...]) -> None:
    dataset = FaceDataset([faces], classes=classes)
    assert [classes[i] for i in dataset.labels] == [CLASSES[label] for label in LABELS]


def test_labels_are_minus_one_without_classes_and_for_unlabeled_faces(faces: Path, tmp_path: Path) -> None:
    assert set(FaceDataset([faces]).labels.tolist()) == {-1}
    write_faces(tmp_path / "wild", "wild", [-1, -1, 2])
    assert FaceDataset([tmp_path / "wild"], classes=CLASSES).labels.tolist() == [-1, -1, 2]


def test_a_missing_crop_box_is_the_fallback_box_at_the_crops_size(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    write_manifest([r | {"crop_box": None} for r in rows], faces / MANIFEST_NAME)
    expected = torch.tensor([25.0, 25, 220, 220]) * 24 / 224
    assert_close(FaceDataset([faces])[0].box, expected, rtol=1e-6, atol=1e-6)


def test_rows_without_a_stored_image_are_left_out(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    empty = {"shard": None, "offset": None, "size": None, "crop_size": None, "status": "unreadable"}
    write_manifest([r | (empty if i == 3 else {}) for i, r in enumerate(rows)], faces / MANIFEST_NAME)
    assert len(FaceDataset([faces])) == 21
    with pytest.raises(SsferError, match=r"1 of 2 sample ids .*faces/train000003.*dvc repro"):
        FaceDataset([faces], ["faces/train000002", "faces/train000003"])


def test_no_ids_are_no_samples(faces: Path) -> None:
    """The validation part of a split without one."""
    assert len(FaceDataset([faces], ids=[], classes=CLASSES)) == 0


def test_unknown_ids_are_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match=r"1 of 1 sample ids are not among the stored faces \(e.g. 'faces/nobody'\)"):
        FaceDataset([faces], ["faces/nobody"])


def test_an_undecodable_crop_is_a_sentence_with_its_id(faces: Path) -> None:
    row = read_manifest(faces).to_pylist()[4]
    with open(faces / "shard-00000.tar", "r+b") as shard:
        shard.seek(row["offset"])
        shard.write(bytes(row["size"]))
    with pytest.raises(SsferError, match=r"stored crop 'faces/train000004' cannot be decoded"):
        FaceDataset([faces])[4]


def test_the_cache_is_filled_only_when_everything_fits(faces: Path) -> None:
    needed = 22 * 3 * 24 * 24 / 2**30
    fits, does_not = FaceDataset([faces], cache_gib=1.01 * needed), FaceDataset([faces], cache_gib=0.99 * needed)
    (faces / "shard-00000.tar").unlink()
    assert fits[5].image.shape == (3, 24, 24)
    with pytest.raises(SsferError, match=r"shard-00000\.tar is missing"):
        does_not[5]


def test_grey_pictures_become_three_equal_channels(tmp_path: Path) -> None:
    from ssfer.shards import ShardWriter

    write_faces(tmp_path / "grey", "grey", [0])
    rows = read_manifest(tmp_path / "grey").to_pylist()
    buffer = io.BytesIO()
    Image.fromarray(np.arange(576, dtype=np.uint8).reshape(24, 24)).save(buffer, "PNG")
    with ShardWriter(tmp_path / "grey" / "shard-00000.tar") as shard:
        _, rows[0]["offset"], rows[0]["size"] = shard.add("a.png", buffer.getvalue())
    write_manifest(rows, tmp_path / "grey" / MANIFEST_NAME)
    image = FaceDataset([tmp_path / "grey"])[0].image
    assert torch.equal(image[0], image[2])
    assert image[1, 0, 5] == 5


def test_a_stored_picture_of_another_size_than_the_manifest_says_is_refused(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    write_manifest([r | {"crop_size": 32} for r in rows], faces / MANIFEST_NAME)
    with pytest.raises(SsferError, match=r"'faces/train000002' has 24 x 24 pixels, expected 32 x 32 as its manifest"):
        FaceDataset([faces])[2]


def test_pixels_come_channels_last_as_decoded(faces: Path) -> None:
    image = FaceDataset([faces])[0].image
    assert image.shape == (3, 24, 24)
    assert image.permute(1, 2, 0).is_contiguous()


# --- StepBatches ---


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


def test_a_batch_is_a_function_of_its_step(faces: Path) -> None:
    first = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=3)
    second = StepBatches([unlabeled_stream(faces), labeled_stream(faces)], epochs=3)
    later = {step: second[step] for step in (8, 2, 5)}
    assert all(equal(first[step], later[step]) for step in (2, 5, 8))
    assert not torch.equal(first[2]["x_ulb_w"], first[5]["x_ulb_w"])


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


def test_labels_belong_to_the_pictures(faces: Path) -> None:
    stream = Stream("lb", FaceDataset([faces], classes=CLASSES), 22, {"": Eval(24)}, seed=3)
    batch = StepBatches([stream], epochs=1)[0]
    for image, label, i in zip(batch["x_lb"], batch["y_lb"], batch["idx_lb"], strict=True):
        assert label == LABELS[i]
        assert torch.equal(image, stream.dataset[int(i)].image)
    assert set(StepBatches([unlabeled_stream(faces)], epochs=1)[0]["y_ulb"].tolist()) == {-1}


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


def test_batches_from_workers_stay_as_they_are_however_long_they_are_held(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces)], epochs=10)
    loader = DataLoader(batches, batch_size=None, sampler=range(30), num_workers=1)
    held = list(loader)  # five times as many as a worker keeps memory for
    assert all(equal(batch, batches[step]) for step, batch in enumerate(held))


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

    monkeypatch.setattr("ssfer.data.dataset.epoch_order", noted)
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


def test_a_batch_as_large_as_the_data_set_visits_everything(faces: Path) -> None:
    batches = StepBatches([unlabeled_stream(faces, batch_size=22)], epochs=1)
    assert sorted(batches[0]["idx_ulb"].tolist()) == list(range(22))


def test_too_large_a_batch_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="batch_size 23 is larger than the 22 images of stream 'ulb'"):
        StepBatches([unlabeled_stream(faces, batch_size=23)], epochs=1)


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="batch_size 6 does not divide over 4 processes"):
        StepBatches([unlabeled_stream(faces)], epochs=1, world=4)
