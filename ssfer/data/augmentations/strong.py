"""The strong view: the weak one, then RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as timm implements it."""

import random
from typing import Any, Self

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import Resampling
from pydantic import Field
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from ssfer.core.settings import Triple
from ssfer.data.augmentations.base import Crop
from ssfer.data.augmentations.weak import Weak
from ssfer.data.device_randaugment import DeviceRandAugment
from ssfer.data.settings import RandAugment


class Strong(Weak):
    """`Weak` (its own draw), then RandAugment in timm's notation, geometric gaps filled with the mean color."""

    class Settings(Weak.Settings):
        """The random crop, then RandAugment."""

        randaugment: RandAugment = Field(description="RandAugment in timm's notation.")

    def __init__(self, size: int, min_scale: float, randaugment: str, mean: tuple[float, float, float]) -> None:
        super().__init__(size, min_scale)
        self.fill = tuple(round(255 * m) for m in mean)
        hparams = {"img_mean": self.fill, "interpolation": Resampling.BICUBIC}
        self.augment = rand_augment_transform(randaugment, hparams)
        for op in self.augment.ops:
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize

    @classmethod
    def build(cls, settings: Settings, size: int, mean: Triple) -> Self:
        """See `Transform.build`; geometric gaps are filled with the mean color."""
        return cls(size, settings.min_scale, settings.randaugment, mean)

    def render(self, image: Tensor, crop: Crop, key: int) -> Tensor:
        """Return the window, resized and changed by the operations that `key` draws."""
        view = super().render(image, crop, key)
        # timm draws from the two global generators. Nothing else in ssfer does, so seeding them here is safe.
        random.seed(key)
        np.random.seed(key % 2**32)
        augmented = np.asarray(self.augment(TF.to_pil_image(view)))
        return torch.from_numpy(augmented.copy()).permute(2, 0, 1)

    def on_device(self) -> tuple[Weak, DeviceRandAugment]:
        """Return the weak view of the same draw, and RandAugment.

        Raises:
            SsferError: RandAugment has an operation that the device does not.
        """
        return Weak(self.size, self.min_scale), DeviceRandAugment(self.augment, self.fill)


def _posterize(image: PILImage, bits: int, **_: Any) -> PILImage:
    """Keep the top `bits` of every channel; 0 bits, which magnitude 10 asks for, gives a black image.

    Pillow 13 refuses 0 bits and timm 1.0.31 passes it on; older Pillow returned the black image.
    """
    if bits >= 8:
        return image
    return Image.new(image.mode, image.size) if bits < 1 else ImageOps.posterize(image, bits)
