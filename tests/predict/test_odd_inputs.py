"""More than a thousand damaged, odd and hostile inputs: the command goes through all, a row with a status each."""

from __future__ import annotations

import csv
import io
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.support.odd_inputs import write_odd_inputs
from tests.support.small_model import write_model

pytest.importorskip("av", reason="the extra 'video' is not installed")
pytest.importorskip("facenet_pytorch", reason="the extra 'detect' is not installed")
pytest.importorskip("anny", reason="the extra 'synthetic' is not installed")

ROOT = Path(__file__).resolve().parents[2]
STATUSES = {
    *("ok", "no_face", "unreadable", "empty", "too_large", "too_small", "broken_link", "refused", "float_pixels"),
    "no_frames",
}


@pytest.mark.slow
def test_each_of_a_thousand_odd_inputs_has_a_row(tmp_path: Path) -> None:
    from ssfer.rendered.pictures import Picture, make_image

    photo = Image.open(io.BytesIO(make_image(1, 96, Picture("train", 0, 0, "neutral"))[1]))
    inputs = tmp_path / "in"
    inputs.mkdir()
    count = write_odd_inputs(inputs, photo)
    assert count > 1000
    names = sorted(os.listdir(inputs))  # one by one, so that folders and files of any name count
    command = [sys.executable, "-m", "ssfer", "predict", *(str(inputs / name) for name in names)]
    command += ["--model", str(write_model(tmp_path / "small.safetensors")), "--out", str(tmp_path / "t.csv")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=1500)
    subprocess.run(["rm", "-rf", str(inputs)], check=True)  # pytest cannot remove its 1,200 folders in one another
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0 and "Traceback" not in said, said[-3000:]
    assert "\x1b[2J" not in said  # of a file's name; a terminal would obey it
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    statuses = Counter(row["status"] for row in rows)
    assert set(statuses) == STATUSES, statuses
    written = [row["input"] for row in rows]
    for name in names:
        path = str(inputs / name).encode("utf-8", "backslashreplace").decode()
        assert path in written or (name.endswith(".zip") and any(row.startswith(f"{path}/") for row in written)), name
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3e6  # kB on Linux
