"""RetinaFace (Deng et al. 2019, arXiv 1905.00641), batched.

Network, priors and decoding are those of retinaface-pytorch 0.0.8, and with the same weights `detect_as_library`
returns the same boxes, scores and landmarks. But pictures of equal size go through the network together, priors are
made once per size, and only anchors above the minimum score are decoded.

`detect` differs from the library only in the mapping back to the picture. The library multiplies both axes by the
height's factor, although width and height are rounded separately when the picture is resized: an error of up to 0.2% of
the width for common shapes, which is several percent of an eye distance. And its x counts from the picture's edge,
because training mirrored pictures with x -> width - x (measured: x of points and mirrored points add up to the width),
whereas the manifest's landmarks count from the center of the first pixel. y was never mirrored and needs no shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torchvision.ops import nms

from ssfer.core.device import exact_float32
from ssfer.core.files import project_root
from ssfer.core.settings import Section
from ssfer.faces.detectors.base import Detection, Detector

# The networks' anchors (pixels) and strides, and the scale of their offsets; fixed by the training, so not settings.
_STEPS, _SIZES, _VARIANCES = (8, 16, 32), ((16, 32), (64, 128), (256, 512)), (0.1, 0.2)
_FIRST_CENTER = np.array([0.5, 0.0], np.float32)  # of landmarks; see the module docstring
# Pixels in a batch. On a CPU the activations of larger batches do not fit into the cache (measured: 10% slower from 2
# million pixels on).
_CPU_PIXELS, _CUDA_PIXELS = 600_000, 16_000_000


class RetinaFaceDetector(Detector):
    """RetinaFace by retinaface-pytorch. Results depend on the picture only, up to float rounding in the batch."""

    title = "retinaface"
    has_min_face = True
    paper = "Deng et al. 2019, arXiv 1905.00641"

    class Settings(Section):
        """Weights and resolution.

        Faces of at least 16 px are found, so with the default `max_side` those of at least 1/16 of the picture; time
        grows with its square.
        """

        weights: str | None = Field(None, description="File; null: where `ssfer fetch retinaface` puts it.")
        max_side: Annotated[int, Field(ge=64, le=8192)] = Field(
            256, description="Pictures are resized to this longer side for detection, as in the library."
        )

    def __init__(self, settings: Settings, device: str = "cpu", min_score: float = 0.3, nms_iou: float = 0.4) -> None:
        """Load the network.

        Args:
            settings: see `Settings`.
            device: of torch.
            min_score: faces with a lower score are not reported.
            nms_iou: of two boxes with a larger IoU, the one with the lower score is dropped.

        Raises:
            SsferError: weights are missing or not RetinaFace's.
        """
        # Imported here and below because the library is slow to import.
        from ssfer.faces.detectors.retinaface_network import PREPROCESS, RESNET50, build_network
        from ssfer.faces.detectors.retinaface_weights import read_weights

        found = read_weights(self.files(settings)[0])
        # The backbone is part of the name: crops aligned with different backbones are different recipes.
        self.name = "retinaface" if found.backbone == RESNET50 else f"retinaface-{found.backbone}"
        self._device, self._max_side = torch.device(device), settings.max_side
        self._min_score, self._nms_iou = min_score, nms_iou
        self.batch_pixels = _CUDA_PIXELS if self._device.type == "cuda" else _CPU_PIXELS
        self._net = build_network(found.state, found.backbone, found.preprocess).to(self._device)
        mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in PREPROCESS[found.preprocess])
        self._mean, self._inverse_std = mean, 1 / std

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See `Detector.check`: the weights exist."""
        from ssfer.faces.detectors.retinaface_weights import check_is_file

        check_is_file(cls.files(settings)[0])

    @classmethod
    def files(cls, settings: Settings) -> list[Path]:
        """See `Detector.files`: the weights."""
        from ssfer.faces.detectors.retinaface_weights import default_path

        return [project_root() / settings.weights if settings.weights else default_path()]

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return the faces of each RGB image, best score first; boxes are clipped to the image."""
        return [
            _to_image(found, (image.width / view[1], image.height / view[0]), image.size)
            for image, (found, view) in zip(images, self._detect(images), strict=True)
        ]

    def detect_as_library(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return the result of the library's `predict_jsons` before rounding; boxes may extend beyond the image."""
        return [
            _scaled(found, (image.height / view[0],) * 2)
            for image, (found, view) in zip(images, self._detect(images), strict=True)
        ]

    def _detect(self, images: Sequence[Image.Image]) -> list[tuple[Detection, tuple[int, int]]]:
        """Return for each image the faces in its resized version, in its pixels, and its (height, width)."""
        smallest = _SIZES[0][0]
        max_side = max(self._max_side, round(smallest / self.min_face)) if self.min_face else self._max_side
        views = [_view(image, max_side) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, view in enumerate(views):
            groups.setdefault((view.shape[0], view.shape[1]), []).append(i)
        results = [(Detection(), (1, 1))] * len(images)
        for size, members in groups.items():
            step = max(1, self.batch_pixels // (size[0] * size[1]))
            for start in range(0, len(members), step):
                batch = members[start : start + step]
                for i, found in zip(batch, self._run(np.stack([views[i] for i in batch])), strict=True):
                    results[i] = found, size
        return results

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray) -> list[Detection]:
        """Detect on pictures of one size, RGB bytes (B, H, W, 3)."""
        from retinaface.box_utils import decode, decode_landm

        height, width = pixels.shape[1:3]
        offsets, classes, points = self.forward(torch.from_numpy(pixels))
        scores = classes.softmax(dim=-1)[..., 1]
        picture, anchor = torch.nonzero(scores > self._min_score, as_tuple=True)
        # Few anchors are left, for which the CPU is faster.
        score, offset, point = (t[picture, anchor].cpu() for t in (scores, offsets, points))
        picture, prior, size = picture.cpu(), priors(height, width)[anchor.cpu()], torch.tensor([width, height])
        boxes = decode(offset, prior, _VARIANCES) * size.repeat(2)
        landmarks = decode_landm(point, prior, _VARIANCES) * size.repeat(5)
        usable = torch.isfinite(boxes).all(dim=1) & torch.isfinite(landmarks).all(dim=1)
        found = []
        for i in range(len(pixels)):
            mine = torch.nonzero(usable & (picture == i))[:, 0]
            mine = mine[nms(boxes[mine], score[mine], self._nms_iou)]  # best score first
            found.append(Detection(boxes[mine].numpy(), landmarks[mine].view(-1, 5, 2).numpy(), score[mine].numpy()))
        return found

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return box offsets, class scores and landmark offsets, float32, of RGB bytes (B, H, W, 3)."""
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        # Seen as (B, 3, H, W) these bytes already have the channels innermost.
        inputs = (pixels.permute(0, 3, 1, 2).float() - self._mean) * self._inverse_std
        # In bf16 landmarks, and with them crops, would move by up to 10 px under the name of the same recipe.
        with torch.autocast(self._device.type, enabled=False), exact_float32():
            offsets, classes, points = self._net(inputs)
        return offsets, classes, points


@lru_cache(maxsize=64)
def priors(height: int, width: int) -> Tensor:
    """Return the anchors (P, 4) of a picture: center x, y, width, height in shares of the picture.

    Equal to the library's `priorbox`, row by row: for each stride all cells, row by row, each with its two sizes.
    """
    grids = []
    for step, sizes in zip(_STEPS, _SIZES, strict=True):
        rows, columns = -(-height // step), -(-width // step)
        grid = np.empty((rows, columns, len(sizes), 4))
        grid[..., 0] = ((np.arange(columns) + 0.5) * step / width)[None, :, None]
        grid[..., 1] = ((np.arange(rows) + 0.5) * step / height)[:, None, None]
        grid[..., 2] = np.array(sizes) / width
        grid[..., 3] = np.array(sizes) / height
        grids.append(grid.reshape(-1, 4))
    return torch.from_numpy(np.concatenate(grids).astype(np.float32))


def _view(image: Image.Image, max_side: int) -> np.ndarray:
    """Return RGB bytes (H, W, 3) whose longer side is max_side, resized as the library does it (albumentations)."""
    scale = max_side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image)
    return pixels if size == image.size else cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def _scaled(found: Detection, factors: tuple[float, ...]) -> Detection:
    """Multiply x and y."""
    xy = np.array(factors, np.float32)
    return Detection(found.boxes * np.tile(xy, 2), found.landmarks * xy, found.scores)


def _to_image(found: Detection, factors: tuple[float, float], size: tuple[int, int]) -> Detection:
    """Map from the resized picture to the image and clip boxes to it; boxes of less than 1 px are dropped."""
    found = _scaled(found, factors)
    boxes = np.clip(found.boxes, 0, np.array([*size, *size], np.float32))
    keep = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
    return Detection(boxes[keep], found.landmarks[keep] - _FIRST_CENTER, found.scores[keep])
