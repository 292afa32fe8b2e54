"""Predict a long video of rendered faces whose truth is known: memory, identity of tracks, timestamps.

    python -m benchmarks.video --minutes 10

Three people walk to and fro, each on a level of its own, pass each other and change their expression and pose every two
seconds. Frames come at uneven times. `ssfer predict` reads a part and the whole of the video, each in a process of its
own, whose peak memory is compared. An ID switch is counted, as in MOTA (Bernardin and Stiefelhagen 2008), where a
person's face has another track than the last time it was found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.optimize import linear_sum_assignment

from benchmarks.photos import rendered
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.faces.alignment import iou
from ssfer.predict.table import BOX
from ssfer.predict.video import pyav

WIDTH, HEIGHT, SIDE = 480, 320, 144  # pixels of a frame, and of a person's picture
PEOPLE, LOOKS, LOOK_SECONDS = 3, 7, 2.0
TICKS = 1000  # per second, of the video's clock
MATCH = 0.3  # least IoU of a found face with the true one
_PAUSES = (1.0, 0.7, 1.4, 0.9)  # between frames, in turns, as shares of 1 / fps


@dataclass(frozen=True)
class Look:
    """A picture of a person, and the box of the face in it, in pixels."""

    picture: Image.Image
    box: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a table says beside the truth.

    Attributes:
        frames, faces: true ones.
        missed: true faces without a found one.
        false: found faces without a true one.
        switches: see the module's docstring.
        tracks: number of tracks.
        late: largest difference of a frame's time from the true one, in seconds.
    """

    frames: int
    faces: int
    missed: int
    false: int
    switches: int
    tracks: int
    late: float


def looks(seed: int = 1) -> list[list[Look]]:
    """Return several looks of each person."""
    made = [
        Look(photo, np.array(truth["box"], np.float64))
        for photo, truth in rendered(PEOPLE * LOOKS, SIDE, seed)
        if truth["heads"] == 1
    ][: PEOPLE * LOOKS]
    return [made[i * LOOKS : (i + 1) * LOOKS] for i in range(PEOPLE)]


def times(minutes: float, fps: float) -> list[float]:
    """Return the uneven times of the frames, in whole ticks, in seconds."""
    found, now = [], 0.0
    while now < 60 * minutes:
        found.append(round(TICKS * now) / TICKS)
        now += _PAUSES[len(found) % len(_PAUSES)] / fps
    return found


def scene(people: Sequence[Sequence[Look]], seconds: float) -> tuple[Image.Image, np.ndarray]:
    """Return the picture at a time, and the faces' true boxes (PEOPLE, 4)."""
    picture, boxes = Image.new("RGB", (WIDTH, HEIGHT), "#708090"), []
    for i, person in enumerate(people):
        phase = 2 * np.pi * seconds / (9 + 4 * i) + i
        x = round((WIDTH - SIDE) * (0.5 + 0.5 * np.sin(phase)))
        y = round((HEIGHT - SIDE) * i / (PEOPLE - 1))
        look = person[int(seconds / LOOK_SECONDS) % len(person)]
        picture.paste(look.picture, (x, y))
        boxes.append(look.box + np.array([x, y, x, y]))
    return picture, np.stack(boxes)


def write(path: Path, people: Sequence[Sequence[Look]], at: Sequence[float]) -> None:
    """Write the video of some times."""
    av = pyav()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        for seconds in at:
            frame = av.VideoFrame.from_image(scene(people, seconds)[0])
            frame.pts, frame.time_base = round(TICKS * seconds), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def predicted(video: Path, out: Path, options: Sequence[str]) -> int:
    """Write the table of a video with `ssfer predict`; return the peak of its memory in bytes.

    Raises:
        SsferError: the command failed.
    """
    command = [sys.executable, "-m", "ssfer", "predict", str(video), "--out", str(out), *options]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SsferError(f"{' '.join(command)} ended with status {process.returncode}; see above")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compared(table: pd.DataFrame, people: Sequence[Sequence[Look]], at: Sequence[float]) -> Found:
    """Return what a table says beside the truth."""
    by_frame = dict(tuple(table.groupby("frame")))
    missed = false = switches = 0
    last: dict[int, int] = {}
    late = max(abs(by_frame[i]["time"].iloc[0] - seconds) for i, seconds in enumerate(at))
    for i, seconds in enumerate(at):
        rows = by_frame[i].dropna(subset=["face"])
        pairs = dict(_matched(scene(people, seconds)[1], rows[list(BOX)].to_numpy(np.float64)))
        missed, false = missed + PEOPLE - len(pairs), false + len(rows) - len(pairs)
        for person, row in pairs.items():
            track = int(rows["track"].iloc[row])
            switches += last.get(person, track) != track
            last[person] = track
    return Found(len(at), PEOPLE * len(at), missed, false, switches, int(table["track"].nunique()), float(late))


def _matched(truth: np.ndarray, found: np.ndarray) -> Iterator[tuple[int, int]]:
    if len(found):
        overlaps = np.stack([iou(found, box) for box in truth])
        for person, row in zip(*linear_sum_assignment(-overlaps), strict=True):
            if overlaps[person, row] >= MATCH:
                yield int(person), int(row)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--part", type=float, default=1, help="minutes of the part that is read before (default 1)")
    parser.add_argument("--fps", type=float, default=5, help="frames per second, on average (default 5)")
    parser.add_argument("--model", help="weights; default: the shipped model")
    args = parser.parse_args()
    options, people = ["--model", args.model] if args.model else [], looks()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        for minutes in (args.part, args.minutes):
            at, video, out = times(minutes, args.fps), Path(name) / f"{minutes}.mp4", Path(name) / "table.csv"
            write(video, people, at)
            peaks.append(predicted(video, out, options))
        found = compared(pd.read_csv(out), people, at)
    print("| minutes | frames | peak MB | part: minutes | peak MB | ratio |\n|---|---|---|---|---|---|")
    part, whole = (round(peak / 1e6) for peak in peaks)
    print(f"| {args.minutes:g} | {found.frames} | {whole} | {args.part:g} | {part} | {peaks[1] / peaks[0]:.3f} |\n")
    print(
        "| true faces | missed | false | ID switches | tracks | largest error of a time, s |\n|---|---|---|---|---|---|"
    )
    print(f"| {found.faces} | {found.missed} | {found.false} | {found.switches} | {found.tracks} | {found.late:.1e} |")


if __name__ == "__main__":
    stage_main("benchmarks.video", main)
