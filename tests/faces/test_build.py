"""From raw images to shards and manifest: every input gets a row, no input and no interruption does harm."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.datasets.base import FileMissing, FileTooLarge, RawRecord
from ssfer.faces import alignment as align
from ssfer.faces.build import build_faces
from ssfer.faces.choice import on_annotated
from ssfer.faces.crops import Face, FaceProcessor, crop_box
from ssfer.faces.detectors.base import Detection
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.faces.workers import LocalProcesses
from ssfer.formats.manifest import STATUSES, read_manifest
from ssfer.formats.metrics import read_metrics
from ssfer.formats.shards import ShardReader
from tests.support.align_runs import LEFT, PARAMS, RIGHT, contents, write_people
from tests.support.image_files import bomb, damaged, encoded, picture
from tests.support.rendered_photos import BrightDetector, bright_photo, render_once


def run(files: dict[str, bytes], mode: str = "similarity", **changes: object) -> dict[str, Face]:
    processor = FaceProcessor("faces", mode, PARAMS.model_copy(update=changes), BrightDetector())
    records = [RawRecord(name, label="anger", usage="train") for name in files]
    return {face.row["path"]: face for face in processor.process(records, lambda r: files[r.path])}


def pixels(face: Face) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(face.jpeg)).convert("RGB")).astype(int)


def test_one_face_is_aligned_and_described() -> None:
    data = encoded(bright_photo(LEFT))
    face = run({"a/b.png": data})["a/b.png"]
    row = face.row
    assert (row["sample_id"], row["source"], row["label"], row["usage"]) == ("faces/a/b.png", "faces", "anger", "train")
    assert (row["status"], row["face_found"], row["num_faces"]) == ("ok", True, 1)
    assert (row["width"], row["height"], row["crop_size"]) == (100, 80, 64)
    assert row["box"] == list(LEFT)
    assert row["crop_recipe"] == "bright-similarity5-v2-64"
    points = np.reshape(row["landmarks"], (5, 2))
    np.testing.assert_allclose(
        np.reshape(row["matrix"], (2, 3)), align.estimate_similarity(points, align.template(64)), atol=1e-6
    )
    assert pixels(face).shape == (64, 64, 3)
    # The white rectangle lies where the matrix puts it, and the second pass finds it there.
    expected = align.transform_box(np.array(LEFT), np.reshape(row["matrix"], (2, 3)))
    np.testing.assert_allclose(row["crop_box"], np.clip(expected, 0, 64), atol=1.6)
    assert row["crop_box_fallback"] is False
    assert all(v == int(v) for v in row["crop_box"])
    x1, y1, x2, y2 = np.clip(expected, 0, 64).astype(int)
    inside = pixels(face)[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4]
    assert inside.min() > 230


def test_no_face_keeps_the_whole_image_resized() -> None:
    photo = bright_photo()
    face = run({"x.png": encoded(photo)})["x.png"]
    assert (face.row["status"], face.row["face_found"], face.row["num_faces"]) == ("no_face", False, 0)
    assert face.row["box"] is face.row["landmarks"] is face.row["score"] is None
    assert face.row["crop_recipe"] == "resize-v1-64"
    np.testing.assert_allclose(pixels(face).mean(), np.asarray(photo).mean(), atol=2)
    np.testing.assert_allclose(face.row["crop_box"], np.array([25, 25, 220, 220]) * 64 / 224)
    assert face.row["crop_box_fallback"] is True


def test_several_faces_take_the_best_or_nothing() -> None:
    files = {"x.png": encoded(bright_photo(RIGHT, LEFT))}
    face = run(files)["x.png"]
    assert (face.row["status"], face.row["num_faces"], face.row["face_found"]) == ("several_faces", 2, True)
    assert face.row["box"] == list(LEFT)  # the larger one, which BrightDetector likes best
    assert face.jpeg is not None
    dropped = run(files, several_faces="drop")["x.png"]
    assert (dropped.row["status"], dropped.row["num_faces"], dropped.jpeg) == ("several_faces", 2, None)
    assert dropped.row["crop_box"] is None


@pytest.mark.parametrize(("policy", "box"), [("largest", LEFT), ("central", RIGHT), ("highest_score", LEFT)])
def test_policy_chooses_among_several_faces_and_is_kept(policy: str, box: tuple[int, ...]) -> None:
    """LEFT is larger and scores higher; the middle of the photo, (50, 40), is nearer to the middle of RIGHT."""
    row = run({"x.png": encoded(bright_photo(RIGHT, LEFT))}, several_faces=policy)["x.png"].row
    assert (row["face_choice"], row["num_faces"], row["status"]) == (policy, 2, "several_faces")
    assert row["box"] == list(box)


def test_recipe_says_how_the_crop_was_made() -> None:
    """EDGE meets the photo's edge, so its landmarks come from a second look with a border."""
    files = {"in.png": encoded(bright_photo(LEFT)), "edge.png": encoded(bright_photo((0, 20, 30, 60)))}
    recipes = {name: face.row["crop_recipe"] for name, face in run(files, outside="blur").items()}
    assert recipes == {"in.png": "bright-similarity5-v2-blur-64", "edge.png": "bright-border-similarity5-v2-blur-64"}
    plain = run(files, border="never")
    assert {face.row["crop_recipe"] for face in plain.values()} == {"bright-similarity5-v2-64"}
    filled, black = (pixels(run(files, outside=name)["edge.png"]) for name in ("reflect", "black"))
    assert (black == 0).all(axis=2).mean() > 0.05 > (filled == 0).all(axis=2).mean()


