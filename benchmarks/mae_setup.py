"""Shared by the benchmarks of MAE pretraining: networks, options, the two training steps, tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_mae import PlainMae, plain_adamw
from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.process import available_cpus
from ssfer.evaluation.flops import mae_flops
from ssfer.methods.mae import MAE
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_mae
from ssfer.train.device import Machine
from ssfer.train.optim import adamw, param_groups
from ssfer.train.settings import MachineSettings, PretrainSettings

ROOT = Path(__file__).resolve().parents[1]
PATCH = 16
# (dimension, depth, heads) of encoder and decoder: SSFER specification, sections 5 and 6; large: He et al. 2022.
SIZES = {
    "tiny": ((192, 12, 12), (96, 1, 3)),
    "small": ((384, 12, 12), (192, 1, 6)),
    "base": ((768, 12, 12), (512, 8, 16)),
    "large": ((1024, 24, 16), (512, 8, 16)),
}
PEAK_TFLOPS = 790.0  # dense bf16 products of an H200, as measured by others
LR, WEIGHT_DECAY = 1e-4, 0.05  # speed does not depend on them
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Setup:
    """A network, its training settings and the machine's."""

    name: str
    model: ModelSettings
    pretrain: PretrainSettings
    machine: MachineSettings
    batch: int

    @cached_property
    def flops(self) -> float:
        """Return the floating-point operations per image, forward and backward."""
        return mae_flops(self.model, self.pretrain)

    @property
    def layer_flops(self) -> float:
        """Return `flops` without attention's two products of activations, so only those of layers with weights.

        The products take 4 N^2 D operations forward for N tokens of dimension D, and twice that backward, per block.
        """
        m, p = self.model, self.pretrain
        patches = (m.img_size // m.patch_size) ** 2
        seen = int(patches * (1 - p.mask_ratio) + 1e-6) + 1
        encoder = m.depth * m.embed_dim * seen**2
        decoder = p.decoder_depth * p.decoder_embed_dim * (patches + 1) ** 2
        return self.flops - 12 * (encoder + decoder)


def add_options(parser: argparse.ArgumentParser, batch: int) -> None:
    """Add the options that choose network, batch and machine."""
    parser.add_argument("--model", choices=list(SIZES), default="base", help="ViT size, patch 16 (default base)")
    parser.add_argument("--size", type=int, default=224, help="image side in pixels (default 224)")
    parser.add_argument("--batch", type=int, default=batch, help=f"images a step (default {batch})")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 on CUDA")
    parser.add_argument("--compile", choices=["auto", "true", "false"], default="auto", help="auto: on CUDA")
    parser.add_argument("--threads", type=int, help="of torch on a CPU (default: all)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def read_options(args: argparse.Namespace, **machine: Any) -> Setup:
    """Return the setup that the options of `add_options` choose; `machine` overrides settings of that section.

    Raises:
        SsferError: a size that is not a multiple of the patch size, or an empty batch.
    """
    if args.size % PATCH or args.size <= PATCH:
        raise SsferError(f"expected a --size of several patches of {PATCH} pixels, e.g. 224, found {args.size}")
    if args.batch < 1:
        raise SsferError(f"expected a --batch of at least 1 image, found {args.batch}")
    params = load_params(ROOT / "params.yaml")
    (dim, depth, heads), (decoder_dim, decoder_depth, decoder_heads) = SIZES[args.model]
    model = {"img_size": args.size, "patch_size": PATCH, "embed_dim": dim, "depth": depth, "num_heads": heads}
    pretrain = {
        "decoder_embed_dim": decoder_dim, "decoder_depth": decoder_depth, "decoder_num_heads": decoder_heads,
        "mask_ratio": 0.75, "norm_pix_loss": True, "min_scale": 0.2, "batch_size": args.batch,
    }  # fmt: skip
    own = {
        "device": args.device, "precision": args.precision, "threads": args.threads or "auto",
        "compile": {"true": True, "false": False}.get(args.compile, args.compile),
        "max_batch": None, "num_workers": 0, "cache_gib": 0.0, "checkpoint_minutes": 1e6,
    }  # fmt: skip
    return Setup(
        f"ViT-{args.model}/{PATCH} at {args.size} px",
        ModelSettings.model_validate({**params.model.model_dump(), **model}),
        PretrainSettings.model_validate({**params.pretrain.model_dump(), **pretrain}),
        MachineSettings.model_validate({**params.machine.model_dump(), **own, **machine}),
        args.batch,
    )


def build_ours(setup: Setup) -> tuple[MAE, torch.optim.Optimizer]:
    """Return the method and the optimizer of stage `pretrain`."""
    torch.manual_seed(0)
    method = MAE(build_mae(setup.model, setup.pretrain), setup.pretrain.mask_ratio)
    return method, adamw(param_groups(method, WEIGHT_DECAY), LR)


def our_step(setup: Setup, machine: Machine) -> Step:
    """Return a training step of stage `pretrain` on noise images, as in `ssfer.train.loop`."""
    from ssfer.train.distributed import Trained

    method, optimizer = build_ours(setup)
    trained = Trained(method, optimizer, machine)
    trained.module.train()
    share = setup.batch // machine.world
    keys = torch.arange(share, device=machine.device) + share * machine.rank
    batch = {"x_ulb_w": _images(setup, machine, share), "key_ulb": keys}

    def step() -> Tensor:
        out = trained.gradients(batch, 1.0, last=True)
        norm = trained.grad_norm()
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        return machine.total({"loss": out["loss"], "grad_norm": norm})["loss"]

    return step


def plain_step(setup: Setup, machine: Machine) -> Step:
    """Return the same step in plain PyTorch; it computes the gradient's norm, as the official script does."""
    net = PlainMae(setup.model, setup.pretrain)
    net.load_state_dict(build_ours(setup)[0].student.state_dict())
    net.to(machine.device)
    optimizer = plain_adamw(param_groups(net, WEIGHT_DECAY), LR)
    trainable = [p for p in net.parameters() if p.requires_grad]
    images = _images(setup, machine, setup.batch)

    def step() -> Tensor:
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=in_bf16(machine)):
            loss = net(images, setup.pretrain.mask_ratio)
        loss.backward()
        torch.stack([p.grad.norm() for p in trainable if p.grad is not None]).norm()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _images(setup: Setup, machine: Machine, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(machine.rank)
    side = setup.model.img_size
    return torch.randn(count, 3, side, side, generator=generator).to(machine.device)


def in_bf16(machine: Machine) -> bool:
    """Return whether matrix products are computed in bfloat16."""
    return machine.compute.precision == "bf16"


def hardware(machine: Machine) -> str:
    """Return a description of device and precision."""
    precision = "bf16" if in_bf16(machine) else "float32"
    if machine.device.type == "cuda":
        return f"{torch.cuda.get_device_name(machine.device)}, {precision}"
    return f"CPU, {torch.get_num_threads()} threads on {available_cpus()} cores, {precision}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


def write_figures(path: Path | None, setup: Setup, machine_name: str, figures: Mapping[str, Any]) -> None:
    """Write results with network, batch size, hardware and torch version as JSON."""
    about = {"network": setup.name, "batch": setup.batch, "hardware": machine_name, "torch": torch.__version__}
    if path is not None:
        write_json(path, {**about, **figures})


def read_figures(path: Path) -> dict[str, Any]:
    """Return what `write_figures` wrote.

    Raises:
        SsferError: no such file, or not one of these.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SsferError(f"expected figures written by --json of a benchmark in {path}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("images_per_second"), (int, float)):
        raise SsferError(f"{path} has no images_per_second; expected a file written by --json of a benchmark")
    return found
