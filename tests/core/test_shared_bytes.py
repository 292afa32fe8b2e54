"""ssfer.core.shared_bytes: one memory in several processes, released with the object."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
from multiprocessing.connection import Connection

import numpy as np
import pytest

from ssfer.core.shared_bytes import SharedBytes


def _add_one(shared: SharedBytes, done: Connection) -> None:
    shared.array[:] += 1
    done.send(len(shared.array))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_writes_to_the_same_bytes(method: str) -> None:
    context, shared = multiprocessing.get_context(method), SharedBytes(3)
    shared.array[:] = (1, 2, 250)
    here, there = context.Pipe()
    process = context.Process(target=_add_one, args=(shared, there))
    process.start()
    assert here.recv() == 3
    process.join()
    assert shared.array.tolist() == [2, 3, 251]


def test_no_byte_lies_in_dev_shm() -> None:
    """Docker's 64 MB would not hold these 128."""
    free = shutil.disk_usage("/dev/shm").free
    shared = SharedBytes(128 * 2**20)
    shared.array[:] = 7
    assert free - shutil.disk_usage("/dev/shm").free < 64 * 2**20


def test_memory_and_descriptor_go_with_the_object_but_not_before_its_views() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    shared = SharedBytes(5)
    shared.array[:] = 9
    view = shared.array[1:3]
    del shared
    assert np.array_equal(view, [9, 9])
    del view
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_can_be_shared_as_well() -> None:
    assert SharedBytes(0).array.shape == (0,)
