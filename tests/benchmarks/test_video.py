"""The benchmark of a long video: its clock, its counts, and the command on a short one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.video import PEOPLE, SIDE, Look, compared, looks, predicted, scene, times, write
from ssfer.predict.table import BOX

PLAIN = [[Look(Image.new("RGB", (SIDE, SIDE)), np.array([40.0, 40, 100, 110]))]] * PEOPLE


def table(at: list[float]) -> pd.DataFrame:
    """Return the table of a perfect tracker."""
    rows = [
        {"frame": i, "time": seconds, "face": face, "track": face, **dict(zip(BOX, box, strict=True))}
        for i, seconds in enumerate(at)
        for face, box in enumerate(scene(PLAIN, seconds)[1])
    ]
    return pd.DataFrame(rows)


def test_frames_come_at_uneven_whole_ticks() -> None:
    at = times(1, 10)
    gaps = np.diff(at).round(3)
    assert set(gaps) == {0.07, 0.09, 0.1, 0.14} and len(at) == pytest.approx(600, abs=2) and at[-1] < 60


def test_misses_false_faces_and_switches_by_hand() -> None:
    at = [0.0, 0.1, 0.2, 0.3]
    perfect = compared(table(at), PLAIN, at)
    assert (perfect.faces, perfect.missed, perfect.false, perfect.switches, perfect.late) == (12, 0, 0, 0, 0)
    found = table(at)
    found.loc[[6, 7], "track"] = [1, 0]  # in frame 2 two people swap their tracks, and back in frame 3
    found.loc[9, list(BOX)] = 0.0  # a face elsewhere: one missed, one false; it is in no comparison of tracks
    found.loc[3:5, "time"] += 0.004
    worse = compared(found, PLAIN, at)
    assert (worse.missed, worse.false, worse.switches, worse.tracks) == (1, 1, 3, 3)
    assert worse.late == pytest.approx(0.004)


@pytest.mark.slow
def test_tracks_of_a_short_video_keep_their_people_and_times(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra 'video' is not installed")
    pytest.importorskip("anny", reason="the extra 'synthetic' is not installed")
    people, at = looks(), times(0.15, 5)
    write(tmp_path / "v.mp4", people, at)
    assert predicted(tmp_path / "v.mp4", tmp_path / "t.csv", []) > 1e8
    found = compared(pd.read_csv(tmp_path / "t.csv"), people, at)
    assert found.late == found.switches == found.false == 0 and found.missed <= 0.05 * found.faces
