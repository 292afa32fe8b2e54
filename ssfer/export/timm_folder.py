"""Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`: plain classifiers, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from ssfer.core.errors import SsferError
from ssfer.core.files import new_dir
from ssfer.export.network import TOLERANCE, Exportable, public
from ssfer.models.classifier import EXTENSIONS
from ssfer.models.settings import OWN_BACKBONE

OWN_ARCHITECTURE = "vit_tiny_patch16_224"  # any ViT of timm: our sizes replace all of its own


def timm_folder(exportable: Exportable, out: Path) -> float:
    """Write the folder; return the largest difference in logits between the classifier and what timm loads.

    Label names and preprocessing are in timm's config; the temperature, which timm does not support, is with the other
    metadata under "ssfer" in config.json.

    Raises:
        SsferError: the classifier has a part that timm does not have, or the logits differ.
    """
    network, meta = exportable.module.network, exportable.meta
    if any(extension.describe(network) for extension in EXTENSIONS):
        raise SsferError(
            f"{exportable.source} holds a {type(network).__name__} with a head of ssfer's own, which timm cannot load; "
            "expected a plain classifier; export it with --to onnx or --to torch"
        )
    plain, arguments = timm_model(network, meta)
    data = {"mean": tuple(meta["mean"]), "std": tuple(meta["std"]), "input_size": (3, exportable.size, exportable.size)}
    with new_dir(out) as folder:
        save_for_hf(
            plain,
            str(folder),
            model_config={"label_names": meta["classes"], "ssfer": public(meta)},
            model_args=arguments,
            safe_serialization=True,
            data_config={**data, "crop_pct": 1.0, "interpolation": "bilinear"},
        )
        found = _deviation(network, timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), exportable.size)
        if not found <= TOLERANCE:
            raise SsferError(
                f"timm loads {exportable.source} as another network: expected logits equal within {TOLERANCE:g}, found "
                f"a difference of {found:g}; please report it with the output of ssfer weights show"
            )
    return found


def timm_model(network: nn.Module, meta: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network of timm's factory with the same weights, and the factory's arguments."""
    arch = dict(meta["arch"])
    name = arch.pop("backbone", OWN_BACKBONE)
    if name != OWN_BACKBONE:
        if not hasattr(network, "pretrained_cfg"):
            raise SsferError(
                f"timm has no {name}, which is not one of its networks; export it with --to onnx or --to torch"
            )
        return network, {}
    made = timm.create_model(OWN_ARCHITECTURE, pretrained=False, num_classes=len(meta["classes"]), **arch)
    made.load_state_dict(network.state_dict())
    return made.eval(), arch


@torch.inference_mode()
def _deviation(network: nn.Module, other: nn.Module, size: int) -> float:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    return float((network(images) - other(images)).abs().max())
