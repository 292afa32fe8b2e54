"""The compute device: chosen from `machine.device`, its name, and error messages for devices that cannot be used."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ssfer.core.errors import SsferError
from ssfer.core.process import local_rank_and_world

DRIVER_FILE = Path("/proc/driver/nvidia/version")
OLDEST_DRIVERS = {12: 525, 13: 580}  # by CUDA's major version; NVIDIA, "CUDA Compatibility", table 1


def choose_device(setting: str, option: str = "machine.device") -> torch.device:
    """Return the device that a setting names; each of several processes on a machine gets a GPU of its own.

    Args:
        setting: auto (a GPU of CUDA if torch sees one, else the CPU) | cpu | cuda | cuda:N | mps.
        option: where it was set, for messages.

    Raises:
        SsferError: the device is not available.
    """
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if setting == "mps":
        if not torch.backends.mps.is_available():
            raise SsferError(f"{option} is 'mps' but torch finds no Apple GPU; set it to auto or cpu")
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise SsferError(f"{option} is '{setting}' but {_no_cuda()}; set it to auto or cpu to compute on the CPU")
    rank, world = local_rank_and_world()
    count = torch.cuda.device_count()
    if ":" in setting:
        index = int(setting.partition(":")[2])
        if world > 1:
            raise SsferError(
                f"{option} is '{setting}', but {world} processes were started on this machine and each takes a "
                "GPU of its own; set it to cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if index >= count:
            raise SsferError(f"{option} is '{setting}' but torch sees {_gpus(count)}, numbered from 0")
        return torch.device("cuda", index)
    if rank >= count:
        raise SsferError(
            f"process {rank} of {max(world, rank + 1)} on this machine has no GPU: torch sees {_gpus(count)}; start at "
            f"most {count} processes a machine (torchrun --nproc-per-node {count})"
        )
    return torch.device("cuda", rank)


def hidden_gpu(device: torch.device) -> str | None:
    """Return a warning if this machine has an NVIDIA GPU that torch cannot use, so that the CPU computes; else None."""
    hidden_on_purpose = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if device.type != "cpu" or hidden_on_purpose or not has_nvidia_driver() or torch.cuda.is_available():
        return None
    return f"this machine has an NVIDIA GPU, but {_no_cuda()}: the CPU computes, which may take 100 times as long"


def has_nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is loaded or nvidia-smi is installed; torch is not asked."""
    return DRIVER_FILE.exists() or Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; None if it cannot be read."""
    try:
        found = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)", DRIVER_FILE.read_text())
    except OSError:
        return None
    return found[1] if found else None


def device_name(device: torch.device) -> str:
    """Return the name of a device for messages."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cpu": "CPU", "mps": "Apple GPU (untested)"}.get(device.type, device.type)


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn a GPU's errors into an SsferError, so that no image is counted as unreadable because the GPU failed.

    Raises:
        SsferError: out of memory, or a failing device or driver.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SsferError(
            "the GPU has too little memory; end other programs on it or choose another one (machine.device: cuda:1), "
            "then run again: finished work is kept"
        ) from error
    except torch.AcceleratorError as error:
        first = str(error).strip().splitlines()[0]
        raise SsferError(f"the GPU failed ({first}); run again, finished work is kept") from error


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 in float32, not in TF32, which CUDA may use otherwise."""
    with tf32(allowed=False):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products, where the device has it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _no_cuda() -> str:
    """Return why torch has no CUDA device, as far as it can be found out."""
    built, driver = torch.version.cuda, driver_version()
    if built is None:
        return "this torch is built without CUDA"
    if not has_nvidia_driver():
        return "no NVIDIA driver is loaded here"
    known = f"NVIDIA driver {driver}" if driver else "the NVIDIA driver here"
    major = int(driver.partition(".")[0]) if driver else 0
    if int(built.partition(".")[0]) >= 13 and OLDEST_DRIVERS[12] <= major < OLDEST_DRIVERS[13]:
        remedy = f"install a torch for it (make setup TORCH=cuda12), or driver {OLDEST_DRIVERS[13]} or newer"
    else:
        remedy = "update the driver or install a torch for its CUDA (nvidia-smi shows which)"
    return f"torch {torch.__version__} (CUDA {built}) cannot use {known}; {remedy}"
