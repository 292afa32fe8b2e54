"""Supervised fine-tuning with FaceMix (SSFER specification, section 8), plain mixup or no mixing."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssfer.core.pixels import denormalize
from ssfer.core.rng import once_a_batch
from ssfer.core.settings import BelowOne, Section
from ssfer.methods.base import Batch, Method
from ssfer.methods.shared.losses import facemix_loss, mix_images, mixed_target, soft_cross_entropy
from ssfer.methods.shared.similarity import image_kappa, paired_iou
from ssfer.models.ema import EMA
from ssfer.models.settings import ModelSettings

# Images (B, 3, S, S) with pixels in 0..1 -> boxes (B, 4), and where exactly one face was found (B,).
BoxDetector = Callable[[Tensor], tuple[Tensor, Tensor]]
MAIN_ARM = {"facemix": "facemix", "mixup": "mixup", "none": "plain"}  # facemix.mode -> name of what stage 2 trains


class FaceMixSettings(Section):
    """How labeled images are mixed (SSFER section 8)."""

    mode: Literal["facemix", "mixup", "none"] = Field("facemix", description="facemix | mixup | none.")
    variant: Literal["L1", "L2", "L3", "L4"] = Field(
        "L4",
        description="Loss v of mixed, r of real images: L4 v + kappa r (paper) | L3 kappa v + r | "
        "L2 v + (1 - kappa) r | L1 (1 - kappa) v + r.",
    )
    label_smoothing: BelowOne = Field(0.1, description="Label smoothing of the mixed targets.")
    kappa: Literal["iou", "psnr", "ssim", "fsim"] = Field(
        "iou", description="kappa is 1 - this similarity of a pair: iou of the faces | psnr | ssim | fsim."
    )
    box_source: Literal["cached", "detect"] = Field(
        "cached", description="cached: box of the stored crop, mapped | detect: align's detector on each view (slow)."
    )
    box_input: Literal["pixels", "normalized"] = Field(
        "pixels", description="Input of that detector: pixels | normalized, values it takes for pixels (release)."
    )
    fallback_frame: Literal["source", "augmented"] = Field(
        "source", description="Box if no face was found: source, mapped like a face's | augmented, equal in all views."
    )
    legacy_inplace: bool = Field(False, description="true: the release's 'real' images, which are the mixed ones.")


class FaceMix(Method):
    """Mix each image with its partner in the reversed batch; the real images' loss is weighted by how much they differ.

    Real and mixed images go through the network in one pass. Without batch norms that is the same as one pass each;
    with them, both halves are normalized by their common statistics, as FixMatch does with its views.

    Args:
        model: says how the images are normalized.
        ema_decay: of a running average of the student, which is then what is evaluated; None: no average.
        shift: (K,), added to the logits in training (logit adjustment, Menon et al. 2021); None: nothing.
        detect: finds the faces on the views; needed when `box_source` is detect. `boxes_lb` then has the boxes for
            images in which it finds none or several.
    """

    shift: Tensor | None

    def __init__(
        self,
        student: nn.Module,
        params: FaceMixSettings,
        model: ModelSettings,
        ema_decay: float | None = None,
        detect: BoxDetector | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__(student)
        self.settings, self.mean, self.std, self.detect = params, model.mean, model.std, detect
        self.average = None if ema_decay is None else EMA(student, ema_decay)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; needs an even batch unless mode is `none`."""
        images, labels, p = batch["x_lb"], batch["y_lb"], self.settings
        target = batch.get("t_lb", labels)
        if p.mode == "none":
            logits = self._logits(images)
            return {"loss": F.cross_entropy(logits, target), "train_accuracy": _accuracy(logits, labels)}
        lam: float = once_a_batch(lambda: torch.rand(()).item())  # Beta(1, 1)
        mixed = mix_images(images, lam)
        if p.mode == "mixup":
            logits = self._logits(mixed)
            mixture = mixed_target(target, logits.shape[1], lam, p.label_smoothing)
            return {"loss": soft_cross_entropy(logits, mixture).mean()}
        if p.legacy_inplace:
            # The release mixes in place, so that its "real" images are the mixed ones: two equal passes, of which one
            # is run, and everything else that looks at the real images sees the mixed ones (table 14, rows 2 and 3).
            images = mixed
            logits_real = logits_mixed = self._logits(mixed)
        else:
            # One pass over both halves: the same as two, but for batch norms (see the class).
            logits_real, logits_mixed = self._logits(torch.cat([images, mixed])).chunk(2)
        kappa = self.kappa(images, batch["boxes_lb"])
        loss = facemix_loss(logits_mixed, logits_real, target, lam, kappa, p.label_smoothing, p.variant)
        return {"loss": loss, "train_accuracy": _accuracy(logits_real, labels)}

    @torch.no_grad()
    def kappa(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return kappa (B,) of normalized images (B, 3, S, S) and their partners; boxes (B, 4) are of the views."""
        p = self.settings
        if p.kappa != "iou":
            return image_kappa(denormalize(images, self.mean, self.std), p.kappa)
        if p.box_source == "detect":
            assert self.detect is not None, "box_source detect needs a detector"
            # The release hands its detector normalized images where it expects pixels.
            seen = images if p.box_input == "normalized" else denormalize(images, self.mean, self.std)
            with torch.autocast(images.device.type, enabled=False):
                found, one_face = self.detect(seen)
            boxes = torch.where(one_face[:, None], found, boxes)
        return 1 - paired_iou(boxes)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.student(images)
        return logits if self.shift is None else logits + self.shift

    def eval_module(self) -> nn.Module:
        """Return the average, if there is one, else the student."""
        return self.student if self.average is None else self.average.module


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(dim=1) == labels).float().mean()
