"""Augmentation of one stored crop; the face box goes through the same crop and flip (SSFER specification, section 4).

Images are uint8 tensors (3, H, W), RGB; boxes are float (4,) corners in pixels. All random numbers come from the key
handed in, so a view is a pure function of (image, key): independent of workers, ranks and resumption. Normalisation
happens later, on the device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import Resampling
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from ssfer.boxes import fallback_box

ASPECT = (3 / 4, 4 / 3)


class View(NamedTuple):
    """image: uint8 (3, S, S); box: float32 (4,)."""

    image: Tensor
    box: Tensor


Transform = Callable[[Tensor, Tensor, int], View]


class Crop(NamedTuple):
    """Window in pixels of the source and whether it is mirrored afterwards."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(rng: np.random.Generator, height: int, width: int, min_scale: float) -> Crop:
    """Draw a window of relative area U(min_scale, 1) and log-uniform aspect 3/4..4/3, and a fair flip.

    Ten tries, then the whole image: the rule of torchvision's RandomResizedCrop.
    """
    flip = bool(rng.random() < 0.5)
    for _ in range(10):
        area = height * width * rng.uniform(min_scale, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w, flip)
    return Crop(0, 0, height, width, flip)


def map_box(box: Tensor, crop: Crop, size: int) -> Tensor:
    """Return where `box` of the source image lies after crop, resize to `size` and flip (section 4.1).

    A box that the crop leaves without area becomes the fallback box.
    """
    x1, y1, x2, y2 = box.tolist()
    x1, x2 = ((x - crop.left) * size / crop.width for x in (x1, x2))
    y1, y2 = ((y - crop.top) * size / crop.height for y in (y1, y2))
    x1, y1, x2, y2 = (min(max(v, 0.0), float(size)) for v in (x1, y1, x2, y2))
    if crop.flip:
        x1, x2 = size - x2, size - x1
    if x2 <= x1 or y2 <= y1:
        return torch.tensor(fallback_box(size))
    return torch.tensor((x1, y1, x2, y2))


def apply_crop(image: Tensor, crop: Crop, size: int) -> Tensor:
    """Crop, resize bicubically with antialiasing, flip; uint8 in, uint8 out."""
    window = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    out = TF.resize(window, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return out.flip(-1) if crop.flip else out


class Weak:
    """RandomResizedCrop and horizontal flip: the views `pretrain`, `train` and `weak` of the specification."""

    def __init__(self, size: int, min_scale: float) -> None:
        self.size, self.min_scale = size, min_scale

    def __call__(self, image: Tensor, box: Tensor, key: int) -> View:
        """Return the view drawn with `key`."""
        crop = draw_crop(np.random.Generator(np.random.Philox(key)), image.shape[1], image.shape[2], self.min_scale)
        return View(apply_crop(image, crop, self.size), map_box(box, crop, self.size))


class Strong(Weak):
    """`Weak` (its own draw), then RandAugment in timm's notation, geometric gaps filled with the mean colour."""

    def __init__(self, size: int, min_scale: float, randaugment: str, mean: tuple[float, float, float]) -> None:
        super().__init__(size, min_scale)
        fill = tuple(round(255 * m) for m in mean)
        self.augment = rand_augment_transform(randaugment, {"img_mean": fill, "interpolation": Resampling.BICUBIC})
        for op in self.augment.ops:
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize

    def __call__(self, image: Tensor, box: Tensor, key: int) -> View:
        """Return the view drawn with `key`."""
        view = super().__call__(image, box, key)
        # timm draws from the two global generators; nothing else in ssfer does, so seeding them here harms nobody.
        random.seed(key)
        np.random.seed(key % 2**32)
        augmented = np.asarray(self.augment(TF.to_pil_image(view.image)))
        return View(torch.from_numpy(augmented.copy()).permute(2, 0, 1), view.box)


def _posterize(image: PILImage, bits: int, **_: Any) -> PILImage:
    """Keep the top `bits` of every channel; 0 bits, which magnitude 10 asks for, leaves black.

    Pillow 13 refuses 0 bits and timm 1.0.31 passes it on; older Pillow returned the black image.
    """
    if bits >= 8:
        return image
    return Image.new(image.mode, image.size) if bits < 1 else ImageOps.posterize(image, bits)


class Eval:
    """Resize the shorter side bilinearly, no crop: inputs are square (section 4)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, box: Tensor, key: int) -> View:
        """Return the view; `key` has no influence."""
        if image.shape[1:] == (self.size, self.size):
            return View(image, box)
        scale = self.size / image.shape[1]
        return View(TF.resize(image, [self.size, self.size], InterpolationMode.BILINEAR, antialias=True), box * scale)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (x / 255 - mean) / std, on the device of `images`."""
    center = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - center) / scale


def denormalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Inverse of `normalize`, as floats clipped to 0..1."""
    center = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images * scale + center).clamp(0, 1)
