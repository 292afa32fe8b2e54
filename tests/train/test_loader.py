"""ssfer.train.loader: how many processes prepare batches, how they start, what they write to."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.data.shared_memory import BatchDataset
from ssfer.train.device import Machine
from ssfer.train.loader import loader, read
from tests.support import factory


class Numbers(BatchDataset):
    def __len__(self) -> int:
        return 5

    def _batch(self, i: int) -> dict[str, Tensor]:
        if i == 7:
            raise SsferError("no batch 7")
        return {"number": torch.tensor([i])}


def machine_of(**settings: Any) -> Machine:
    return Machine(factory.tiny_params(machine=settings).machine)


@pytest.mark.parametrize(("workers", "batches", "used"), [(0, 5, 0), (2, 5, 2), (3, 2, 2), (8, 1, 0), (8, 0, 0)])
def test_there_are_no_more_workers_than_batches_and_none_for_a_single_one(
    workers: int, batches: int, used: int
) -> None:
    made = loader(Numbers(), range(5 - batches, 5), machine_of(num_workers=workers))
    assert made.num_workers == used
    assert [batch["number"].item() for batch in made] == list(range(5 - batches, 5))


def test_workers_end_with_the_reader_also_if_it_is_closed_or_fails() -> None:
    closed = read(loader(Numbers(), range(5), machine_of(num_workers=2)))
    assert next(closed)["number"].item() == 0
    assert len(multiprocessing.active_children()) == 2
    closed.close()
    assert not multiprocessing.active_children()
    with pytest.raises(SsferError, match="^no batch 7$") as kept:  # its traceback keeps the loader
        list(read(loader(Numbers(), range(6, 9), machine_of(num_workers=2))))
    assert kept.tb is not None and not multiprocessing.active_children()


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_start_as_the_machine_says_and_batches_are_pinned_for_cuda_only(start: str) -> None:
    machine = machine_of(num_workers=2, start_method=start)
    made = loader(Numbers(), range(5), machine)
    assert made.multiprocessing_context.get_start_method() == start
    assert not made.pin_memory
    machine.device = torch.device("cuda")
    assert loader(Numbers(), range(5), machine).pin_memory
