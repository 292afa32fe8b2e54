"""What there is on this machine that training computes with."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from ssfer.core.device import driver_version, has_nvidia_driver
from ssfer.core.process import available_cpus
from ssfer.train.compute import computes_bf16, missing_for_compile
from ssfer.train.device import Machine
from ssfer.train.speed import matmul_rate

GIB = 1 << 30


def facts(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield what is here, by name."""
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield "torch", f"{torch.__version__}, built {built}; Python {platform.python_version()}"
    driver = driver_version() or ("of unknown version" if has_nvidia_driver() else "none")
    yield "NVIDIA driver", driver
    if torch.cuda.is_available():
        yield from _gpus()
    lacking = missing_for_compile()
    yield "compiler", f"torch.compile cannot be used: {lacking}" if lacking else "a C compiler and Python.h are there"
    yield "CPUs", f"{available_cpus()} of {os.cpu_count()}, {platform.machine()}"
    if memory := _memory():
        yield "memory", memory
    if (shared := Path("/dev/shm")).is_dir():
        yield "shared memory", f"{shutil.disk_usage(shared).free / GIB:.1f} GiB free in /dev/shm; batches do without it"
    yield "workers", f"{machine.num_workers} a loader, started by {machine.start_method() or 'nobody'}"
    types = [torch.float32, *([torch.bfloat16] if computes_bf16(machine.device) else [])]
    rates = [f"{matmul_rate(machine.device, t) / 1e9:,.0f} GFLOP/s in {str(t).removeprefix('torch.')}" for t in types]
    yield "matrix product", ", ".join(rates)


def _gpus() -> Iterator[tuple[str, str]]:
    built = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        arch = f"sm_{found.major}{found.minor}"
        # A torch has machine code for some architectures; for others of the same major number that of a lower one runs.
        ready = any(a.startswith(f"sm_{found.major}") and int(a[3:].rstrip("af")) <= int(arch[3:]) for a in built)
        fits = "" if ready else f"; this torch has no code for it, only for {', '.join(built)}"
        yield f"GPU {index}", f"{found.name}, {found.total_memory / GIB:.0f} GiB, {arch}{fits}"


def _memory() -> str | None:
    """Return the machine's memory, None where the system does not say it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    return f"{kib['MemAvailable'] * 1024 / GIB:.1f} of {kib['MemTotal'] * 1024 / GIB:.1f} GiB available"
