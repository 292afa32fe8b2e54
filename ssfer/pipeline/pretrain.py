"""Stage pretrain: a masked autoencoder on the unlabelled corpus (SSFER specification, section 6)."""

from __future__ import annotations

import io
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssfer.checkpoint import Scratch
from ssfer.data.dataset import FaceDataset, Sample, StepBatches, Stream
from ssfer.data.transforms import Eval, Weak, denormalize, normalize
from ssfer.engine import Schedule, fit
from ssfer.machine import Machine
from ssfer.manifest import fingerprint, read_manifest
from ssfer.methods.mae import MAE
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.vit import build_mae, encoder_state
from ssfer.optim import adamw, mae_lr, param_groups
from ssfer.params import Params
from ssfer.pipeline.common import CORPUS, CURVES, METRICS, WEIGHTS, crop_recipe, curve_rows, metadata
from ssfer.pipeline.init_from import Start, decoder_arch, load_start, read_start
from ssfer.rng import counter_uniform, derive
from ssfer.runtime import replace_dir, sha256_file, temp_dir_for, write_bytes, write_csv, write_json
from ssfer.tracking import Tracker
from ssfer.training_params import ModelParams
from ssfer.weights import save_weights

COLUMNS = ("epoch", "loss", "lr", "grad_norm")
SHOWN = 8  # faces in the reconstruction picture


def run_pretrain(params: Params) -> dict[str, Any] | None:
    """Train, then write data/weights/pretrain, metrics/pretrain.json and the curve; return the metrics.

    Of several processes the first writes; the others return None. With pretrain.epochs 0 nothing is trained: the
    weights of pretrain.init_from are taken over, and the returned loss is not a number.
    """
    start = read_start(params)
    p, machine = params.pretrain, Machine(params.machine)
    data_print = fingerprint(read_manifest(CORPUS))
    dataset = FaceDataset([CORPUS], cache_gib=params.machine.cache_gib)
    stream = Stream(
        "ulb", dataset, p.batch_size, {"w": Weak(params.model.img_size, p.min_scale)}, derive(p.seed, "ulb")
    )
    torch.manual_seed(derive(p.seed, "init"))
    mae = build_mae(params.model, p)
    if start is not None:
        load_start(mae, start)
        if machine.rank == 0:
            print(f"pretrain: {start.describe(params.model)}", file=sys.stderr, flush=True)
        if p.epochs == 0:
            return None if machine.rank else _take_over(params, mae, start, dataset)
    method = MAE(mae, p.mask_ratio)
    optimizer = adamw(param_groups(mae, p.weight_decay, p.decay_all), p.lr)
    lr_at = partial(mae_lr, lr=p.lr, epochs=p.epochs, warmup_epochs=p.warmup_epochs, schedule=p.schedule)
    if p.schedule == "authors_min":
        lr_at = _per_epoch(lr_at)
    batches = StepBatches([stream], p.epochs, machine.rank, machine.world)
    identity = {"pretrain": p.model_dump(), "model": params.model.model_dump(), "corpus": data_print}
    if start is not None:
        identity["init"] = start.sha256
    with Scratch("pretrain", identity) as scratch, Tracker("pretrain", params, data_print) as tracker:
        run = fit(
            method,
            optimizer,
            batches,
            Schedule(lr_at),
            machine=machine,
            model=params.model,
            seed=p.seed,
            checkpoints=scratch.checkpoints("mae"),
            label="pretrain",
            tracker=tracker,
        )
        if machine.rank:
            return None
        folder = temp_dir_for(WEIGHTS / "pretrain")
        meta = metadata("mae", params.model, data_print, crop_recipe([CORPUS]))
        if start is not None:
            meta["init"] = start.origin()
        _write_whole(folder, mae, meta, dataset, params)
        save_weights(folder / "encoder.safetensors", encoder_state(mae.state_dict()), {**meta, "kind": "encoder"})
        weights = sha256_file(folder / "encoder.safetensors")
        replace_dir(folder, WEIGHTS / "pretrain")
        write_csv(CURVES / "pretrain.csv", curve_rows(run.history, COLUMNS))
        result = {
            "loss": round(run.history[-1]["loss"], 6),
            "epochs": p.epochs,
            "images": len(dataset),
            "parameters": sum(v.numel() for v in mae.parameters()),
        }
        write_json(METRICS / "pretrain.json", {"pretrain": result})
        tracker.log_metrics({**result, "steps": run.step})
        tracker.log_file(CURVES / "pretrain.csv")
        scratch.discard()
    return {**result, "encoder_sha256": weights}


