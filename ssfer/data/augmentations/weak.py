"""The weak view: a random crop and a fair flip."""

import numpy as np
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import CropScale, Section
from ssfer.data.augmentations.base import Crop, Transform, apply_crop, draw_crop


class Weak(Transform):
    """RandomResizedCrop and horizontal flip: the views `pretrain`, `train` and `weak` of the specification."""

    class Settings(Section):
        """The random crop."""

        min_scale: CropScale = Field(description="Smallest area of the random crop, as a share of the image.")

    def __init__(self, size: int, min_scale: float) -> None:
        super().__init__(size)
        self.min_scale = min_scale

    def draw(self, key: int, height: int, width: int) -> Crop:
        """Return a random window."""
        return draw_crop(np.random.Generator(np.random.Philox(key)), height, width, self.min_scale)

    def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
        """Return the window, resized."""
        return apply_crop(image, crop, self.size)
