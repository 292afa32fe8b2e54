"""Masked autoencoding (He et al. 2022; SSFER specification, section 6)."""

from typing import ClassVar

from torch import Tensor

from ssfer.core.rng import counter_uniform
from ssfer.methods.base import Batch, Method
from ssfer.models.mae import MaskedAutoencoder


class MAE(Method):
    """Reconstruct removed patches; the masks are a function of the samples' keys."""

    labeled: ClassVar[bool] = False
    views: ClassVar[tuple[str, ...]] = ("w",)
    student: MaskedAutoencoder

    def __init__(self, student: MaskedAutoencoder, mask_ratio: float) -> None:
        super().__init__(student)
        self.mask_ratio = mask_ratio

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`."""
        noise = counter_uniform(batch["key_ulb"], self.student.patch_embed.num_patches)
        return {"loss": self.student(batch["x_ulb_w"], self.mask_ratio, noise).loss}
