"""ssfer.train.snapshots: what a thread writes is the state at the time of the call; its failures are not lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssfer.train.checkpoints import Checkpoints
from ssfer.train.snapshots import Snapshots


@pytest.mark.parametrize("in_background", [False, True])
def test_the_state_of_the_moment_is_written(tmp_path: Path, in_background: bool) -> None:
    weight = torch.zeros(3)
    with Snapshots(Checkpoints(tmp_path), in_background) as snapshots:
        for step in (1, 2):
            weight += 1
            snapshots.save(step, {"method": {"weight": weight}, "history": [{"loss": 0.5}]})
            weight += 10  # while it is written
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found["step"] == 2 and found["history"] == [{"loss": 0.5}]
    assert found["method"]["weight"].tolist() == [12.0] * 3


def test_a_snapshot_that_cannot_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), Snapshots(Checkpoints(tmp_path / "file"), in_background=True) as snapshots:
        snapshots.save(1, {})
