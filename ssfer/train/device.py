"""Device, precision and processes of a run. Results do not depend on the number of processes, up to rounding."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.core.process import cpus_per_process, rank_and_world
from ssfer.train.compute import choose_compute
from ssfer.train.settings import MachineSettings
from ssfer.train.speed import matmul_rate

_ACCELERATE = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_FEW_PARAMETERS = 1_000_000  # networks with fewer train for less time than their compilation takes


class Machine:
    """Device, precision and processes of this run; results do not depend on them, up to rounding.

    Attributes:
        compute: device, precision, compilation.
        device: of this process.
        rank, world: number of this process and how many there are (torchrun, accelerate launch; else 0 of 1).
        num_workers: processes that prepare batches.
        memory_format: of images and of networks' weights.
        augments: the device does what it can of augmentation.

    Raises:
        SsferError: settings that this machine does not support.
    """

    def __init__(self, params: MachineSettings) -> None:
        self.params = params
        if params.threads != "auto":
            torch.set_num_threads(params.threads)
        self.compute = choose_compute(params)
        self.device = self.compute.device
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.set_device(self.device)  # accelerate takes the current one
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            device_placement=False,  # `ssfer.train.distributed` does it, optimizer state included
            mixed_precision=_ACCELERATE[self.compute.precision],
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=params.timeout_minutes))],
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if (self.rank, self.world) != rank_and_world():
            raise SsferError("RANK and WORLD_SIZE do not describe this launch; start several processes with torchrun")
        # On a CPU the training threads already use every core, so the loader stays in the process.
        auto = min(8, cpus_per_process()) if on_cuda else 0
        self.num_workers = auto if params.num_workers == "auto" else params.num_workers
        self.memory_format = torch.channels_last if params.channels_last else torch.preserve_format
        self.augments = params.augment == "device"
        self._announced = False

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of fp16's loss scaling, for a snapshot; empty in other precisions."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the loss scaling; snapshots of other precisions have none."""
        if self.accelerator.scaler is not None and state:
            self.accelerator.scaler.load_state_dict(dict(state))

    def announce(self, label: str) -> None:
        """Print device, precision and remarks, once, in the first process."""
        if self.rank == 0 and not self._announced:
            several = f"{self.world} x " if self.world > 1 else ""
            print(f"{label}: {several}{self.compute}", *self.compute.remarks, sep="\n", file=sys.stderr, flush=True)
        self._announced = True

    def compiles(self, network: nn.Module) -> bool:
        """Return whether to compile a network; `machine.compile: auto` leaves out small ones."""
        size = sum(p.numel() for p in network.parameters())
        return self.compute.compiled and size > (0 if self.params.compile is True else _FEW_PARAMETERS)

    def matmul_rate(self) -> float:
        """Return the floating-point operations per second of matrix products on all devices, measured on one."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.compute.precision, torch.float32)
        return self.world * matmul_rate(self.device, dtype)

    def total(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one step's metrics over all processes: `*_count` are summed, others averaged.

        It is one small collective operation; on a GPU the host does not wait for it.
        """
        if self.world == 1:
            return dict(values)
        parts = [v.detach().to(self.device, torch.float64, non_blocking=True).reshape(-1) for v in values.values()]
        flat = torch.cat(parts)
        torch.distributed.all_reduce(flat)
        summed = zip(values.items(), flat.split([len(p) for p in parts]), strict=True)
        return {k: (s if k.endswith("_count") else s / self.world).reshape(v.shape) for (k, v), s in summed}

    def check_same(self, found: int, what: str) -> None:
        """Check that all processes have the same number.

        Raises:
            SsferError: they differ; names the smallest and the largest.
        """
        values = gather_object([found])
        if min(values) != max(values):
            raise SsferError(
                f"the processes of this launch disagree about {what}: {min(values)} and {max(values)}; "
                "all nodes must see the same project folder, with .scratch in it"
            )

    def wait_for_all(self) -> None:
        """Wait until every process has called this."""
        self.accelerator.wait_for_everyone()

    def release(self) -> None:
        """Drop all references to the trained networks, so that their memory can be freed."""
        self.accelerator.free_memory()
        if self.compute.compiled:
            torch.compiler.reset()

    def start_method(self) -> str | None:
        """Return how the loader's workers start; None if there are none.

        It is set explicitly because Python's default (fork, spawn or forkserver) depends on version and system.
        """
        if not self.num_workers:
            return None
        auto = "fork" if sys.platform == "linux" else "spawn"
        return auto if self.params.start_method == "auto" else self.params.start_method