def test_a_second_detector_flags_landmarks_it_finds_elsewhere() -> None:
    class Other(BrightDetector):
        def detect(self, images: list[Image.Image]) -> list[Detection]:
            return [Detection(f.boxes, f.landmarks + 5, f.scores) for f in super().detect(images)]

    data = encoded(bright_photo(LEFT))
    flags = []
    for second in (None, BrightDetector(), Other()):
        processor = FaceProcessor("faces", "similarity", PARAMS, BrightDetector(), second)
        flags.append(next(processor.process([RawRecord("x.png")], lambda _: data)).row["landmark_flag"])
    assert flags == [None, None, "detectors_disagree"]


def test_choice_of_a_single_face_and_of_none() -> None:
    files = {"one.png": encoded(bright_photo(LEFT)), "none.png": encoded(bright_photo())}
    faces = run(files, several_faces="largest")
    assert faces["one.png"].row["face_choice"] == "only"
    assert faces["none.png"].row["face_choice"] is None


def annotated(box: tuple[float, ...], *faces: tuple[int, ...], **changes: object) -> Face:
    processor = FaceProcessor("faces", "similarity", PARAMS.model_copy(update=changes), BrightDetector())
    data = encoded(bright_photo(*faces))
    return next(processor.process([RawRecord("x.png", face=box)], lambda _: data))


@pytest.mark.parametrize("policy", ["highest_score", "largest", "drop"])
def test_annotated_box_says_whose_label_it_is(policy: str) -> None:
    """AffectNet labels one face of a photo: not the largest, nor the one the detector likes best."""
    face = annotated((55, 25, 90, 70), RIGHT, LEFT, several_faces=policy)
    assert (face.row["face_choice"], face.row["num_faces"]) == ("annotated", 2)
    assert face.row["box"] == list(RIGHT)
    assert face.jpeg is not None


def test_annotated_face_that_is_not_detected_is_cut_out_not_replaced_by_another() -> None:
    face = annotated((60, 30, 80, 70), LEFT)  # nothing is detected there; the other face must not get the label
    assert (face.row["status"], face.row["face_found"], face.row["face_choice"]) == ("no_face", False, None)
    assert face.row["crop_recipe"] == "box-v1-64"
    matrix = np.reshape(face.row["matrix"], (2, 3))
    corners = align.transform_points(np.array([[49.5, 29.5], [89.5, 69.5]]), matrix)  # the 40 px square around the box
    np.testing.assert_allclose(corners, [[-1.3, -1.3], [62.7, 62.7]], atol=0.6)
    assert pixels(face).mean() < 60  # the dark part of the photo


def test_a_listed_file_that_is_missing_gets_its_own_status() -> None:
    def read(record: RawRecord) -> bytes:
        raise FileMissing(record.path)

    processor = FaceProcessor("faces", "similarity", PARAMS, BrightDetector())
    (face,) = processor.process([RawRecord("x.png", label="fear")], read)
    assert (face.row["status"], face.jpeg, face.row["label"]) == ("missing", None, "fear")


def test_min_annotated_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 30], [20, 20, 30, 30]], dtype=float)
    np.testing.assert_allclose(align.iou(boxes, np.array([0, 0, 10, 10.0])), [1, 1 / 3, 0])
    found = Detection(boxes.astype(np.float32), np.zeros((3, 5, 2), np.float32), np.array([0.5, 0.9, 0.8], np.float32))
    assert on_annotated(found, (0, 0, 10, 10)).scores.tolist() == pytest.approx([0.5, 0.9, 0.8])
    assert len(on_annotated(found, (0, 0, 34, 10))) == 0  # IoU 10/34 is below 0.3
    assert len(on_annotated(Detection(), (0, 0, 34, 10))) == 0


