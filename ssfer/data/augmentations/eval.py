"""The evaluation view: the whole image, resized."""

import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from ssfer.core.settings import Section
from ssfer.data.augmentations.base import Crop, Transform


class Eval(Transform):
    """Resize the shorter side bilinearly, no crop: inputs are square (section 4)."""

    class Settings(Section):
        """Nothing to set."""

    def draw(self, key: int, height: int, width: int) -> Crop:
        """Return the whole image; `key` has no influence."""
        return Crop(0, 0, height, width, False)

    def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
        """Return the image, resized."""
        if image.shape[1:] == (self.size, self.size):
            return image
        return TF.resize(image, [self.size, self.size], InterpolationMode.BILINEAR, antialias=True)
