"""Base of the methods whose unlabeled loss gets a rising weight instead of a selection of images."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.methods.base import Batch, SemiSupervised
from ssfer.methods.context import Context
from ssfer.methods.shared.self_training import report
from ssfer.methods.shared.settings import RampedSettings, ShapedRampSettings
from ssfer.methods.shared.thresholds import Clock, linear_rampup, sigmoid_rampup


class Terms(NamedTuple):
    """The losses and predictions of a step.

    Attributes:
        labeled, unlabeled: the losses.
        probs: predictions on the unlabeled images (B, K), for the monitors.
        mask: which of them count (B,); None: all.
        extra: a further term of the loss, at full weight from the start; None: none.
    """

    labeled: Tensor
    unlabeled: Tensor
    probs: Tensor
    mask: Tensor | None = None
    extra: Tensor | None = None


class Ramped(SemiSupervised):
    """loss = labeled loss + lambda_u * r(t) * unlabeled loss; a subclass says which losses.

    r rises to 1 over the share `rampup` of the run's steps; the papers count steps or epochs of runs of other lengths.
    By default the student is tested; semisup.average adds an average of it.
    """

    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)
    settings: RampedSettings

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.clock = Clock(context.steps)

    def ramp(self) -> Tensor:
        """Return r(t), a scalar; linear unless the settings name another shape."""
        p = self.settings
        rise = sigmoid_rampup if isinstance(p, ShapedRampSettings) and p.ramp == "sigmoid" else linear_rampup
        return rise(self.clock.share, p.rampup)

    def terms(self, batch: Batch) -> Terms:
        """Run the networks and return the losses; defined by subclasses."""
        raise NotImplementedError

    def labeled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the labeled images."""
        return F.cross_entropy(self.imbalance.adjust(logits), labels)

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
