"""Look inside a prediction: the network's features of a face, and its Grad-CAM map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.images import data_uri, encode_jpeg
from ssfer.evaluation.attack.gradcam import grad_cam
from ssfer.models.classifier import body_of
from ssfer.models.features import features as network_features
from ssfer.predict.runtimes.base import Runtime
from ssfer.predict.runtimes.torch import TorchRuntime
from ssfer.predict.show import bars_html
from ssfer.predict.table import Row

KEYS = ("input", "frame", "time", "track", "face", "status")
Seen = tuple[list[Row], NDArray[np.uint8]]  # the rows of a frame, and its faces' views (N, S, S, 3)
_SHOWN, _SHARE, _QUALITY = 176, 0.45, 90  # overlays: least side in pixels, share of the map's colors, JPEG quality


@dataclass(frozen=True)
class Explanation:
    """Why the network predicts the expression of one face.

    Attributes:
        row: of the face, as in the table.
        view: (S, S, 3), uint8, the crop as the network sees it.
        heat: (S, S) in 0..1, Grad-CAM map of the most probable class.
    """

    row: Row
    view: NDArray[np.uint8]
    heat: NDArray[np.float32]

    def overlay(self) -> Image.Image:
        """Return the view blended with the map's colors."""
        return Image.fromarray(overlaid(self.view, self.heat))

    def _repr_html_(self) -> str:
        both = [encode_jpeg(picture, _QUALITY) for picture in (Image.fromarray(self.view), self.overlay())]
        shown = "".join(f'<img src="{data_uri(jpeg)}" width="160" alt="">' for jpeg in both)
        bars = bars_html({name[2:]: value for name, value in self.row.items() if name.startswith("p_")})
        return f"<div>{shown}</div>{bars}"


def features(runtime: Runtime, found: Iterable[Seen]) -> pd.DataFrame:
    """Return a table with the features of faces; see `Recognizer.features`."""
    torch_runtime, blocks = _torch(runtime), []
    for rows, views in found:
        block = pd.DataFrame([{key: row.get(key) for key in KEYS} for row in rows])
        if len(views):
            with torch.inference_mode():
                out = network_features(body_of(torch_runtime.network), torch_runtime.inputs(views))
            values = out.float().cpu().numpy()
            names = [f"f{i}" for i in range(values.shape[1])]
            block = pd.concat([block, pd.DataFrame(values, columns=names)], axis=1)
        blocks.append(block)
    return pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=list(KEYS))


def explain(runtime: Runtime, found: Iterable[Seen]) -> list[Explanation]:
    """Return an explanation per face; see `Recognizer.explain`."""
    _torch(runtime)
    explanations = []
    for rows, views in found:
        if len(views):
            maps = heat_maps(runtime, views)
            explanations += [Explanation(*one) for one in zip(rows, views, maps, strict=True)]
    return explanations


def heat_maps(runtime: Runtime, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Grad-CAM maps (N, S, S) in 0..1 of the most probable classes of views (N, S, S, 3).

    Raises:
        SsferError: the runtime is not torch.
    """
    network, meta = _torch(runtime).network, runtime.meta
    images = torch.from_numpy(views).permute(0, 3, 1, 2).to(runtime.device) / 255
    maps: NDArray[np.float32] = grad_cam(network, images, tuple(meta["mean"]), tuple(meta["std"])).cpu().numpy()
    return maps


def overlaid(view: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a view (S, S, 3) blended with the colors of a map (S, S) in 0..1, uint8, at least _SHOWN pixels wide."""
    side = max(_SHOWN, view.shape[0])
    large, weight = (cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR) for part in (view, heat))
    colors = cv2.applyColorMap(np.round(255 * weight.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    mixed: NDArray[np.uint8] = np.round((1 - _SHARE) * large + _SHARE * colors).astype(np.uint8)
    return mixed


def _torch(runtime: Runtime) -> TorchRuntime:
    if not isinstance(runtime, TorchRuntime):
        raise SsferError("features and explain look inside the network; load the weights with runtime='torch'")
    return runtime
