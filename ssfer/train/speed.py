"""How fast a device multiplies matrices here and now: the other side of a utilization figure."""

import time

import torch


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Return the floating-point operations a second of a square matrix product here and now.

    What a device can do at best is not what its data sheet says: this is measured, in `seconds`, with the threads and
    the clock the run has. 1024 rows on a CPU, 8192 elsewhere.
    """
    rows = 1024 if device.type == "cpu" else 8192
    own = torch.Generator(device).manual_seed(0)  # nobody else's random numbers move
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
    """Wait until a CUDA device has done what it was given, so that a clock shows it; the CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
