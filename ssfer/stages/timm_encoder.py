"""Stage pretrain with another network than the project's ViT.

Nothing is trained: the encoder gets the weights of a file or random ones.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import new_dir, sha256_file, write_csv
from ssfer.core.places import CURVES, ENCODER, WEIGHTS
from ssfer.core.process import rank_and_world
from ssfer.core.rng import derive
from ssfer.formats.checkpoints import Checkpoint, read_checkpoint
from ssfer.formats.metrics import write_metrics
from ssfer.formats.weights import save_weights, start_file
from ssfer.models.backbone import architecture, build_backbone, check_backbone
from ssfer.models.classifier import metadata
from ssfer.models.features import head_keys, head_name
from ssfer.models.vit import load_encoder

PRETRAIN_COLUMNS = ("epoch", "loss", "lr", "grad_norm")
COUNTER = "num_batches_tracked"  # of a batch norm; files from before PyTorch 0.4.1 have none, and nothing here reads it
OWN_KINDS = ("encoder", "classifier")  # of weights of ssfer to start from


def take_backbone(params: Params) -> dict[str, Any] | None:
    """Write data/weights/pretrain with the encoder of model.backbone; return the metrics, whose loss is NaN.

    The first of several processes writes; the others return None.

    Raises:
        SsferError: a network that a later stage could not use; a file that does not fit it.
    """
    p, model = params.pretrain, params.model
    torch.manual_seed(derive(p.seed, "init"))
    network = build_backbone(model, 2)  # the head is not kept
    check_backbone(network, model)
    seen: dict[str, Any] = dict.fromkeys(("mean", "std", "channels", "crop_recipe", "data_fingerprint"))
    meta = {**metadata("encoder", model, "", ""), **seen}
    told = f"{model.backbone} starts at random, as pretrain.init_from is null"
    if p.init_from is not None:
        path, _ = start_file(p.init_from, p.init_sha256)
        file = read_backbone(path, network, params)
        load_encoder(network, file.state, f"pretrain.init_from: {p.init_from} does not fit {model.backbone}")
        meta["init"] = {"kind": file.meta.get("kind", "state_dict"), "sha256": file.sha256}
        meta |= {name: file.meta.get(name) for name in seen}
        told = f"{model.backbone} starts from {p.init_from} (sha256 {file.sha256[:12]}), but for its head"
        if meta["mean"] != list(model.mean):
            known = f"had the mean {meta['mean']}" if meta["mean"] else "were prepared as the file does not say"
            told += f"; its pixels {known}, model.mean is {list(model.mean)}"
    if rank_and_world()[0]:
        return None
    print(f"pretrain: {told}", file=sys.stderr, flush=True)
    head = head_keys(network)
    body = {name: value for name, value in network.state_dict().items() if name not in head}
    with new_dir(WEIGHTS / "pretrain") as folder:
        save_weights(folder / ENCODER.name, body, meta)
    return write_untrained(sum(v.numel() for n, v in network.named_parameters() if n not in head))


def write_untrained(parameters: int) -> dict[str, Any]:
    """Write metrics of a run without training, whose encoder is in its place, and return them."""
    write_csv(CURVES / "pretrain.csv", [], PRETRAIN_COLUMNS)
    result = {"loss": None, "epochs": 0, "images": 0, "parameters": parameters}
    write_metrics("pretrain", result)
    return {**result, "loss": math.nan, "encoder_sha256": sha256_file(ENCODER)}


def read_backbone(path: Path, network: nn.Module, params: Params) -> Checkpoint:
    """Return a file's state dict in timm's names, without the head; missing counters of batch norms are added.

    The file is a PyTorch file of tensors or safetensors, from others or from ssfer.

    Raises:
        SsferError: see `read_checkpoint`; weights of ssfer of another kind or architecture.
    """
    own, name = network.state_dict(), params.model.backbone
    head = f"{head_name(network)}."
    mark = next(key for key in own if not key.startswith(head))
    file = read_checkpoint(path, marks=(mark,), network=name)
    for what, expected in (("kind", OWN_KINDS), ("arch", (architecture(params.model),))):
        if file.meta and (found := file.meta.get(what)) not in expected:
            raise SsferError(
                f"pretrain.init_from: {params.pretrain.init_from} holds weights of {what} {found}, expected "
                f"{' or '.join(map(str, expected))}"
            )
    counters: dict[str, Tensor] = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    for key in [key for key in file.state if key.startswith(head)]:
        del file.state[key]
    file.state.update({key: value for key, value in counters.items() if key not in file.state})
    return file
