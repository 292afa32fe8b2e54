"""Base of the methods with pseudo-labels: classes predicted with confidence are targets."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.core.distributed import of_all_processes
from ssfer.core.errors import SsferError
from ssfer.methods.base import Batch, SemiSupervised
from ssfer.methods.context import Context
from ssfer.methods.shared.counts import class_counts
from ssfer.methods.shared.losses import masked_cross_entropy
from ssfer.methods.shared.settings import PseudoLabelSettings, UnlabeledSettings
from ssfer.models.expert_head import expert_head
from ssfer.models.features import full_output

# logits (B, K) of the view that learns, pseudo-labels (B,), their mask (B,), target probabilities (B, K) -> scalar
PseudoLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def one_class(logits: Tensor, target: Tensor, mask: Tensor, probs: Tensor) -> Tensor:
    """Return the masked cross-entropy of the likeliest class."""
    return masked_cross_entropy(logits, target, mask)


class Predictions(NamedTuple):
    """Predictions of a step, without gradient.

    Attributes:
        probs: corrected probabilities of the unlabeled images' weak views (B, K).
        labeled: the student's logits of the labeled images (N, K).
        places: indices of the unlabeled images in the data set (B,); None: the batch has none.
    """

    probs: Tensor
    labeled: Tensor
    places: Tensor | None


class SelfTraining(SemiSupervised):
    """One network's confident classes on the weak view are the student's targets on the strong view.

    loss = CE(labeled, weak view) + lambda_u * (1/B) sum_i mask_i CE(student(strong_i), class_i). Pseudo-labels are the
    student's unless a subclass overrides `label_logits`; subclasses may also override masks and losses. A student with
    a head of experts adds its balance loss, and `pseudo_loss` may be replaced (`ssfer.methods.shared.ambiguous`).
    """

    views: ClassVar[tuple[str, ...]] = ("w", "s")
    targets: ClassVar[tuple[str, ...]] = ("w",)
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "class_thresholds", "logit_adjustment")
    settings: UnlabeledSettings

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pseudo_loss: PseudoLoss = one_class

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the logits (B, K) that label the weak views of unlabeled faces, without gradient.

        The student computes them in its current mode and in a separate pass: joined with the images that need a
        gradient they would also cost a backward pass, for equal numbers in a network without batch statistics.
        """
        with torch.no_grad():
            return self.student(weak)

    def select(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """Return (mask, target): how much each unlabeled image counts, 0 to 1, and its class, both (B,)."""
        if not isinstance(self.settings, PseudoLabelSettings):
            raise SsferError(
                f"method {type(self).__name__} has no `select`, and its Settings are no PseudoLabelSettings, whose "
                "threshold the default one needs; define `select`, or derive Settings from PseudoLabelSettings"
            )
        return self.imbalance.mask(found.probs, found.places, self.settings.threshold)

    def labeled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the labeled images; labels are classes (N,) or distributions over them (N, K)."""
        return F.cross_entropy(logits, labels)

    def extra_loss(self, logits: Tensor, mask: Tensor) -> Tensor | None:
        """Return a further term of the loss for the strong views' logits (B, K); None: no such term."""
        return None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`. Monitors: those of `report`."""
        labeled = len(batch["x_lb"])
        probs = self.imbalance.align(self.label_logits(batch["x_ulb_w"]).softmax(dim=1))
        images = torch.cat([batch["x_lb"], batch["x_ulb_s"]])
        # Other networks are called as usual: not all of them can return features.
        out = full_output(self.student, images) if expert_head(self.student) else None
        logits = self.imbalance.adjust(out.logits if out else self.student(images))
        mask, target = self.select(Predictions(probs, logits[:labeled].detach(), batch.get("idx_ulb")))
        labeled_loss = self.labeled_loss(logits[:labeled], batch.get("t_lb", batch["y_lb"]))
        unlabeled_loss = self.pseudo_loss(logits[labeled:], target, mask, probs)
        loss = labeled_loss + self.settings.lambda_u * unlabeled_loss
        extra = self.extra_loss(logits[labeled:], mask)
        loss = loss if extra is None else loss + extra
        return {
            "loss": loss + out.balance if out else loss,
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }


def report(
    labeled_loss: Tensor, unlabeled_loss: Tensor, mask: Tensor, target: Tensor, truth: Tensor, num_classes: int
) -> dict[str, Tensor]:
    """Return the monitors of all methods, detached.

    They are both losses, util_ratio (the share of the batch that is kept), and the counts of `pseudo_label_counts`.
    """
    return {
        "labeled_loss": labeled_loss.detach(),
        "unlabeled_loss": unlabeled_loss.detach(),
        "util_ratio": mask.mean(),
        **pseudo_label_counts(mask, target, truth, num_classes),
    }


def pseudo_label_counts(mask: Tensor, target: Tensor, truth: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return per true class (K,): all, kept and correctly kept samples; monitoring only, truth -1 is not counted."""
    kept = mask > 0
    return {
        "class_count": class_counts(truth, num_classes),
        "kept_count": class_counts(truth, num_classes, kept),
        "correct_count": class_counts(truth, num_classes, kept & (target == truth)),
    }


def kept_share(mask: Tensor) -> Tensor:
    """Return the share of samples that `mask` (B,) keeps, over all processes; at least that of one sample.

    A mean over the batch divided by this share is the mean over the kept samples. If machine.max_batch cuts a batch
    into parts, each part has its own share.
    """
    every = of_all_processes(mask)
    return every.sum().clamp(min=1) / len(every)
