"""Figures of a step on their way from a GPU to the host, which does not wait for them."""

import torch
from torch import Tensor


class Late:
    """A scalar that is copied to pinned memory behind the work that makes it, and read later.

    Args:
        value: of one element, on any device; on a CPU it is there at once.
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = value.detach().to("cpu", non_blocking=True)  # torch takes pinned memory for it
        if value.device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))

    @property
    def here(self) -> bool:
        """Whether the value was never on a GPU."""
        return self._event is None

    def read(self) -> float:
        """Return the value; waits for its own copy, not for what was given to the GPU after it."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.item()
