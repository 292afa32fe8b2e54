"""ssfer.data.device_randaugment: what is left to the device gives the views of the host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssfer.core.errors import SsferError
from ssfer.data.augmentations.affine import Affine
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batch_parts import part_of_batch
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from tests.support.factory import write_faces

MEAN = (0.588, 0.459, 0.402)
CPU = torch.device("cpu")
N = 40


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops") / "faces"
    write_faces(folder, "faces", [i % 3 for i in range(N)], seed=2)
    return folder


def stream(faces: Path, randaugment: str = "rand-m9-mstd0.5-inc1", batch_size: int = N) -> Stream:
    views = {"w": Weak(16, 0.3), "s": Strong(16, 0.3, randaugment, MEAN), "s2": Strong(16, 0.3, randaugment, MEAN)}
    return Stream("ulb", FaceDataset([faces]), batch_size, views, seed=11)


def off_by(batch: dict[str, Tensor], expected: dict[str, Tensor], view: str) -> Tensor:
    return (batch[view].int() - expected[view].int()).abs()


@pytest.mark.parametrize("randaugment", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-p1.0", "rand-m9-p0"])
def test_the_device_makes_the_views_that_the_host_would(faces: Path, randaugment: str) -> None:
    whole = stream(faces, randaugment)
    expected = StepBatches([whole], 2)[1]
    batches = StepBatches([whole], 2, on_device=True)
    here = batches[1]
    assert not torch.equal(here["x_ulb_s"], expected["x_ulb_s"]) or randaugment.endswith("p0")
    found = batches.arrived(here, CPU)
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"x_ulb_s", "x_ulb_s2"}:
        assert torch.equal(found[name], expected[name])
    for view in ("x_ulb_s", "x_ulb_s2"):
        assert (off_by(found, expected, view) > 1).double().mean() < 0.003  # the second operation may enlarge a level
        assert torch.equal(found[view], expected[view]) == randaugment.endswith("p0")


def test_ranks_and_workers_make_the_same_views(faces: Path) -> None:
    whole = stream(faces, batch_size=12)
    alone = StepBatches([whole], 1, on_device=True)
    expected = alone.arrived(alone[0], CPU)
    halves = [StepBatches([whole], 1, rank, 2, on_device=True) for rank in range(2)]
    joined = torch.cat([half.arrived(half[0], CPU)["x_ulb_s"] for half in halves])
    places = torch.from_numpy(np.concatenate([part_of_batch(12, rank, 2) for rank in range(2)]))
    assert torch.equal(joined, expected["x_ulb_s"][places])
    (made,) = DataLoader(alone, batch_size=None, sampler=range(1), num_workers=1)
    assert torch.equal(alone.arrived(made, CPU)["x_ulb_s"], expected["x_ulb_s"])


@pytest.mark.slow  # each worker imports torch
def test_started_workers_get_what_is_left_to_the_device(faces: Path) -> None:
    batches = StepBatches([stream(faces, batch_size=12)], 1, on_device=True)
    loader = DataLoader(batches, batch_size=None, sampler=range(1), num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader))["order_x_ulb_s"], batches[0]["order_x_ulb_s"])


def test_other_augmentations_stay_with_the_host(faces: Path) -> None:
    plain = Stream("lb", FaceDataset([faces]), 4, {"": Affine(16, 0.3)}, seed=1)
    batches = StepBatches([plain], 1, on_device=True)
    assert torch.equal(batches.arrived(batches[0], CPU)["x_lb"], StepBatches([plain], 1)[0]["x_lb"])


def test_an_operation_that_the_device_has_not_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match=r"augment: device has no operation Desaturate of semisup.randaug.*host"):
        StepBatches([stream(faces, "rand-m9-t3a")], 1, on_device=True)