def test_min_score_decides_what_is_a_face() -> None:
    files = {"x.png": encoded(bright_photo(RIGHT, LEFT))}  # scores: half plus half the covered share
    scores = [0.5 + 0.5 * 30 * 40 / 8000, 0.5 + 0.5 * 25 * 35 / 8000]
    assert run(files, min_score=scores[1] + 1e-3)["x.png"].row["num_faces"] == 1
    assert run(files, min_score=scores[0] + 1e-3)["x.png"].row["status"] == "no_face"


def test_resized_sources_learn_the_face_from_the_crop() -> None:
    face = run({"x.png": encoded(bright_photo(LEFT))}, mode="resize")["x.png"]
    assert (face.row["status"], face.row["face_found"], face.row["crop_box_fallback"]) == ("ok", True, False)
    assert face.row["crop_recipe"] == "resize-v1-64"
    np.testing.assert_allclose(face.row["box"], LEFT, atol=1.6)  # mapped back through the resize
    np.testing.assert_allclose(face.row["crop_box"], np.array(LEFT) * [0.64, 0.8, 0.64, 0.8], atol=1.1)
    none = run({"x.png": encoded(bright_photo())}, mode="resize")["x.png"]
    assert (none.row["status"], none.row["face_found"], none.row["crop_box_fallback"]) == ("no_face", False, True)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[10.5, 2.49, 50.0, 60.5]], [11, 2, 50, 61]),  # rounded half up
        ([[-3.0, -0.6, 70.2, 64.4]], [0, 0, 64, 64]),  # clipped
        ([[10.2, 10.2, 10.4, 30.0]], None),  # vanishes
        ([], None),
        ([[1, 1, 20, 20], [30, 30, 50, 50]], None),
    ],
)
def test_crop_box_rule(boxes: list, expected: list | None) -> None:
    found = Detection(
        np.reshape(np.array(boxes, np.float32), (-1, 4)), np.zeros((len(boxes), 5, 2)), np.ones(len(boxes))
    )
    box = crop_box(found, 64)
    assert box is None if expected is None else box.tolist() == expected


def test_orientation_is_applied_before_detection() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: upright is a quarter turn clockwise
    stored = bright_photo(LEFT).transpose(Image.Transpose.ROTATE_90)
    face = run({"x.jpg": encoded(stored, "JPEG", quality=100, exif=exif)})["x.jpg"]
    np.testing.assert_allclose(face.row["box"], LEFT, atol=1)
    assert (face.row["width"], face.row["height"]) == (100, 80)
    assert not Image.open(BytesIO(face.jpeg)).getexif()


def test_every_damaged_file_gets_a_row_and_a_status() -> None:
    files = {f"{i:03d}.jpg": data for i, data in enumerate(damaged(200))}
    files |= {"empty.png": b"", "bomb.png": bomb(), "tiny.png": encoded(picture(8, 8)), "text.jpg": b"hello"}
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files[f"exif{orientation}.jpg"] = encoded(bright_photo(LEFT), "JPEG", exif=exif)
    files["deep.png"] = encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16))
    files["cmyk.jpg"] = encoded(bright_photo(LEFT).convert("CMYK"), "JPEG")
    faces = run(files)
    assert list(faces) == list(files)
    for face in faces.values():
        assert face.row["status"] in STATUSES
        stored = face.row["status"] in ("ok", "no_face", "several_faces")
        assert (face.jpeg is not None) == stored
        assert (face.row["pixel_sha256"] is not None) == stored
        assert face.row["sha256"] is not None
    statuses = [face.row["status"] for face in faces.values()]
    assert {"empty", "too_large", "too_small", "unreadable", "no_face", "ok"} <= set(statuses)
    assert statuses.count("unreadable") > 50


def test_failing_reads_are_rows_too() -> None:
    def read(record: RawRecord) -> bytes:
        raise {"a": FileTooLarge("big"), "b": PermissionError("no"), "c": KeyError("gone")}[record.path]

    processor = FaceProcessor("faces", "similarity", PARAMS, BrightDetector())
    rows = [face.row for face in processor.process([RawRecord("a"), RawRecord("b"), RawRecord("c")], read)]
    assert [row["status"] for row in rows] == ["too_large", "unreadable", "unreadable"]


# ------------------------------------------------------------------------------------------- whole sources


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    return tmp_path / "root/.scratch/align"


