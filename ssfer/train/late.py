"""Copies of a step's numbers from a GPU to the host that the host does not wait for."""

import torch
from torch import Tensor


class Late:
    """A scalar that is copied to pinned memory after the work that computes it, and read later.

    Args:
        value: tensor with one element, on any device; on a CPU it is available at once.
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = value.detach().to("cpu", non_blocking=True)  # torch takes pinned memory for it
        if value.device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))

    @property
    def here(self) -> bool:
        """Whether the value was computed on the CPU, so that reading it does not wait."""
        return self._event is None

    def read(self) -> float:
        """Return the value; waits for its own copy, not for work that the GPU got later."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.item()
