"""VAT: predictions do not move under the small perturbation that would move them most (Miyato et al. 2018)."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssfer.core.device import exact_float32
from ssfer.core.settings import Above, Share, Weight
from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import entropy, kl_divergence
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import RampedSettings
from ssfer.methods.shared.targets import counter_normal, unit


class VAT(Ramped):
    """Unlabeled loss: mean KL(p(x) || p(x + r_adv)) over labeled and unlabeled images, p(x) fixed.

    r_adv is epsilon times the unit direction that power iteration finds, from a random one. With `entropy_weight` the
    mean entropy of the unlabeled predictions is added (the paper's VAT+EntMin, where it is 1).

    Decisions: epsilon is the norm over the whole normalized image; xi is 0.1 by default, not the paper's 1e-6, which
    float32 rounds away; the direction is computed in float32, because TF32 and bf16 round a step of 0.1 away at 224
    pixels, and from gradients with respect to the images only. The weights are those of a comparison (Roy and Etemad
    2022); the entropy of the unlabeled images' predictions has its weight from the start, as in public code.
    """

    class Settings(RampedSettings):
        """Section methods.vat of params.yaml."""

        lambda_u: Weight = Field(0.3, description="Weight of the unlabeled loss (paper: 1).")
        rampup: Share = Field(
            0.4,
            description=(
                "Share of the run's steps over which the weight rises; 0: full weight from the start, as in the paper."
            ),
        )
        epsilon: Above = Field(6.0, description="Norm of the perturbation of a normalized image; grows with its side.")
        xi: Above = Field(
            0.1,
            description="Norm of the step that looks for the perturbation (paper: 1e-6, which float32 rounds away).",
        )
        iterations: Annotated[int, Field(ge=1, le=100)] = Field(1, description="Iterations of the power iteration.")
        labeled: bool = Field(
            True, description="Labeled images are perturbed as well (paper); false: only unlabeled ones."
        )
        entropy_weight: Weight = Field(
            0.06, description="Weight of the predictions' entropy (1: the paper's VAT+EntMin)."
        )

    settings: Settings
    title, paper = "VAT", "Miyato et al. 2018"
    views: ClassVar[tuple[str, ...]] = ("w",)

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        p, n = self.settings, len(batch["x_lb"])
        first = 0 if p.labeled else n
        images, keys = (torch.cat([batch[f"{k}_lb"], batch[v]]) for k, v in (("x", "x_ulb_w"), ("key", "key_ulb")))
        logits = self.student(images)
        probs = logits.detach().float().softmax(dim=1)
        chosen, known = images[first:], probs[first:]
        perturbed = self.student(chosen + p.epsilon * self.direction(chosen, known, keys[first:]))
        unlabeled = kl_divergence(known, perturbed).mean()
        extra = p.entropy_weight * entropy(logits[n:]).mean() if p.entropy_weight else None
        return Terms(self.labeled_loss(logits[:n], batch["y_lb"]), unlabeled, probs[n:], extra=extra)

    def direction(self, images: Tensor, probs: Tensor, keys: Tensor) -> Tensor:
        """Return the unit perturbations (B, C, H, W) that move predictions (B, K) most; zero where nothing does."""
        found = unit(counter_normal(keys, images[0].numel()).view_as(images))
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False), exact_float32():
            for _ in range(self.settings.iterations):
                found.requires_grad_()
                moved = kl_divergence(probs, self.student(images.detach() + self.settings.xi * found)).sum()
                (slope,) = torch.autograd.grad(moved, found)
                found = unit(slope.detach())
        return found
