"""Measured speed of a device's matrix products: the denominator of the utilization."""

import time

import torch


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Return the floating-point operations per second of square matrix products, measured for `seconds`.

    It is measured with the run's threads and clock, because data sheets name higher speeds than a device reaches. The
    matrices have 1024 rows on a CPU, 8192 elsewhere.
    """
    rows = 1024 if device.type == "cpu" else 8192
    own = torch.Generator(device).manual_seed(0)  # leaves the global random state alone
    a = torch.randn(rows, rows, device=device, generator=own).to(dtype)
    rounds = 0
    for _ in range(3):
        a @ a  # warm up
    finish(device)
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not rounds:
        for _ in range(4):
            a @ a
        finish(device)
        rounds += 4
    return 2 * rows**3 * rounds / spent


def finish(device: torch.device) -> None:
    """Wait until a CUDA device has done its queued work, so that time can be measured; no effect on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
