"""Consistency that gains weight with time: what the methods share that regularise rather than select."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.methods.base import Batch, SemiSupervised
from ssfer.methods.context import Context
from ssfer.methods.shared.self_training import report
from ssfer.methods.shared.settings import RampedSettings
from ssfer.methods.shared.thresholds import Clock, linear_rampup


class Terms(NamedTuple):
    """What a step's passes give.

    Attributes:
        labeled, unlabeled: the losses.
        probs: predictions on the unlabeled images (B, K), for the monitors.
        mask: which of them count (B,); None: all.
        extra: what else is added to the loss, at full weight from the start.
    """

    labeled: Tensor
    unlabeled: Tensor
    probs: Tensor
    mask: Tensor | None = None
    extra: Tensor | None = None


class Ramped(SemiSupervised):
    """loss = labeled loss + lambda_u * r(t) * unlabeled loss; a subclass says which losses.

    r rises to 1 over the share `rampup` of the run's steps; the papers count steps or epochs of runs of another
    length. The student is what is evaluated, also where a paper evaluates an average of it, as for FixMatch here: so
    that methods compare.
    """

    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)
    settings: RampedSettings

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.clock = Clock(context.steps)

    def ramp(self) -> Tensor:
        """Return r(t), a scalar; a straight line unless a subclass says otherwise."""
        return linear_rampup(self.clock.share, self.settings.rampup)

    def terms(self, batch: Batch) -> Terms:
        """Run the step's passes."""
        raise NotImplementedError

    def labeled_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the labeled images."""
        return F.cross_entropy(self.imbalance.adjust(logits), batch["y_lb"])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`."""
        terms = self.terms(batch)
        probs = terms.probs.detach()
        mask = torch.ones_like(probs[:, 0]) if terms.mask is None else terms.mask
        weight = self.settings.lambda_u * self.ramp()
        loss = terms.labeled + weight * terms.unlabeled
        return {
            "loss": loss if terms.extra is None else loss + terms.extra,
            **report(terms.labeled, terms.unlabeled, mask, probs.argmax(dim=1), batch["y_ulb"], probs.shape[1]),
        }
