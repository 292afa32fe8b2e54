"""Videos and cameras: the frames that are there, at their times, upright; broken ones are statuses."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssfer.core.errors import SsferError
from ssfer.predict import video
from ssfer.predict.inputs import frames_at, frames_of
from ssfer.predict.items import items_of
from ssfer.predict.video import camera_frames, video_frames
from tests.support.moving_scenes import TIMES, FakeCapture, crossing, write_video

pytest.importorskip("av", reason="the extra 'video' is not installed")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_video(path, [crossing(i) for i in range(6)], TIMES)


def test_frames_have_their_own_times_also_where_those_are_uneven(clip: Path) -> None:
    frames = list(frames_at([clip]))
    assert [frame.frame for frame in frames] == list(range(6)) and all(frame.moving for frame in frames)
    assert [frame.time for frame in frames] == pytest.approx(TIMES, abs=1e-3)
    assert frames[0].image is not None and frames[0].image.size == (100, 80)


def test_every_and_fps_choose_frames_and_keep_their_numbers(clip: Path) -> None:
    assert [frame.frame for frame in frames_at([clip], every=2)] == [0, 2, 4]
    assert [frame.frame for frame in frames_at([clip], fps=5)] == [0, 3, 5]
    (item,) = items_of([clip])
    assert [frame.frame for frame in video_frames(item, 2, after=2)] == [4]


def test_frames_in_memory_are_chosen_like_those_of_a_file(clip: Path) -> None:
    pictures = [(frame.time, frame.image) for frame in frames_at([clip])]
    for chosen in ({"every": 2}, {"fps": 5}):
        expected = [frame.frame for frame in frames_at([clip], **chosen)]  # type: ignore[arg-type]
        assert [frame.frame for frame in frames_of(iter(pictures), **chosen)] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", [{"every": 0}, {"fps": -1.0}, {"fps": float("nan")}])
def test_a_choice_of_no_frame_is_one_sentence(chosen: dict[str, float]) -> None:
    with pytest.raises(SsferError, match="expected every of at least 1 and fps above 0, found "):
        next(frames_of("a.jpg", **chosen))  # type: ignore[arg-type]


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", [[(0, 0, 30, 30)]] * 2, [0, 0.1], rotation=90)
    image = next(iter(frames_at([path]))).image
    assert image is not None and image.size == (80, 100)
    # Clockwise: what was in the upper left corner is in the upper right one.
    gray = np.asarray(image.convert("L"))
    assert gray[5:25, 55:75].min() > 180 and gray[5:25, 5:25].max() < 180


def test_videos_that_are_none_or_break_off_are_statuses(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    data = clip.read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    found = {frame.input: frame.status for frame in frames_at([tmp_path])}
    assert {Path(name).name: status for name, status in found.items()} == dict.fromkeys(
        ("text.mp4", "empty.mp4", "half.mp4"), "unreadable"
    )


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_that_was_cut_is_not_taken_for_whole(tmp_path: Path, suffix: str) -> None:
    """FFmpeg ends both without an error."""
    whole, cut = (tmp_path / f"{name}.{suffix}" for name in ("whole", "cut"))
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25, (80, 60))
    noise = np.random.default_rng(0)
    for _ in range(50):
        writer.write(noise.integers(0, 255, (60, 80, 3), np.uint8))
    writer.release()
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, statuses in ((whole, {"ok"}), (cut, {"ok", "unreadable"})):
        found = list(frames_at([path], every=5))
        assert {frame.status for frame in found} == statuses
    assert found[-1].status == "unreadable" and found[-1].frame is not None and 15 < found[-1].frame < 30


@pytest.mark.parametrize("name", ["list.mp4", "concat:clip.mp4"])
def test_a_file_cannot_name_others_to_be_read(
    tmp_path: Path, clip: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / name).write_text("ffconcat version 1.0\nfile clip.mp4\n")
    assert [frame.status for frame in frames_at([name])] == ["unreadable"]


def test_a_file_with_sound_only_has_no_frames(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert [frame.status for frame in frames_at([tmp_path / "sound.mp4"])] == ["no_frames"]


def test_without_the_extra_a_video_is_one_sentence(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SsferError, match=r"needs the package av \(extra 'video'\).*pip install 'ssfer\[video\]'"):
        list(frames_at([clip]))


def test_a_camera_gives_rgb_frames_with_growing_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)
    frames = list(camera_frames(0))
    assert [frame.frame for frame in frames] == [0, 1, 2] and {frame.input for frame in frames} == {"camera 0"}
    assert frames[0].image is not None and frames[0].image.getpixel((0, 0)) == (0, 0, 255)
    assert frames[0].time is not None and frames[2].time is not None and frames[0].time <= frames[2].time
    with pytest.raises(SsferError, match="there is no camera 7"):
        next(camera_frames(7))
