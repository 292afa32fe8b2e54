"""Augmentation of one stored crop; the face box goes through the same crop and flip (SSFER specification, section 4).

Images are uint8 tensors (3, H, W), RGB; boxes are float (4,) corners in pixels. All random numbers come from the key
handed in, so a view is a pure function of (image, key): independent of workers, ranks and resumption. Normalization
happens later, on the device.

Every memory layout gives the same view, bit for bit, but the one that decoders deliver ("channels last") is by far the
fastest: torch then resizes with Pillow's own algorithm in vector code. So a weak view equals Pillow's crop, bicubic
resize and flip of the same window up to rounding: at most 2 of 255 levels per pixel and 0.02 on average if the window
is enlarged, as windows of 224 px crops for 224 px views always are. If a side shrinks, Pillow may resize the sides in
the other order, with rounding and clipping in between: 0.5 levels on average.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.core.images import fallback_box
from ssfer.core.settings import Section, Triple

if TYPE_CHECKING:
    from ssfer.data.device_randaugment import DeviceRandAugment

ASPECT = (3 / 4, 4 / 3)


class View(NamedTuple):
    """image: uint8 (3, S, S); box: float32 (4,)."""

    image: Tensor
    box: Tensor


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
    """Return the position of `box` (4,) after crop, resize to `size` px and flip (SSFER specification, section 4.1).

    A box without area inside the crop becomes the fallback box.
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
    """Crop, flip and resize an image (3, H, W) bicubically with antialiasing to (3, size, size).

    Input and output are uint8, the output channels last in memory. The window is mirrored before it is resized, because
    it is copied then anyway; the pixels are the same.
    """
    window = image.permute(1, 2, 0)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if crop.flip:
        window = window.flip(1)
    # The batch dimension comes before the colors move to the front: torch tells the layout from its stride.
    batch = window.contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, (size, size), mode="bicubic", antialias=True)[0]


class Transform(ABC):
    """An augmentation of a stored crop: a window is drawn, and pixels and box are computed from it.

    Each is a file in `ssfer.data.augmentations`. The steps can be called separately, because a batch is made faster
    step by step than image by image.
    """

    class Settings(Section):
        """Section `augmentations.<name>` of params.yaml, else the stage's keys of the same names."""

    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def build(cls, settings: Any, size: int, mean: Triple) -> Self:
        """Return the augmentation of a stage.

        Args:
            settings: an instance of `Settings`.
            size: side of the view, pixels.
            mean: of the model's input, RGB in 0..1.
        """
        return cls(size, **settings.model_dump())

    @abstractmethod
    def draw(self, key: int, height: int, width: int) -> Crop:
        """Return the window that `key` draws for an image of this size."""

    @abstractmethod
    def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
        """Return the pixels of the view, uint8 (3, S, S)."""

    def place(self, box: Tensor, crop: Crop) -> Tensor:
        """Return the box (4,) in the view."""
        return map_box(box, crop, self.size)

    def on_device(self) -> "tuple[Transform, DeviceRandAugment | None]":
        """Return what is left to do image by image, and what the device can do to the batch; None: nothing."""
        return self, None

    def __call__(self, image: Tensor, box: Tensor, key: int) -> View:
        """Return the view that `key` draws."""
        crop = self.draw(key, image.shape[1], image.shape[2])
        return View(self.render(image, crop, key), self.place(box, crop))