def test_source_becomes_shards_and_manifest(tmp_path: Path, scratch: Path) -> None:
    source = write_people(tmp_path)
    counts, work = build_faces(source, tmp_path, tmp_path / "faces/people", PARAMS, detector=BrightDetector)
    assert counts == {
        "images": 40,
        "stored": 36,
        "face_found": 32,
        "status": {"no_face": 4, "ok": 28, "several_faces": 4, "unreadable": 4},
        "no_face": {"none": 4},
        "face_choice": {"highest_score": 4, "only": 28},
        "crop_box_fallback": counts["crop_box_fallback"],
    }
    assert 4 <= counts["crop_box_fallback"] <= 8  # no face at all, or the neighbour's in the crop, too
    assert work.parent == scratch
    table = read_manifest(tmp_path / "faces/people")
    paths = table.column("path").to_pylist()
    assert paths == sorted(paths)
    assert table.column("identity").to_pylist() == [path[:2] for path in paths]
    reader = ShardReader(tmp_path / "faces/people")
    for row in table.to_pylist():
        if row["shard"] is None:
            assert row["status"] == "unreadable"
            continue
        with Image.open(BytesIO(reader.read(row["shard"], row["offset"], row["size"]))) as crop:
            assert (crop.size, crop.mode) == ((64, 64), "RGB")
    assert {r["shard"] for r in table.to_pylist()} == {f"shard-0000{i}.tar" for i in range(3)} | {None}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, scratch: Path, forked_workers: None) -> None:
    source = write_people(tmp_path)
    _, work = build_faces(
        source, tmp_path, tmp_path / "one", PARAMS, executor=LocalProcesses(0), detector=BrightDetector
    )
    for path in work.iterdir():
        path.unlink()
    build_faces(source, tmp_path, tmp_path / "two", PARAMS, executor=LocalProcesses(2), detector=BrightDetector)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_finished_parts_are_not_done_again(tmp_path: Path, scratch: Path) -> None:
    source = write_people(tmp_path)
    _, work = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    before = contents(tmp_path / "out")
    (work / "part-00001.parquet").unlink()
    kept = (work / "part-00000.parquet").stat().st_mtime_ns
    _, again = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    assert again == work
    assert (work / "part-00000.parquet").stat().st_mtime_ns == kept
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["shard-00000.tar", "part-00001.parquet", "part-00000.json"])
def test_a_damaged_part_of_an_earlier_run_is_done_again(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = write_people(tmp_path)
    _, work = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    before = contents(tmp_path / "out")
    whole = (work / name).read_bytes()
    kept = (work / "part-00002.parquet").stat().st_mtime_ns
    middle = len(whole) // 2
    for changed in (whole[:-7], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        (work / name).unlink()  # the output shares the shard's bytes
        (work / name).write_bytes(changed)
        build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
        assert contents(tmp_path / "out") == before
        assert (work / "part-00002.parquet").stat().st_mtime_ns == kept
        assert "1 finished parts in" in capsys.readouterr().err


def test_other_work_gets_another_scratch(tmp_path: Path, scratch: Path) -> None:
    source = write_people(tmp_path, count=5)
    first = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)[1]
    assert build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)[1] == first
    smaller = PARAMS.model_copy(update={"size": 32})
    assert build_faces(source, tmp_path, tmp_path / "out", smaller, detector=BrightDetector)[1] != first
    (tmp_path / "people/p0/000.png").write_bytes(encoded(bright_photo(RIGHT)))
    assert build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)[1] != first


def test_second_writer_is_refused(tmp_path: Path, scratch: Path) -> None:
    source = write_people(tmp_path, count=5)
    _, work = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    with FileLock(work / "lock"), pytest.raises(SsferError, match="another process is aligning the same source"):
        build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)


def test_source_without_any_readable_image_fails_and_keeps_the_old_output(tmp_path: Path, scratch: Path) -> None:
    source = write_people(tmp_path, count=5)
    build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    before = contents(tmp_path / "out")
    for path in (tmp_path / "people").rglob("*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(SsferError, match="none of the 5 images of source 'people' could be read"):
        build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    assert contents(tmp_path / "out") == before


def test_dead_worker_gets_a_sentence(tmp_path: Path, scratch: Path, forked_workers: None) -> None:
    source = write_people(tmp_path, count=40)
    with pytest.raises(SsferError, match=r"a worker process died.*machine\.num_workers"):
        build_faces(source, tmp_path, tmp_path / "out", PARAMS, executor=LocalProcesses(2), detector=_Suicidal)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_detector_weights_are_one_sentence_from_any_process(
    tmp_path: Path, scratch: Path, forked_workers: None, workers: int
) -> None:
    source = write_people(tmp_path, count=40)
    align_params = PARAMS.model_copy(update={"detector": "retinaface"})
    weights = DETECTORS["retinaface"].Settings(weights=str(tmp_path / "no.pth"))
    with pytest.raises(SsferError, match=r"no RetinaFace weights at .*no\.pth; get them with `ssfer fetch retinaface`"):
        build_faces(
            source,
            tmp_path,
            tmp_path / "out",
            align_params,
            executor=LocalProcesses(workers),
            sections={"retinaface": weights},
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["detector", "second_detector"])
def test_stage_names_missing_weights_before_it_reads_a_photo(
    project: Path, which: str, capsys: pytest.CaptureFixture
) -> None:
    from stages.align import main

    path = "data/weights/detectors/retinaface-mobilenet.safetensors"
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["align"][which] = "retinaface"
    params["detectors"]["retinaface"]["weights"] = path
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SsferError, match=f"no RetinaFace weights at .*{path}; .*`ssfer fetch retinaface-mobilenet`"):
        main()


