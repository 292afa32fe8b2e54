"""ssfer.data.dataset: stored crops by id."""

from __future__ import annotations

import io
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.data.dataset import FaceDataset
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest, write_manifest
from tests.support.factory import CLASSES, pattern, write_faces

LABELS = [i % 3 for i in range(22)]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    write_faces(tmp_path / "faces", "faces", LABELS, seed=2)
    return tmp_path / "faces"


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


def test_vote_shares_are_of_the_classes_alone_and_labels_where_there_are_none(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
    rows[0]["votes"] = [0, 6, 2, 0, 0, 0, 0, 0, 1, 1]
    rows[1]["votes"] = [0, 0, 0, 0, 0, 0, 0, 0, 9, 1]
    rows[2]["votes"] = [5, 1, 0, 4, 0, 0, 0, 0, 0, 0]
    for row in rows[:4]:
        row["label"] = "sadness"
    write_manifest(rows, faces / MANIFEST_NAME)
    dataset = FaceDataset([faces], [row["sample_id"] for row in rows[:4]], ("surprise", "happiness", "sadness"))
    expected = torch.tensor([[0.25, 0.75, 0.0], [0, 0, 1], [0, 0.2, 0.8], [0, 0, 1]])
    assert_close(dataset.vote_shares(), expected)
    dataset.labels = np.array([2, 2, 1, 2])  # split.label_noise made the third wrong
    assert_close(dataset.vote_shares()[2], torch.tensor([0.0, 1.0, 0.0]))


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


def test_a_box_is_found_unless_it_is_missing_or_stands_in_for_one(faces: Path) -> None:
    assert FaceDataset([faces]).box_found.tolist() == [True] * 22  # as older manifests are: no word about it
    rows = read_manifest(faces).to_pylist()
    changes = {1: {"crop_box": None}, 2: {"crop_box_fallback": True}, 3: {"crop_box_fallback": False}}
    write_manifest([r | changes.get(i, {}) for i, r in enumerate(rows)], faces / MANIFEST_NAME)
    dataset = FaceDataset([faces])
    assert dataset.box_found.tolist() == [True, False, False, *[True] * 19]
    assert dataset.boxes[2].tolist() == [4, 3, 20, 22]  # as the manifest says


def test_the_digest_changes_with_what_training_reads_of_a_crop_and_with_nothing_else(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()

    def digest(**changes: Any) -> str:
        write_manifest([rows[0] | changes, *rows[1:]], faces / MANIFEST_NAME)
        return FaceDataset([faces]).digest()

    changed = {"crc32": 5, "crop_box": [1.0, 2, 3, 4], "crop_box_fallback": True, "votes": [1] * 10}
    found = [digest(), *(digest(**{key: value}) for key, value in changed.items())]
    assert len(set(found)) == 5
    assert digest(score=0.25) == found[0]


def test_forgotten_boxes_are_fallback_boxes_that_nobody_found(faces: Path) -> None:
    dataset = FaceDataset([faces])
    dataset.forget_boxes()
    expected = torch.tensor([25.0, 25, 220, 220]) * 24 / 224
    assert dataset.boxes.dtype == torch.float32
    assert_close(dataset.boxes, expected.expand(22, 4), rtol=1e-6, atol=1e-6)
    assert not dataset.box_found.any()
    assert len(dataset.box_found) == 22


def test_no_ids_are_no_samples(faces: Path) -> None:
    """The validation part of a split without one."""
    assert len(FaceDataset([faces], ids=[], classes=CLASSES)) == 0


def test_unknown_ids_are_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match=r"1 of 1 sample ids are not among the stored faces \(e.g. 'faces/nobody'\)"):
        FaceDataset([faces], ["faces/nobody"])


def test_an_undecodable_crop_is_a_sentence_with_its_id(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    row = rows[4]
    write_manifest([r | {"crc32": None} for r in rows], faces / MANIFEST_NAME)  # as older versions wrote them
    with open(faces / "shard-00000.tar", "r+b") as shard:
        shard.seek(row["offset"])
        shard.write(bytes(row["size"]))
    with pytest.raises(SsferError, match=r"stored crop 'faces/train000004' cannot be decoded"):
        FaceDataset([faces])[4]


def test_a_damaged_crop_is_a_sentence_with_its_file(faces: Path) -> None:
    row = read_manifest(faces).to_pylist()[4]
    with open(faces / "shard-00000.tar", "r+b") as shard:
        shard.seek(row["offset"] + row["size"] // 2)
        byte = shard.read(1)[0]
        shard.seek(-1, 1)
        shard.write(bytes([byte ^ 1]))
    with pytest.raises(SsferError, match=r"shard-00000.tar is damaged: .* checksum .*; restore it with dvc checkout"):
        FaceDataset([faces])[4]


def test_the_cache_is_filled_only_when_everything_fits(faces: Path) -> None:
    needed = 22 * 3 * 24 * 24 / 2**30
    fits, does_not = FaceDataset([faces], cache_gib=1.01 * needed), FaceDataset([faces], cache_gib=0.99 * needed)
    (faces / "shard-00000.tar").unlink()
    assert fits[5].image.shape == (3, 24, 24)
    with pytest.raises(SsferError, match=r"shard-00000\.tar is missing"):
        does_not[5]


def test_a_cached_data_set_passes_on_one_descriptor_and_nothing_in_dev_shm(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker that is not forked gets: few bytes and one descriptor for all crops."""
    dataset = FaceDataset([faces], [f"faces/train{i % 22:06d}" for i in range(300)], CLASSES, cache_gib=1)
    passed: list[int] = []
    monkeypatch.setattr("ssfer.core.shared_bytes.DupFd", lambda fd: passed.append(fd))
    sent = ForkingPickler.dumps(dataset)
    assert len(passed) == 1
    assert len(sent) < 60_000 < 300 * 3 * 24 * 24
    assert b"rebuild_storage" not in bytes(sent)


def test_grey_pictures_become_three_equal_channels(tmp_path: Path) -> None:
    from ssfer.formats.shards import ShardWriter

    write_faces(tmp_path / "grey", "grey", [0])
    rows = read_manifest(tmp_path / "grey").to_pylist()
    buffer = io.BytesIO()
    Image.fromarray(np.arange(576, dtype=np.uint8).reshape(24, 24)).save(buffer, "PNG")
    with ShardWriter(tmp_path / "grey" / "shard-00000.tar") as shard:
        _, rows[0]["offset"], rows[0]["size"] = shard.add("a.png", buffer.getvalue())
    rows[0]["crc32"] = None
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
