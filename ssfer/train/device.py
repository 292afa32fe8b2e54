"""Device, precision and processes of a run. One process or many: results are the same within rounding."""

import sys
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.process import cpus_per_process, rank_and_world
from ssfer.train.settings import MachineSettings
from ssfer.train.speed import matmul_rate


class Machine:
    """What this run computes with; science does not depend on it.

    Attributes:
        rank, world: number of this process and how many there are (torchrun, accelerate launch; else 0 of 1).
        compiled: whether training goes through torch.compile.

    Raises:
        SsferError: settings that this machine cannot follow.
    """

    def __init__(self, params: MachineSettings) -> None:
        self.params = params
        if params.threads != "auto":
            torch.set_num_threads(params.threads)
        if params.device == "cuda" and not torch.cuda.is_available():
            raise SsferError("machine.device is 'cuda' but torch finds no CUDA device; set it to auto or cpu")
        on_cuda = torch.cuda.is_available() and params.device != "cpu"
        if params.precision == "bf16" and not on_cuda:
            raise SsferError("machine.precision bf16 needs CUDA: on a CPU it is hundreds of times slower than fp32")
        precision = "bf16" if on_cuda and params.precision != "fp32" else "no"
        self.accelerator = Accelerator(cpu=not on_cuda, mixed_precision=precision)
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if (self.rank, self.world) != rank_and_world():
            raise SsferError("RANK and WORLD_SIZE do not describe this launch; start several processes with torchrun")
        self.compiled = on_cuda if params.compile == "auto" else params.compile
        # On a CPU the training threads already use every core, so the loader stays in the process.
        auto = min(8, cpus_per_process()) if on_cuda else 0
        self.num_workers = auto if params.num_workers == "auto" else params.num_workers

    def matmul_rate(self) -> float:
        """Return the floating-point operations a second of matrix products on all devices together, measured on one."""
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        return self.world * matmul_rate(self.device, dtype)

    def total(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one step's figures over all processes: `*_count` summed, others averaged.

        One small collective; on a GPU nothing waits for it.
        """
        if self.world == 1:
            return dict(values)
        parts = [v.detach().to(self.device, torch.float64, non_blocking=True).reshape(-1) for v in values.values()]
        flat = torch.cat(parts)
        torch.distributed.all_reduce(flat)
        summed = zip(values.items(), flat.split([len(p) for p in parts]), strict=True)
        return {k: (s if k.endswith("_count") else s / self.world).reshape(v.shape) for (k, v), s in summed}

    def check_same(self, found: int, what: str) -> None:
        """Refuse to go on when processes disagree about a number.

        Raises:
            SsferError: names both extremes.
        """
        values = gather_object([found])
        if min(values) != max(values):
            raise SsferError(
                f"the processes of this launch disagree about {what}: {min(values)} and {max(values)}; "
                "all nodes must see the same project folder, with .scratch in it"
            )

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        self.accelerator.wait_for_everyone()

    def release(self) -> None:
        """Forget the networks that were trained, so that their memory is free once nobody else holds them."""
        self.accelerator.free_memory()
        if self.compiled:
            torch.compiler.reset()

    def start_method(self) -> str | None:
        """Return how the loader's workers start; None where there are none.

        Python's default changes with its version and system: fork, spawn or forkserver.
        """
        if not self.num_workers:
            return None
        auto = "fork" if sys.platform == "linux" else "spawn"
        return auto if self.params.start_method == "auto" else self.params.start_method
