"""What the training loop knows of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Method(nn.Module):
    """A training method: owns its networks, turns a batch into a loss.

    All state (teachers, banks, statistics) is parameters, submodules or buffers, so that device moves, checkpoints
    and resumption need no further code. A method never calls backward, never touches the optimizer, never prints and
    never reads `y_ulb` but for monitors.

    Class attributes:
        labeled: whether it needs labelled batches (x_lb, y_lb, boxes_lb).
        views: suffixes of the unlabelled views it needs, e.g. ("w", "s") for x_ulb_w and x_ulb_s.
        exports: networks that are saved and tested, name -> submodule.
        evaluated: the one of them that is the method's result.
        informed: whether its constructor takes `population`, what may be known of the data (ssfer.imbalance).
        surveys: whether `survey` is to be called.

    Attributes:
        lr_scales: beginning of parameters' names -> their learning rate, in the run's.
    """

    labeled: ClassVar[bool] = True
    views: ClassVar[tuple[str, ...]] = ()
    exports: ClassVar[Mapping[str, str]] = {"student": "student"}
    evaluated: ClassVar[str] = "student"
    informed: ClassVar[bool] = False
    surveys: ClassVar[bool] = False
    lr_scales: Mapping[str, float] = {}

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

    def survey(self, epoch: int, labeled: Callable[[], Iterable[Batch]]) -> None:
        """Look at the labeled images; called before training (epoch 0) and after every epoch, before evaluation.

        Args:
            labeled: gives all of them in order, under the eval transform: x_lb, y_lb and idx_lb.
        """

    def called(self) -> list[nn.Module]:
        """Return the modules that the forward pass calls as a whole: each is compiled or sharded by itself."""
        return [*self.networks().values(), self.eval_module()]

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to save and test, by name."""
        return {name: self.get_submodule(path) for name, path in self.exports.items()}

    def eval_module(self) -> nn.Module:
        """Return the network to evaluate."""
        return self.get_submodule(self.exports[self.evaluated])
