"""`ssfer doctor`: which copies it finds, which it does not take for copies, and what it says about them."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ssfer.copies.registration import registered
from ssfer.copies.thumbnails import SIDE, expected_maps, resize_maps, thumbnail
from ssfer.core import images
from ssfer.doctor.examination import Settings
from ssfer.doctor.stored_crops import cut_out
from ssfer.faces import alignment as align
from ssfer.formats.manifest import read_manifest
from tests.support.doctor_files import class_folders, codes, encoded, finding, look, near_copy, photo, png
from tests.support.face_sets import write_faces
from tests.support.source_files import write_files


def test_test_images_in_training_are_counted_by_level(tmp_path: Path) -> None:
    files = class_folders(
        test__anger__same=png(1),
        test__anger__pixels=encoded(photo(2), compress_level=0),
        test__fear__near=near_copy(4),
        train__fear__again=png(4),
    )
    values = look(write_files(tmp_path / "d", files))
    found = finding(values, "test_in_training")
    assert (found["severity"], found["count"], values["exit_status"]) == ("error", 3, 2)
    assert "3 of 5 test images of d (60.0%)" in found["text"]
    assert "4 train images are such copies" in found["text"]  # 1, 2, 4 and 4 again
    assert sorted(found["examples"]) == [
        "test/anger/pixels.png = train/anger/2.png",
        "test/anger/same.png = train/anger/1.png",
        "test/fear/near.png ~ train/fear/4.png",
    ]
    (leak,) = [c for c in values["copies"] if c["usage"] != c["in_usage"]]
    assert leak == {
        "data_set": "d", "usage": "train", "images": 6, "in_data_set": "d", "in_usage": "test",
        "same_file": 1, "same_pixels": 1, "near": 2, "there": 3,
    }  # fmt: skip


def test_repeats_count_all_but_the_first(tmp_path: Path) -> None:
    again = {"train__anger__x1": png(1), "train__anger__x2": png(1), "train__anger__x3": near_copy(1)}
    values = look(write_files(tmp_path / "d", class_folders(**again)))
    assert codes(values) == [("warning", "repeated")]
    (copies,) = values["copies"]
    assert (copies["same_file"], copies["same_pixels"], copies["near"]) == (2, 0, 1)
    assert finding(values, "repeated")["text"] == (
        "3 of 8 train images of d (37.5%) repeat an earlier one: 2 the same file, 1 nearly the same"
    )


def test_equal_pixels_with_different_labels_are_a_warning(tmp_path: Path) -> None:
    """Inside a data set, and between two that share class names."""
    values = look(write_files(tmp_path / "d", class_folders(train__fear__1=png(1), train__anger__again=png(2))))
    found = finding(values, "labels_differ")
    assert (found["severity"], found["count"]) == ("warning", 2)
    assert found["examples"] == ["train/anger/1.png (anger) / train/fear/1.png (fear)"]
    one = write_files(tmp_path / "one", class_folders())
    two = write_files(tmp_path / "two", {"train/fear/a.png": png(1), "train/anger/b.png": png(2)})
    values = look(one, two)
    found = finding(values, "labels_differ")
    assert (found["data_sets"], found["count"]) == (["one", "two"], 2)
    assert finding(values, "shared")["severity"] == "info"


def test_validation_images_in_training_are_a_warning(tmp_path: Path) -> None:
    files = class_folders(valid__anger__v=png(1), valid__fear__w=png(8), valid__fear__t=png(7))
    values = look(write_files(tmp_path / "d", files))
    assert codes(values) == [("warning", "validation_in_training"), ("warning", "test_in_validation")]


def test_test_images_in_another_data_sets_unlabeled_images_are_an_error(tmp_path: Path) -> None:
    labeled = write_files(tmp_path / "labeled", class_folders())
    people = write_files(tmp_path / "people", {"Ann/1.png": near_copy(7), "Ann/2.png": png(1), "Bo/1.png": png(30)})
    for paths in ((labeled, people), (people, labeled)):
        values = look(*paths)
        found = finding(values, "test_in_training")
        assert found["text"].startswith(
            "1 of 2 test images of labeled (50.0%) are also among the unlabeled images of people: 1 nearly the same; 1 "
        )
        assert found["examples"] == ["test/fear/7.png ~ Ann/1.png"]
        assert finding(values, "shared")["count"] == 1


def test_different_photos_and_flat_ones_are_no_copies(tmp_path: Path) -> None:
    files = {f"p/{i}.png": png(100 + i) for i in range(120)}
    files |= {f"p/flat{i}.png": encoded(Image.new("RGB", (32, 32), (i, i, i))) for i in (0, 40, 200)}
    assert look(write_files(tmp_path / "d", files))["copies"] == []


def test_hash_and_thumbnail_must_agree(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "d", class_folders(test__fear__near=near_copy(4)))
    assert look(folder)["exit_status"] == 2
    assert look(folder, settings=Settings(workers=1, correlation=1.0))["copies"] == []
    other = look(folder, settings=Settings(workers=1, near_bits=16, correlation=0.0))
    assert sum(c["near"] for c in other["copies"]) >= 1


def write_crops(folder: Path, originals: Mapping[str, Image.Image]) -> Path:
    """Write a manifest and a shard as `align` does, with a whole photo's hashes."""
    photos = [(image, {"path": name, "sha256": images.pixel_sha256(image)}) for name, image in originals.items()]
    write_faces(folder, photos, degrees=5.0)
    return folder


