"""Device, precision and compilation of a run, chosen from section `machine` before anything starts."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ssfer.core.device import choose_device, device_name, driver_version, hidden_gpu, tf32
from ssfer.core.errors import SsferError
from ssfer.train.settings import MachineSettings

Precision = Literal["fp32", "bf16", "fp16"]
EvalPrecision = Literal["fp32", "tf32", "bf16"]
NAMES = {"fp32": "float32", "bf16": "bf16", "fp16": "fp16 with loss scaling", "tf32": "TF32"}


@dataclass(frozen=True)
class Compute:
    """Device, precision and compilation of a run.

    Attributes:
        compiled: whether networks are compiled by torch.compile.
        remarks: notes about the choice for the user.
        eval_precision: of networks that are not trained at that moment.
    """

    device: torch.device
    precision: Precision
    compiled: bool
    remarks: tuple[str, ...] = ()
    eval_precision: EvalPrecision = "fp32"

    def __str__(self) -> str:
        threads = torch.get_num_threads()
        more = [f"{threads} thread{'s' * (threads != 1)}"] if self.device.type == "cpu" else []
        more += ["compiled"] if self.compiled else []
        more += [f"evaluates in {NAMES[self.eval_precision]}"] if self.eval_precision != "fp32" else []
        return ", ".join([device_name(self.device), NAMES[self.precision], *more])

    def facts(self) -> dict[str, Any]:
        """Return the entries for provenance and MLflow."""
        found = {
            "device": device_name(self.device),
            "precision": self.precision,
            "eval_precision": self.eval_precision,
            "compiled": self.compiled,
        }
        driver = driver_version() if self.device.type == "cuda" else None
        return {**found, "driver": driver} if driver else found

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Compute in `eval_precision`; fp32 and bf16 forbid TF32, in which CUDA else computes convolutions."""
        on = self.eval_precision == "bf16"
        with tf32(self.eval_precision == "tf32"), torch.autocast(self.device.type, torch.bfloat16, enabled=on):
            yield


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
    if params.eval_precision == "bf16":
        _check_bf16(device, "machine.eval_precision", "fp32 or tf32")
    return Compute(
        device, _precision(device, params.precision), compiled, tuple(remarks), eval_precision=params.eval_precision
    )


def _precision(device: torch.device, setting: str) -> Precision:
    on_cuda = device.type == "cuda"
    if setting == "bf16":
        _check_bf16(device, "machine.precision", "auto or fp16")
    if setting == "fp16" and not on_cuda:
        raise SsferError(f"machine.precision fp16 needs CUDA, found {device_name(device)}; set it to auto")
    if setting == "auto":
        return ("bf16" if computes_bf16(device) else "fp16") if on_cuda else "fp32"
    return setting  # type: ignore[return-value]


def _check_bf16(device: torch.device, key: str, others: str) -> None:
    """Refuse bf16 where the device has no units for it; `others` are the values of the setting that it has."""
    if computes_bf16(device):
        return
    if device.type != "cuda":
        raise SsferError(
            f"{key} bf16 needs CUDA or a CPU with AMX or AVX512_BF16: others are hundreds of times slower in it"
        )
    raise SsferError(f"{key} is bf16, which {device_name(device)} has not; set it to {others}")


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has units for bf16: GPUs since Ampere, CPUs with AMX or AVX512_BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(unit) for unit in ("amx_bf16", "avx512_bf16"))


def missing_for_compile() -> str | None:
    """Return what torch.compile lacks here, None if nothing; it also needs a C compiler on a GPU."""
    if not any(shutil.which(name) for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name):
        return "no C compiler is there (apt install gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python.h is not there (apt install python3-dev)"
    return None
