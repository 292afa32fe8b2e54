"""Device, precision and compilation of a run, chosen from section `machine` before anything starts."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ssfer.core.device import choose_device, device_name, driver_version, hidden_gpu
from ssfer.core.errors import SsferError
from ssfer.train.settings import MachineSettings

Precision = Literal["fp32", "bf16", "fp16"]
NAMES = {"fp32": "float32", "bf16": "bf16", "fp16": "fp16 with loss scaling"}


@dataclass(frozen=True)
class Compute:
    """Device, precision and compilation of a run.

    Attributes:
        compiled: whether networks are compiled by torch.compile.
        remarks: notes about the choice for the user.
    """

    device: torch.device
    precision: Precision
    compiled: bool
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        threads = torch.get_num_threads()
        more = [f"{threads} thread{'s' * (threads != 1)}"] if self.device.type == "cpu" else []
        more += ["compiled"] if self.compiled else []
        return ", ".join([device_name(self.device), NAMES[self.precision], *more])

    def facts(self) -> dict[str, Any]:
        """Return the entries for provenance and MLflow."""
        found = {"device": device_name(self.device), "precision": self.precision, "compiled": self.compiled}
        driver = driver_version() if self.device.type == "cuda" else None
        return {**found, "driver": driver} if driver else found


def choose_compute(params: MachineSettings) -> Compute:
    """Return device, precision and compilation for section `machine`.

    Raises:
        SsferError: a device that is not available, or a precision or compilation that it does not support.
    """
    device, remarks = choose_device(params.device), []
    if warning := hidden_gpu(device):
        remarks.append(f"WARNING: {warning}")
    missing = missing_for_compile()
    if params.compile is True and missing:
        raise SsferError(f"machine.compile is true but {missing}; install it or set machine.compile to auto")
    compiled = params.compile is True or (params.compile == "auto" and device.type == "cuda" and not missing)
    if device.type == "cuda" and params.compile == "auto" and missing:
        remarks.append(f"networks are not compiled, which is slower: {missing}")
    return Compute(device, _precision(device, params.precision), compiled, tuple(remarks))


def _precision(device: torch.device, setting: str) -> Precision:
    on_cuda = device.type == "cuda"
    has_bf16 = computes_bf16(device)
    if setting == "bf16" and not has_bf16 and not on_cuda:
        raise SsferError(
            "machine.precision bf16 needs CUDA or a CPU with AMX: on other CPUs it is hundreds of times slower"
        )
    if setting == "bf16" and not has_bf16:
        raise SsferError(f"machine.precision is bf16, which {device_name(device)} has not; set it to auto or fp16")
    if setting == "fp16" and not on_cuda:
        raise SsferError(f"machine.precision fp16 needs CUDA, found {device_name(device)}; set it to auto")
    if setting == "auto":
        return ("bf16" if has_bf16 else "fp16") if on_cuda else "fp32"
    return setting  # type: ignore[return-value]


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has units for bf16: GPUs since Ampere, CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def missing_for_compile() -> str | None:
    """Return what torch.compile lacks here, None if nothing; it also needs a C compiler on a GPU."""
    if not any(shutil.which(name) for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name):
        return "no C compiler is there (apt install gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python.h is not there (apt install python3-dev)"
    return None