class _Suicidal(BrightDetector):
    def detect(self, images: list) -> list:
        os._exit(9)


# ------------------------------------------------------------------------------------- rendered faces, for real


def test_stage_aligns_rendered_faces(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    from stages.align import main

    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/synthetic").symlink_to(render_once(tmp_path_factory))
    (project / "data/faces/stale").mkdir(parents=True)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("num_workers: auto", "num_workers: 1"))
    main()
    counts = read_metrics("align", project / "metrics")
    statuses = {"empty": 1, "no_face": 4, "several_faces": 4, "unreadable": 2}
    assert counts["expressions"]["status"] == {**statuses, "ok": 17}
    assert counts["people"]["status"] == {**statuses, "ok": 20}
    assert "align: 59 images, a face in 45" in capsys.readouterr().out
    assert sorted(p.name for p in (project / "data/faces").iterdir()) == ["expressions", "people"]
    assert not list((project / ".scratch/align").iterdir())

    size = load_params(project / "params.yaml").align.size
    for row in read_manifest(project / "data/faces/expressions").to_pylist():
        truth = json.loads(row["truth"])
        if truth["trouble"] is None:  # the true points of the face land on the template, and inside the box
            points = align.transform_points(np.reshape(truth["landmarks"], (5, 2)), np.reshape(row["matrix"], (2, 3)))
            np.testing.assert_allclose(points, align.template(size), atol=0.12 * size)
            x1, y1, x2, y2 = row["crop_box"]
            assert ((points > (x1, y1)) & (points < (x2, y2))).all()


def test_photos_without_a_face_are_kept_dropped_or_cut() -> None:
    photo = bright_photo()
    photo.paste((200, 0, 0), (0, 0, 10, 80))  # the left 10 of 100 columns are no part of the middle square
    files = {"x.png": encoded(photo)}
    faces = {policy: run(files, no_face=policy)["x.png"] for policy in ("keep", "drop", "crop")}
    assert {face.row["status"] for face in faces.values()} == {"no_face"}
    assert [faces[p].row["crop_recipe"] for p in ("keep", "drop", "crop")] == ["resize-v1-64", None, "middle-v1-64"]
    assert faces["drop"].jpeg is faces["drop"].row["matrix"] is None
    assert pixels(faces["keep"])[:, 0, 0].min() > 150 > pixels(faces["crop"])[:, 0, 0].max()


def test_an_annotated_face_outside_the_photo_gets_no_crop() -> None:
    face = annotated((110, 30, 150, 70), LEFT)
    assert (face.row["status"], face.jpeg, face.row["crop_recipe"]) == ("no_face", None, None)


def test_every_face_of_an_unlabeled_photo_gets_a_row_of_its_own() -> None:
    photo = encoded(bright_photo(RIGHT, LEFT))
    params = PARAMS.model_copy(update={"all_faces": True, "several_faces": "drop"})
    processor = FaceProcessor("faces", "similarity", params, BrightDetector())
    records = [RawRecord("a.png", identity="ann"), RawRecord("b.png", label="fear", usage="train")]
    rows = [face.row for face in processor.process(records, lambda _: photo)]
    x1, y1, x2, y2 = RIGHT
    other = f"a.png#xywh={x1},{y1},{x2 - x1},{y2 - y1}"
    assert [row["path"] for row in rows] == ["a.png", other, "b.png"]
    assert [row["sample_id"] for row in rows[:2]] == ["faces/a.png", f"faces/{other}"]
    assert [row["box"] for row in rows[:2]] == [list(LEFT), list(RIGHT)]
    assert [row["identity"] for row in rows] == ["ann", None, None]
    assert [row["face_choice"] for row in rows] == ["all", "all", None]
    assert [row["crop_size"] for row in rows] == [64, 64, None], "a labeled photo keeps its policy"
