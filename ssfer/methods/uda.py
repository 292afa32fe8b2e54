"""UDA: sharpened predictions of the weak view are soft targets of the strong one (Xie et al. 2020)."""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Temperature, Weight
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import annealed_cross_entropy, masked_soft_cross_entropy
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import PseudoLabelSettings
from ssfer.methods.shared.targets import sharpen
from ssfer.methods.shared.thresholds import Clock, annealing_limit


def soft_targets(logits: Tensor, target: Tensor, mask: Tensor, probs: Tensor, temperature: float) -> Tensor:
    """Return the masked cross-entropy of the sharpened predictions."""
    return masked_soft_cross_entropy(logits, sharpen(probs, temperature), mask)


class UDA(SelfTraining):
    """FixMatch with soft targets softmax(z / T) and, optionally, without labeled images that are still too easy.

    The cross-entropy of soft targets has the gradient of the paper's KL divergence: they differ by the entropy of the
    target. The paper's confidence masking (beta) is `threshold`, its training signal annealing `annealing`.
    """

    class Settings(PseudoLabelSettings):
        """Section methods.uda of params.yaml."""

        threshold: Share = Field(0.8, description="Confidence a pseudo-label needs.")
        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        temperature: Temperature = Field(0.4, description="Temperature of the targets.")
        annealing: Literal["none", "linear", "log", "exp"] = Field(
            "none", description="Training signal annealing, without easy labeled images: none | linear | log | exp."
        )

    settings: Settings
    title, paper = "UDA", "Xie et al. 2020"
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.clock = Clock(context.steps)
        self.pseudo_loss = partial(soft_targets, temperature=self.settings.temperature)

    def labeled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the labeled images that are not too easy at this point of the run."""
        limit = annealing_limit(self.clock.share, logits.shape[1], self.settings.annealing)
        return annealed_cross_entropy(logits, labels, limit)