def _take_over(params: Params, mae: MaskedAutoencoder, start: Start, dataset: FaceDataset) -> dict[str, Any]:
    """Write the stage's outputs from weights that stay as they are; their metadata keeps saying how they came about."""
    folder = temp_dir_for(WEIGHTS / "pretrain")
    meta = {**metadata("mae", params.model, "", ""), "init": start.origin()}
    meta |= {name: start.meta.get(name) for name in ("mean", "std", "channels", "crop_recipe", "data_fingerprint")}
    if start.has_decoder:
        _write_whole(folder, mae, meta, dataset, params)
    save_weights(folder / "encoder.safetensors", encoder_state(mae.state_dict()), {**meta, "kind": "encoder"})
    weights = sha256_file(folder / "encoder.safetensors")
    replace_dir(folder, WEIGHTS / "pretrain")
    write_csv(CURVES / "pretrain.csv", [], COLUMNS)
    result = {"loss": None, "epochs": 0, "images": 0, "parameters": sum(v.numel() for v in mae.parameters())}
    write_json(METRICS / "pretrain.json", {"pretrain": result})
    return {**result, "loss": math.nan, "encoder_sha256": weights}


def _write_whole(
    folder: Path, mae: MaskedAutoencoder, meta: dict[str, Any], dataset: FaceDataset, params: Params
) -> None:
    """Write the MAE with its decoder, and what it makes of some faces."""
    p = params.pretrain
    save_weights(folder / "mae.safetensors", mae.state_dict(), {**meta, "decoder": decoder_arch(p)})
    shown = [dataset[i] for i in range(min(SHOWN, len(dataset)))]
    write_bytes(folder / "reconstruction.png", reconstruction_png(mae, shown, params.model, p.mask_ratio))


def _per_epoch(lr_at: Any) -> Any:
    return lambda epoch: lr_at(float(int(epoch)))


@torch.inference_mode()
def reconstruction_png(mae: MaskedAutoencoder, samples: list[Sample], model: ModelParams, mask_ratio: float) -> bytes:
    """Return a PNG of three rows: what the encoder saw, what the decoder made of it, the original.

    With normalised-pixel targets a prediction is a standardised patch; it is brought back with the mean and deviation
    of the true patch (otherwise it would look like noise), and visible patches are shown as they are.
    """
    mae.eval()
    images = torch.stack([Eval(model.img_size)(s.image, s.box, 0).image for s in samples])
    x = normalize(images, model.mean, model.std).to(mae.cls_token.device)
    noise = counter_uniform(torch.arange(len(x)), mae.patch_embed.num_patches).to(x.device)
    out = mae(x, mask_ratio, noise)
    patches, pred = mae.patchify(x), out.pred.float()
    if mae.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        pred = pred * (variance + 1e-6).sqrt() + mean
    mask = out.mask[:, :, None]
    rows = [patches * (1 - mask), patches * (1 - mask) + pred * mask, patches]
    return _grid_png([denormalize(mae.unpatchify(r), model.mean, model.std) for r in rows])


def _grid_png(rows: list[Tensor], side: int = 96) -> bytes:
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (3, rows * S, n * S)
    array = (grid * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array)
    zoom = max(1, side // rows[0].shape[-1])
    buffer = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
