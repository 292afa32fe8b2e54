"""Stage pretrain: a masked autoencoder on the unlabeled corpus (SSFER specification, section 6)."""

import sys
from functools import partial
from typing import Any

import torch

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core.files import new_dir, sha256_file, write_bytes, write_csv
from ssfer.core.places import CORPUS, CURVES, ENCODER, WEIGHTS
from ssfer.core.progress import Cost
from ssfer.core.rng import derive
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.flops import mae_flops
from ssfer.evaluation.reconstruction import SHOWN, reconstruction_png
from ssfer.formats.manifest import fingerprint, read_manifest
from ssfer.formats.metrics import write_metrics
from ssfer.formats.weights import save_weights
from ssfer.methods.mae import MAE
from ssfer.models.classifier import metadata
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.settings import OWN_BACKBONE
from ssfer.models.vit import build_mae, encoder_state
from ssfer.stages.common import crop_recipe, curve_rows
from ssfer.stages.init_from import Start, decoder_arch, load_start, read_start
from ssfer.stages.timm_encoder import PRETRAIN_COLUMNS, take_backbone, write_untrained
from ssfer.stages.watch import Watch
from ssfer.tracking.tracker import Tracker
from ssfer.train.checkpoints import Scratch
from ssfer.train.device import Machine
from ssfer.train.loop import fit
from ssfer.train.optim import adamw, mae_lr, param_groups
from ssfer.train.plan import Callbacks, TrainingPlan


def run_pretrain(params: Params) -> dict[str, Any] | None:
    """Train, then write data/weights/pretrain, metrics/pretrain.json and the curve; return the metrics.

    The first of several processes writes; the others return None. With pretrain.epochs 0 nothing is trained: the
    weights of pretrain.init_from are used as they are, and the returned loss is NaN. This is always so for backbones
    other than the project's own ViT (`take_backbone`).
    """
    if params.model.backbone != OWN_BACKBONE:
        return take_backbone(params)
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
    epochs = p.stop_at or p.epochs
    batches = StepBatches([stream], epochs, machine.rank, machine.world)
    watch = Watch(params, dataset, machine)
    inputs = {"corpus": data_print, "crops": dataset.digest(), "init": start.sha256 if start else None}
    with (
        Scratch("pretrain", {**identity("pretrain", params), "inputs": inputs}) as scratch,
        Tracker("pretrain", params, data_print) as tracker,
    ):
        checkpoints = scratch.checkpoints("mae")
        if machine.rank == 0 and checkpoints.newest() == "none":
            watch.clear()
        plan = TrainingPlan(
            method,
            optimizer,
            batches,
            lr_at,
            seed=p.seed,
            mean=params.model.mean,
            std=params.model.std,
            label="pretrain",
            cost=Cost(mae_flops(params.model, p), machine.matmul_rate()),
        )
        run = fit(plan, machine, checkpoints, Callbacks(watch=watch, tracker=tracker))
        if machine.rank:
            return None
        meta = metadata("mae", params.model, data_print, crop_recipe([CORPUS]))
        _write(mae, meta | ({"init": start.origin()} if start else {}), dataset, params)
        write_csv(CURVES / "pretrain.csv", curve_rows(run.history, PRETRAIN_COLUMNS))
        result = {
            "loss": round(run.history[-1]["loss"], 6),
            "epochs": epochs,
            "images": len(dataset),
            "parameters": sum(v.numel() for v in mae.parameters()),
        }
        write_metrics("pretrain", result)
        tracker.log_metrics({**result, "steps": run.step})
        tracker.log_file(CURVES / "pretrain.csv")
        scratch.discard()
    return {**result, "encoder_sha256": sha256_file(ENCODER)}


def _take_over(params: Params, mae: MaskedAutoencoder, start: Start, dataset: FaceDataset) -> dict[str, Any]:
    """Write the stage's outputs with unchanged weights; their metadata still describes their own training."""
    meta = {**metadata("mae", params.model, "", ""), "init": start.origin()}
    meta |= {name: start.meta.get(name) for name in ("mean", "std", "channels", "crop_recipe", "data_fingerprint")}
    _write(mae, meta, dataset, params, start.has_decoder)
    return write_untrained(sum(v.numel() for v in mae.parameters()))


def _write(
    mae: MaskedAutoencoder, meta: dict[str, Any], dataset: FaceDataset, params: Params, whole: bool = True
) -> None:
    """Write the encoder and, if `whole`, the MAE with its decoder and a picture of some reconstructions."""
    p = params.pretrain
    with new_dir(WEIGHTS / "pretrain") as folder:
        if whole:
            save_weights(folder / "mae.safetensors", mae.state_dict(), {**meta, "decoder": decoder_arch(p)})
            shown = [dataset.image(i) for i in range(min(SHOWN, len(dataset)))]
            write_bytes(folder / "reconstruction.png", reconstruction_png(mae, shown, params.model, p.mask_ratio))
        save_weights(folder / ENCODER.name, encoder_state(mae.state_dict()), {**meta, "kind": "encoder"})


def _per_epoch(lr_at: Any) -> Any:
    return lambda epoch: lr_at(float(int(epoch)))
