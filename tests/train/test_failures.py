"""ssfer.train.failures: what a machine does to a run is a sentence, a fault of the code is not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssfer.core.errors import SsferError
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.methods.base import Batch, Method
from ssfer.train.device import Machine
from ssfer.train.failures import explained
from tests.support import factory
from tests.support.training import fit_method


def explanation(error: RuntimeError, **machine: Any) -> str:
    settings = factory.tiny_params(machine=machine).machine
    with pytest.raises(SsferError) as found, explained(Machine(settings), lambda: "step-7.pt"):
        raise error
    return str(found.value)


def test_no_memory_on_the_device_names_max_batch() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert "set machine.max_batch, which is null" in explanation(error)
    text = explanation(error, max_batch=64)
    assert "lower machine.max_batch, which is 64" in text and "step-7.pt" in text


def test_too_little_shared_memory_is_named_with_the_remedy() -> None:
    text = explanation(
        RuntimeError(
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible ...out of shared memory"
        ),
        num_workers=2,
    )
    assert "docker run --shm-size=8g" in text and "set machine.num_workers below 2" in text


def test_other_errors_stay_what_they_are() -> None:
    machine = Machine(factory.tiny_params().machine)
    with pytest.raises(RuntimeError, match="shapes do not match"), explained(machine, str):
        raise RuntimeError("shapes do not match")


class KilledWorker(Weak):
    """Dies as a process does that the kernel kills for lack of memory."""

    def render(self, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Constant(Method):
    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": self.student.weight.sum()}


def test_a_killed_worker_of_the_loader_is_a_sentence(tmp_path: Path) -> None:
    factory.write_faces(tmp_path / "faces", "faces", [0, 1, 2, 0])
    stream = Stream("lb", FaceDataset([tmp_path / "faces"]), 2, {"": KilledWorker(16, 0.5)}, 1)
    p = factory.tiny_params(machine={"num_workers": 1})
    with pytest.raises(SsferError, match=r"a process that prepares batches was killed \(most likely for lack of mem"):
        fit_method(Constant(nn.Linear(1, 1)), StepBatches([stream], 1), p, tmp_path / "run")
