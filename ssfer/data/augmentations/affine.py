"""A weak view for small crops: window, rotation, flip, brightness and contrast, with one resampling."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from ssfer.core.rng import derive
from ssfer.data.augmentations.base import Crop
from ssfer.data.augmentations.weak import Weak

TURN = 15.0  # degrees to either side
LIGHT = 0.2  # contrast 1 - LIGHT to 1 + LIGHT, brightness by up to LIGHT of the range to either side


class Affine(Weak):
    """The window of `Weak`, rotated about its center; pixels outside of the crop are mirrored.

    Bilinear, without antialiasing, in one pass (OpenCV), so it is meant for windows that are hardly downscaled. The
    face box moves with the window and is not rotated.
    """

    class Settings(Weak.Settings):
        """The random window."""

    def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
        """Return the view, uint8 (3, S, S), with rotation, contrast and brightness drawn from `key`."""
        rng = np.random.Generator(np.random.Philox(derive(key, "affine")))
        angle = math.radians(rng.uniform(-TURN, TURN))
        contrast, brightness = rng.uniform(1 - LIGHT, 1 + LIGHT), 255 * rng.uniform(-LIGHT, LIGHT)
        # View pixel -> crop pixel: flip, scale to the window, rotate about the window's center.
        across, down = crop.width / self.size, crop.height / self.size
        if crop.flip:
            across = -across
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos * across, -sin * down], [sin * across, cos * down]])
        middle = (self.size - 1) / 2
        center = np.array([crop.left + (crop.width - 1) / 2, crop.top + (crop.height - 1) / 2])
        shift = center - matrix @ np.array([middle, middle])
        pixels = cv2.warpAffine(
            np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
            np.column_stack([matrix, shift]),
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        levels = np.clip(contrast * (np.arange(256) - 128) + 128 + brightness, 0, 255).astype(np.uint8)
        return torch.from_numpy(cv2.LUT(pixels, levels)).permute(2, 0, 1)
