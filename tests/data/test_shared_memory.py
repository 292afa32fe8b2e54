"""ssfer.data.shared_memory: shared memory is used again when, and only when, nobody holds the batch in it."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.data.shared_memory import ErrorInWorker, Pool


def sent(pool: Pool, value: int, dtype: torch.dtype = torch.uint8) -> tuple[int, dict[str, Tensor]]:
    """Fill a batch, pass it on as the parent of a worker would get it; return its address and the batch."""
    size = 24 * torch.empty(0, dtype=dtype).element_size()
    room = pool.take(size).view(dtype).view(2, 4, 3).permute(0, 2, 1)
    room[:] = value
    address = room.data_ptr()
    unpack, content = pool.pack({"x": room, "y": torch.tensor([value, 7])}).__reduce__()
    return address, unpack(*content)


def test_a_parcel_arrives_as_the_batch() -> None:
    for dtype in (torch.uint8, torch.float32):
        _, batch = sent(Pool(), 5, dtype)
        assert type(batch) is dict
        assert batch["x"].dtype == dtype
        assert batch["x"].stride() == (12, 1, 3)
        assert torch.equal(batch["x"], torch.full((2, 3, 4), 5, dtype=dtype))
        assert batch["y"].tolist() == [5, 7]


def test_memory_is_used_again_only_after_the_last_view_is_gone() -> None:
    pool = Pool()
    first, batch = sent(pool, 1)
    second, other = sent(pool, 2)
    assert second != first
    view = batch["x"][1, 0]
    del batch
    third, last = sent(pool, 3)
    assert third not in (first, second)
    assert view.tolist() == [1] * 4
    del view
    assert sent(pool, 4)[0] == first
    assert other["x"].unique().tolist() == [2]
    assert last["x"].unique().tolist() == [3]


def test_more_batches_than_are_kept_are_all_safe() -> None:
    pool = Pool()
    held = [sent(pool, value)[1] for value in range(20)]
    assert [batch["x"].unique().item() for batch in held] == list(range(20))


def test_an_error_of_a_worker_is_its_sentence_alone() -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise ErrorInWorker("shard a: b is cut short") from None
    except ErrorInWorker:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    try:
        wrapped.reraise()
    except SsferError as error:
        assert str(error) == "shard a: b is cut short"
