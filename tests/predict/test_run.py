"""Paths to a table in a file: a row for everything, the same rows after a kill and in worker processes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.progress import Progress
from ssfer.predict import run
from ssfer.predict.frames import Frame
from ssfer.predict.recognizer import Options
from ssfer.predict.run import Job, predict_camera, predict_paths
from tests.support.moving_scenes import TIMES, crossing, dark, write_video
from tests.support.rendered_photos import BrightDetector, bright_photo
from tests.support.small_model import write_model

pytest.importorskip("av", reason="the extra 'video' is not installed")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    path = write_model(tmp_path / "small.safetensors")
    monkeypatch.setattr("ssfer.predict.recognizer.build_detector", lambda *_: BrightDetector())
    run.loaded.cache_clear()
    yield Job(str(path), "cpu", options=Options(batch=2))
    run.loaded.cache_clear()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        bright_photo((5, 5, 35, 35), (50, 20, 90, 60), seed=i).save(folder / f"{i}.png")
    (folder / "3.jpg").write_text("no picture")
    write_video(folder / "4.mp4", [crossing(i) for i in range(6)], TIMES)
    with zipfile.ZipFile(folder / "5.zip", "w") as archive:
        for name, photo in (("dark.png", dark()), ("face.png", bright_photo((5, 5, 35, 35)))):
            buffer = io.BytesIO()
            photo.save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    return folder


def test_every_input_has_its_rows_in_order_and_the_summary_counts_them(tmp_path: Path, job: Job, inputs: Path) -> None:
    summary = predict_paths(job, [str(inputs), str(tmp_path / "absent.png")], tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    names = [Path(name).name for name in table["input"]]
    assert names == [
        *("0.png", "0.png", "1.png", "1.png", "2.png", "2.png", "3.jpg"),
        *["4.mp4"] * 12,
        *("dark.png", "face.png", "absent.png"),
    ]
    clip = table[table["input"].str.endswith("4.mp4")]
    assert clip["time"].tolist() == pytest.approx([time for time in TIMES for _ in range(2)], abs=1e-3)
    for _, track in clip.groupby("track"):
        assert len(track) == 6 and (track["y1"].max() - track["y1"].min()) < 3  # each keeps to its height
    assert (summary.faces, summary.pictures) == (19, 13)
    assert summary.statuses == {"ok": 19, "unreadable": 1, "no_face": 1, "missing": 1}
    assert f"unreadable: 1 ({inputs}/3.jpg)" in summary.lines()


@pytest.mark.parametrize("kill_after", range(1, 8))
def test_killed_anywhere_and_resumed_the_table_is_the_same(
    tmp_path: Path, job: Job, inputs: Path, kill_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(job.weights, "cpu", options=Options(batch=2, smooth=0.3))
    predict_paths(job, [str(inputs)], tmp_path / "whole.csv")
    original, calls = run.RowFile.add, iter(range(100))

    def dying(self: run.RowFile, rows: list[run.Row]) -> None:
        original(self, rows)
        if next(calls) == kill_after * 3 // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.RowFile, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            predict_paths(job, [str(inputs)], tmp_path / "t.csv")
    predict_paths(job, [str(inputs)], tmp_path / "t.csv", resume=True)
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "whole.csv").read_text()
    for suffix in ("csv", "jsonl", "parquet"):
        table = tmp_path / f"t.{suffix}"
        predict_paths(job, [str(inputs)], table)
        assert predict_paths(job, [str(inputs / "..") + "/in"], table, resume=True) is None  # nothing is left to do
        with pytest.raises(SsferError, match=r"--resume: .* is complete and begins with .*0\.png, which is not among"):
            predict_paths(job, [str(tmp_path / "t.csv")], table, resume=True)


def test_inputs_that_are_gone_cannot_be_resumed(
    tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.RowFile.commit

    def committed(self: run.RowFile, mark: dict[str, object]) -> None:
        original(self, mark)
        if mark["items"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.RowFile, "commit", committed)
        with pytest.raises(KeyboardInterrupt):
            predict_paths(job, [str(inputs)], tmp_path / "t.csv")
    (inputs / "1.png").unlink()
    with pytest.raises(SsferError, match=r"ends at .*1\.png, which is no longer there; run again without --resume"):
        predict_paths(job, [str(inputs)], tmp_path / "t.csv", resume=True)


def test_what_to_do_about_photos_that_cannot_be_read_is_said(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.ones((40, 40), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "phone.heic").write_bytes(b"no decoder")
    monkeypatch.setattr("ssfer.core.images._formats", lambda: ("JPEG", "TIFF"))
    _, *lines = predict_paths(job, [str(tmp_path)], tmp_path / "t.csv").lines()
    assert lines[0].startswith("float_pixels: 1 (") and lines[0].endswith("save such pictures with 8 or 16 bits")
    assert lines[1].startswith("unreadable: 1 (") and "pip install 'ssfer[heif]'" in lines[2]


def test_a_list_is_read_from_stdin(tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{inputs}/1.png\n\n{inputs}/0.png\n"))
    predict_paths(job, ["-"], tmp_path / "t.jsonl")
    table = pd.read_json(tmp_path / "t.jsonl", lines=True)
    assert table["input"].tolist() == [f"{inputs}/1.png"] * 2 + [f"{inputs}/0.png"] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(SsferError, match="the list on stdin is empty; expected a path on each line"):
        predict_paths(job, ["-"], tmp_path / "t.jsonl")
    assert len(pd.read_json(tmp_path / "t.jsonl", lines=True)) == 4


def test_annotated_copies_lie_apart_from_the_inputs(
    tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(job.weights, "cpu", annotate=tmp_path / "seen")
    predict_paths(job, [str(inputs)], tmp_path / "t.csv")
    seen = sorted(str(p.relative_to(tmp_path / "seen")) for p in (tmp_path / "seen").rglob("*") if p.is_file())
    photos = [f"in/{i}.png.jpg" for i in range(3)]
    assert seen == [*photos, "in/4.mp4", "in/5.zip/dark.png.jpg", "in/5.zip/face.png.jpg"]
    # In the last three, copies would be written to in/: those of in/, and those of another folder of this name.
    (tmp_path / "link").mkdir()
    (tmp_path / "link/in").symlink_to(inputs)
    (tmp_path / "link/other/in").mkdir(parents=True)
    for place, given in (
        (inputs, inputs),
        (inputs / "below", inputs),
        (inputs.parent, inputs),
        (tmp_path / "link", tmp_path / "link/in"),
        (inputs.parent, tmp_path / "link/other/in"),
    ):
        with pytest.raises(SsferError, match="lies among the inputs"):
            predict_paths(Job(job.weights, "cpu", annotate=place), [str(given), str(inputs)], tmp_path / "u.csv")
    photo, listed = inputs / "0.jpg", Job(job.weights, "cpu", annotate=inputs)
    bright_photo().save(photo)
    before = photo.read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photo}\n"))
    with pytest.raises(SsferError, match="lies among the inputs"):
        predict_paths(listed, ["-"], tmp_path / "u.csv")
    (tmp_path / "seen/in/0.jpg").hardlink_to(photo)
    with pytest.raises(SsferError, match=r"the copy of .*0\.jpg would replace it; name another folder"):
        predict_paths(job, [str(inputs)], tmp_path / "u.csv")
    assert photo.read_bytes() == before


def test_a_camera_is_one_scene_and_ctrl_c_ends_it_with_a_whole_table(tmp_path: Path, job: Job) -> None:
    def seen() -> Iterator[Frame]:
        for i in range(4):
            yield Frame("camera 0", bright_photo(*crossing(i)), frame=i, time=i / 10, moving=True)
        raise KeyboardInterrupt

    summary = predict_camera(job, seen(), tmp_path / "t.parquet")
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert summary.faces == len(table) == 8 and table["track"].nunique() == 2


def test_ctrl_c_while_a_cameras_rows_are_written_keeps_the_table(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = (Frame("camera 0", bright_photo(*crossing(i)), frame=i, time=i / 10, moving=True) for i in range(4))
    original, calls = run.RowFile.add, iter(range(100))

    def interrupted(self: run.RowFile, rows: list[run.Row]) -> None:
        original(self, rows)
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.RowFile, "add", interrupted)
    assert predict_camera(job, frames, tmp_path / "t.parquet").pictures == 1  # the other was not counted any more
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 4 and len(list(tmp_path.glob("t.*"))) == 1


def test_threads_write_the_same_rows(tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(job.weights, "cpu", options=Options(batch=2))
    tables = []
    for cpus in (1, 3):
        monkeypatch.setattr("ssfer.predict.run.available_cpus", lambda cpus=cpus: cpus)
        predict_paths(job, [str(inputs)], tmp_path / f"{cpus}.csv")
        tables.append((tmp_path / f"{cpus}.csv").read_text())
    assert tables[0] == tables[1] and tables[0].count("\n") > 10


def test_a_few_photos_between_videos_start_no_processes(
    tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def in_processes(work: Any, shared: Any, tasks: Iterable[Any], workers: int, advice: str) -> Iterator[Any]:
        started.append(workers)
        yield from (work(shared, task) for task in tasks)

    monkeypatch.setattr("ssfer.predict.run.map_in_processes", in_processes)
    monkeypatch.setattr("ssfer.predict.run.available_cpus", lambda: 1)
    monkeypatch.setattr("ssfer.predict.run.POOL_PHOTOS", 4)
    (inputs / "4a.png").write_bytes((inputs / "0.png").read_bytes())
    write_video(inputs / "4b.mp4", [crossing(0)], [0.0])
    for workers in (None, 8):  # 4 photos, a video, 1 photo, a video, 2 photos
        predict_paths(job, [str(inputs)], tmp_path / "t.csv", workers=workers)
    assert started == [1, 1, 1, 8, 1, 1]
    monkeypatch.setattr("ssfer.predict.run.available_cpus", lambda: 3)
    started.clear()
    predict_paths(job, [str(inputs / f"{i}.png") for i in (0, 1, 2, 0)], tmp_path / "t.csv")
    assert started == [3]


def test_the_time_left_is_told_for_photos_and_not_where_their_number_is_unknown(
    tmp_path: Path, job: Job, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[int | None] = []

    class Noted(Progress):
        def __init__(self, label: str, total: int | None, **options: Any) -> None:
            super().__init__(label, total, **options)
            totals.append(total)

    monkeypatch.setattr("ssfer.predict.run.Progress", Noted)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{inputs / '0.png'}\n"))
    photos, video = [str(inputs / "0.png"), str(tmp_path / "none.png")], next(inputs.glob("*.mp4"))
    for paths in (photos, [*photos, str(video)], ["-"]):
        predict_paths(job, paths, tmp_path / "t.csv")
    monkeypatch.setattr("ssfer.predict.run.COUNTED", 1)
    predict_paths(job, photos, tmp_path / "t.csv")
    assert totals == [2, None, None, None]


@pytest.mark.slow  # each process imports torch
def test_worker_processes_write_the_same_rows(tmp_path: Path, inputs: Path) -> None:
    pytest.importorskip("facenet_pytorch", reason="the extra 'detect' is not installed")
    job = Job(str(write_model(tmp_path / "m.safetensors")), "cpu", options=Options(faces="whole", batch=2))
    tables = []
    for workers in (1, 2):
        predict_paths(job, [str(inputs)], tmp_path / f"{workers}.csv", workers=workers)
        tables.append((tmp_path / f"{workers}.csv").read_text())
    assert tables[0] == tables[1] and tables[0].count("\n") == 1 + 4 + 6 + 2


def test_a_refused_command_keeps_the_table_of_an_earlier_one(tmp_path: Path, job: Job, inputs: Path) -> None:
    out = tmp_path / "t.csv"
    predict_paths(job, [str(inputs / "0.png")], out)
    before = out.read_bytes()
    seen = Job(job.weights, "cpu", annotate=tmp_path / "small.safetensors")
    for one, paths, message in (
        (job, [str(tmp_path / "typo.png")], "there is nothing at .*typo.png"),
        (job, ["https://example.org/a.jpg"], "is an address; ssfer reads files only"),
        (job, [str(inputs), ""], "a PATH is empty"),
        (seen, [str(inputs)], "--annotate .* cannot be made"),
    ):
        with pytest.raises(SsferError, match=message):
            predict_paths(one, paths, out)
        assert out.read_bytes() == before and sorted(p.name for p in tmp_path.glob("t.*")) == ["t.csv"]
