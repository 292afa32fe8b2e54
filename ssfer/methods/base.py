"""What the training loop knows of a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Method(nn.Module):
    """A training method: owns its networks, turns a batch into a loss.

    All state (teachers, banks, statistics) is parameters, submodules or buffers, so that device moves, checkpoints
    and resumption need no further code. A method never calls backward, never touches the optimizer, never prints and
    never reads `y_ulb` but for monitors.

    Class attributes:
        labeled: whether it needs labelled batches (x_lb, y_lb, boxes_lb).
        views: suffixes of the unlabelled views it needs, e.g. ("w", "s") for x_ulb_w and x_ulb_s. The letter says the
            kind, w weak or s strong; a number may follow: ("w", "w2") are two weak views, drawn independently.
        targets: those of the views that only make targets: no gradient flows through them.
        labeled_view: letter of the view of the labelled images: "w" weak, "s" strong.
        corrections: the settings of semisup.imbalance that it takes; others are refused.
        labeled_review: whether `after_epoch` is told what the evaluated network predicts for the labeled images, and
            on which views: "eval", all of them as in a test; "train", whole weak batches in random order; None: not.
        exports: networks that are saved and tested, name -> submodule.
        evaluated: the one of them that is the method's result.
    """

    labeled: ClassVar[bool] = True
    views: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[tuple[str, ...]] = ()
    labeled_view: ClassVar[str] = "w"
    corrections: ClassVar[tuple[str, ...]] = ()
    labeled_review: Literal["eval", "train"] | None = None
    exports: ClassVar[Mapping[str, str]] = {"student": "student"}
    evaluated: ClassVar[str] = "student"

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` (scalar with gradient) and detached monitors.

        Images are normalised floats (B, 3, H, W). Scalars are averaged over an epoch; tensors whose name ends in
        `_count` are summed.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Update what follows the student; called once per optimizer step."""

    def after_epoch(self, epoch: int, probs: Tensor, labels: Tensor) -> None:
        """Learn from the labeled images' predictions (N, K) and labels (N,), after epoch 1, 2, ... `labeled_review`."""

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to save and test, by name."""
        return {name: self.get_submodule(path) for name, path in self.exports.items()}

    def eval_module(self) -> nn.Module:
        """Return the network to evaluate."""
        return self.get_submodule(self.exports[self.evaluated])
