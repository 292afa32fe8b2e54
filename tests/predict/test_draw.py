"""Annotated copies: boxes and bars where the rows say, and videos that keep their times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.predict.draw import Annotator, annotated
from ssfer.predict.frames import Frame
from ssfer.predict.inputs import frames_at
from ssfer.predict.table import Row

pytest.importorskip("av", reason="the extra 'video' is not installed")

BLACK = Image.new("RGB", (200, 160))
ROW: Row = {
    **{"input": "a", "frame": None, "time": None, "track": None, "face": 0, "status": "ok", "expression": "anger"},
    **{"confidence": 0.9, "p_anger": 0.9, "p_fear": 0.1, "x1": 40.0, "y1": 50.0, "x2": 100.0, "y2": 110.0},
}


def test_a_face_has_a_box_a_label_above_and_bars_beside_in_their_lengths() -> None:
    shown = np.asarray(annotated(BLACK, [ROW]))
    assert not np.asarray(BLACK).any()  # a copy
    assert shown[80, 40].any() and shown[110, 60].any() and not shown[80, 60].any()
    assert shown[46, 42].any() and not shown[:36, 42].any()
    lengths = [int((shown[y, 104:] == (255, 176, 0)).all(axis=1).sum()) for y in (62, 75)]
    assert lengths[0] > 4 * lengths[1] > 0


def test_rows_without_a_face_draw_nothing_and_faces_at_the_edge_stay_inside() -> None:
    empty = {**dict.fromkeys(ROW), "input": "a", "status": "no_face"}
    assert not np.asarray(annotated(BLACK, [empty])).any()
    corner = {**ROW, "x1": 150.0, "y1": -5.0, "x2": 210.0, "y2": 60.0}
    assert np.asarray(annotated(BLACK, [corner]))[:60, :150].any()  # the bars are on the left


def test_bars_never_cover_a_face() -> None:
    """One face without room: the copy is wider. Two: no bars. A neighbor at the right: bars at the left."""
    tight = {**ROW, "x1": 5.0, "x2": 195.0}
    shown = annotated(BLACK, [tight], widen=True)
    assert shown.size[0] > 250 and np.asarray(shown)[62, 200:].max() == 255
    assert not np.asarray(shown)[80:105, 10:190].any()
    assert annotated(BLACK, [tight]).size == BLACK.size  # the frame of a video
    two = np.asarray(annotated(BLACK, [{**tight, "y2": 79.0}, {**tight, "face": 1, "y1": 80.0}], widen=True))
    assert two.shape[1] == 200 and not two[95:105, 10:190].any()
    beside = {**ROW, "face": 1, "x1": 105.0, "x2": 190.0}
    pixels = np.asarray(annotated(BLACK, [{**ROW, "x1": 60.0}, beside]))
    assert not pixels[80:105, 110:185].any()


def test_videos_keep_uneven_times_and_odd_sizes_become_even(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.45, 0.5]
    with Annotator(tmp_path / "out") as annotator:
        for i, time in enumerate(times):
            image = Image.new("RGB", (65, 49), (0, 60 * i, 0))
            annotator.add(Frame("c.mkv", image, frame=i, time=time, moving=True, place="in/c.mkv"), [])
    frames = list(frames_at([tmp_path / "out/in/c.mkv.mp4"]))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    assert frames[0].image is not None and frames[0].image.size == (64, 48)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SsferError, match="cannot be made .*; name another folder"):
        Annotator(tmp_path / "file/out")


def test_a_picture_longer_than_a_jpeg_can_be_is_made_smaller(tmp_path: Path) -> None:
    with Annotator(tmp_path) as annotator:
        annotator.add(Frame("long.png", Image.new("RGB", (70_000, 20)), place="long.png"), [])
    assert Image.open(tmp_path / "long.png.jpg").size[0] == 65_500


def test_copies_of_similar_names_do_not_meet(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.png.jpg", "b.JPG", "c.mov", "c.mov.mp4"]
    with Annotator(tmp_path) as annotator:
        for name in names:
            moving = name.startswith("c")
            annotator.add(Frame(name, BLACK, frame=0 if moving else None, moving=moving, place=name), [])
    photos = ["a.jpg", "a.png.jpg", "a.png.jpg.jpg", "b.JPG"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*photos, "c.mov.mp4", "c.mov.mp4.mp4"]


def test_a_copy_never_lies_outside_of_its_folder(tmp_path: Path) -> None:
    with Annotator(tmp_path / "out") as annotator, pytest.raises(SsferError, match="would lie outside of --annotate"):
        annotator.add(Frame("x.jpg", BLACK, place="../x.jpg"), [])
    assert not list(tmp_path.glob("x*"))