def test_test_images_in_a_corpus_of_crops_are_found(tmp_path: Path) -> None:
    """Equal photos by the hashes of the manifest, near ones by laying the crop over the photo."""
    labeled = write_files(tmp_path / "labeled", class_folders())
    disturbed = Image.open(BytesIO(near_copy(7))).convert("RGB")
    corpus = write_crops(tmp_path / "corpus", {"6": photo(6), "7": disturbed, "9": photo(9)})
    values = look(labeled, corpus)
    found = finding(values, "test_in_training")
    assert found["count"] == 2
    assert found["examples"] == ["test/anger/6.png = 6", "test/fear/7.png ~ 7"]
    assert values["data_sets"][1]["kind"] == "rendered"
    again = look(corpus, write_crops(tmp_path / "more", {"x": disturbed.resize((60, 60)), "y": photo(10)}))
    assert [(c["near"], c["in_data_set"]) for c in again["copies"]] == [(1, "more")]


def test_crops_of_a_cut_shard_are_unreadable(tmp_path: Path) -> None:
    corpus = write_crops(tmp_path / "corpus", {"6": photo(6), "7": photo(7)})
    shard = corpus / "shard-00000.tar"
    second = read_manifest(corpus).column("offset")[1].as_py()
    shard.write_bytes(shard.read_bytes()[: second + 100])
    assert look(corpus)["data_sets"][0]["files"]["status"] == {"ok": 1, "unreadable": 1}


def test_crop_is_compared_with_the_same_crop_of_the_photo() -> None:
    """Also where the photos differ in size, and where the crop shows a small part of a finely detailed photo."""
    rng = np.random.default_rng(0)
    image, other = (
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).resize((480, 480), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    to_crop = np.array([[0.2, 0.02, -35.0], [-0.02, 0.2, -25.0], [0, 0, 1]])  # photo -> picture, 160 of 480 px
    finer = resize_maps(np.array([[4.0, 4.0]]))[0] @ to_crop
    crop = thumbnail(align.warp(image, finer[:2], 4 * SIDE))
    size = np.array([480, 480])

    def likeness(photo: Image.Image, picture: np.ndarray, to_picture: np.ndarray) -> float:
        return min(registered(picture, crop, expected_maps(to_picture, np.array(photo.size), to_crop, size[None])[0]))

    for photo_, least, most in ((image, 0.97, 1.0), (image.resize((240, 300)), 0.9, 1.0), (other, -1.0, 0.5)):
        assert least < likeness(photo_, *cut_out(photo_, to_crop, size)) <= most
    assert likeness(image, thumbnail(image), resize_maps(SIDE / size[None])[0]) < 0.85, "the whole photo is too coarse"
