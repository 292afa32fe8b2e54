"""Size and speed of the classifier: parameters, multiply-accumulates, latency (SSFER, table 6).

There are two counts, because the paper's is not the usual one (specification, section 12): its counter skips parameters
that belong to no layer (class token, position table) and the two products inside attention, and calls
multiply-accumulates "FLOPs". The complete count includes all of these; a multiply-accumulate is two FLOPs.
"""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssfer.core.errors import unknown_name
from ssfer.evaluation.flops import forward_flops_by_kind
from ssfer.models.backbone import build_backbone, params_of
from ssfer.models.settings import ModelSettings
from ssfer.models.vit_sizes import VIT_SIZES
from ssfer.train.speed import finish


@dataclass(frozen=True)
class Complexity:
    """Size of the classifier and its cost per image. MACs are multiply-accumulates; a MAC is two FLOPs.

    Attributes:
        params, macs: all.
        paper_params, paper_macs: those of layers only, as the paper's counter has them.
    """

    params: int
    paper_params: int
    macs: int
    paper_macs: int


@dataclass(frozen=True)
class Latency:
    """Times of whole batches, in milliseconds; the rate is that of the median."""

    batch: int
    repeats: int
    median_ms: float
    p95_ms: float
    images_per_second: float


def variant_params(name: str) -> ModelSettings:
    """Return the network of a variant of the paper.

    Raises:
        SsferError: unknown name.
    """
    if name not in VIT_SIZES:
        raise unknown_name("variant", name, VIT_SIZES)
    return params_of({"img_size": 224, "patch_size": 16, **VIT_SIZES[name]._asdict()})


def complexity(model: ModelSettings, num_classes: int) -> Complexity:
    """Count parameters and multiply-accumulates of one image; nothing is computed (torch's "meta" device)."""
    with torch.device("meta"):
        network = build_backbone(model, num_classes).eval()
        images = torch.empty(1, 3, model.img_size, model.img_size)
    flops = forward_flops_by_kind(network, images)
    params = sum(p.numel() for p in network.parameters())
    layers, attention = round(flops.layers) // 2, round(flops.attention) // 2
    return Complexity(params, params - _bare_parameters(network), layers + attention, layers)


def _bare_parameters(network: nn.Module) -> int:
    """Return the number of parameters that belong directly to a module with submodules, not to a layer."""
    owners = [module for module in network.modules() if next(module.children(), None) is not None]
    return sum(p.numel() for owner in owners for p in owner.parameters(recurse=False))


@torch.inference_mode()
def measure(network: nn.Module, images: Tensor, *, seconds: float = 3.0, repeats: int = 30, warmup: int = 5) -> Latency:
    """Time forward passes of `images` (B, 3, S, S), after `warmup` of them, until both limits are reached.

    Args:
        network: in eval mode, on the images' device.
        images: the batch.
        seconds: shortest total time of the measured passes.
        repeats: smallest number of measured passes.
        warmup: passes before the measurement.
    """
    device = images.device
    times: list[float] = []
    for _ in range(warmup):
        network(images)
    while len(times) < repeats or sum(times) < seconds:
        finish(device)
        started = time.perf_counter()
        network(images)
        finish(device)
        times.append(time.perf_counter() - started)
    return summarize_times(times, len(images))


def summarize_times(seconds: Sequence[float], batch: int) -> Latency:
    """Return median and 95th percentile (linear between neighbors) of batch times, and images a second."""
    median, p95 = np.percentile(np.asarray(seconds, dtype=np.float64), [50, 95])
    return Latency(batch, len(seconds), 1000 * float(median), 1000 * float(p95), batch / float(median))


def device_name(device: torch.device) -> str:
    """Return the device's model name for a table of latencies; for a CPU also the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
