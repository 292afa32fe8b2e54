"""Supervised fine-tuning with FaceMix (SSFER specification, section 8), plain mixup or no mixing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.losses import facemix_loss, mix_images, mixed_target, soft_cross_entropy
from ssfer.methods.base import Batch, Method
from ssfer.training_params import FaceMixParams


class FaceMix(Method):
    """Mix each image with its partner in the reversed batch; overlap of the two faces weighs the real images' loss."""

    def __init__(self, student: nn.Module, params: FaceMixParams) -> None:
        super().__init__(student)
        self.params = params

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; needs an even batch unless mode is `none`."""
        images, labels, p = batch["x_lb"], batch["y_lb"], self.params
        if p.mode == "none":
            logits = self.student(images)
            return {"loss": F.cross_entropy(logits, labels), "train_accuracy": _accuracy(logits, labels)}
        lam = torch.rand(()).item()  # Beta(1, 1), one draw a batch
        mixed = mix_images(images, lam)
        if p.mode == "mixup":
            logits = self.student(mixed)
            target = mixed_target(labels, logits.shape[1], lam, p.label_smoothing)
            return {"loss": soft_cross_entropy(logits, target).mean()}
        # One pass over both halves: equal to two passes, as the network has no batch statistics.
        logits_real, logits_mixed = self.student(torch.cat([images, mixed])).chunk(2)
        loss = facemix_loss(logits_mixed, logits_real, labels, lam, batch["boxes_lb"], p.label_smoothing, p.variant)
        return {"loss": loss, "train_accuracy": _accuracy(logits_real, labels)}


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(dim=1) == labels).float().mean()
