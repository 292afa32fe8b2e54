"""The interface between methods and the training loop."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from ssfer.core.settings import Section
from ssfer.methods.context import Context
from ssfer.methods.shared.imbalance import Imbalance
from ssfer.models.ema import EMA

Batch = Mapping[str, Tensor]


class Method(nn.Module):
    """A training method: owns its networks, turns a batch into a loss.

    All state (teachers, banks, statistics) is parameters, submodules or buffers, so that device moves, checkpoints
    and resumption need no further code. A method never calls backward, never touches the optimizer, never prints, and
    reads `y_ulb` for monitors only.

    Class attributes:
        labeled: whether it needs labeled batches (x_lb, y_lb, boxes_lb).
        views: suffixes of the unlabeled views it needs, e.g. ("w", "s") for x_ulb_w and x_ulb_s. The letter says the
            kind, w weak or s strong; a number may follow: ("w", "w2") are two weak views, drawn independently.
        targets: the views that are used for targets only: no gradient flows through them.
        labeled_view: letter of the view of the labeled images: "w" weak, "s" strong.
        labeled_pass_views: whether `labeled_pass` is called, and with which views of the labeled images: "eval", all
            of them as in a test; "train", whole weak batches in random order; None: it is not called.
        exports: networks that are saved and tested, name -> submodule.
        evaluated: the one of them that is the method's result.
        trained: those of them that are trained by gradients; the others are averages.
        two_steps: whether a training step takes two optimizer steps: one for the loss of `forward(batch)`, which has
            gradients for some parameters, then one for the loss of `forward(batch, second=True)`, for the others.

    Attributes:
        lr_scales: beginning of parameters' names -> their learning rate as a multiple of the run's.
    """

    labeled: ClassVar[bool] = True
    views: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[tuple[str, ...]] = ()
    labeled_view: ClassVar[str] = "w"
    labeled_pass_views: Literal["eval", "train"] | None = None
    exports: ClassVar[Mapping[str, str]] = {"student": "student"}
    evaluated: ClassVar[str] = "student"
    trained: ClassVar[tuple[str, ...]] = ("student",)
    two_steps: ClassVar[bool] = False
    lr_scales: Mapping[str, float] = {}

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` (scalar with gradient) and detached monitors.

        Images are normalized floats (B, 3, H, W). Scalars are averaged over an epoch; tensors whose name ends in
        `_count` are summed.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Update the children after a training step.

        Running averages (`EMA`) move toward `student`; `after_step` of every other child that has one is called. A
        method that does more extends this.
        """
        for child in self.children():
            if isinstance(child, EMA):
                child.update(self.student)
            elif callable(follow := getattr(child, "after_step", None)):
                follow(step)

    def labeled_pass(self, epoch: int, labeled: Iterable[Batch]) -> None:
        """Process the labeled images; called before training (epoch 0) and after every epoch, before evaluation.

        All processes call it with the same images. What is learned is stored in buffers.

        Args:
            labeled: x_lb, y_lb and idx_lb of the views that `labeled_pass_views` names, made when iterated over.
        """

    def called(self) -> list[nn.Module]:
        """Return the modules that the forward pass calls as a whole; each is compiled on its own."""
        return [*self.networks().values(), self.eval_module()]

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to save and test, by name."""
        return {name: self.get_submodule(path) for name, path in self.exports.items()}

    def eval_module(self) -> nn.Module:
        """Return the network to evaluate."""
        return self.get_submodule(self.exports[self.evaluated])


class SemiSupervised(Method):
    """A method of stage semisup: learns from labeled and unlabeled images; one file in `ssfer.methods` each.

    Class attributes:
        title: name in reports.
        paper: citation.
        corrections: the settings of semisup.imbalance that it takes; others are refused.
        always: those of them that are part of the method.
        running_average: name of the export that is a running average of the student's weights: "average", which
            semisup.average adds, or an export that the method has in any case.
    """

    class Settings(Section):
        """Section of params.yaml; every method has its own."""

    title: ClassVar[str]
    paper: ClassVar[str]
    corrections: ClassVar[tuple[str, ...]] = ()
    always: ClassVar[tuple[str, ...]] = ()
    running_average: ClassVar[str] = "average"
    average: EMA | None
    settings: Section

    def __init__(self, context: Context) -> None:
        super().__init__(context.student)
        self.settings = context.settings
        corrections = context.corrections.model_copy(update=dict.fromkeys(self.always, True))
        self.imbalance = Imbalance(corrections, context.population)
        self.average = None

    @classmethod
    def exported(cls, decay: float | None) -> tuple[str, ...]:
        """Return the names of the networks that are saved and tested with this value of semisup.average."""
        return tuple(dict.fromkeys([*cls.exports, *([cls.running_average] if decay is not None else [])]))

    def keep_average(self, decay: float) -> None:
        """Also export a running average of the student; no effect if the method already has one."""
        if self.running_average not in self.exports:
            self.average = EMA(self.student, decay)

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to save and test, by name; with semisup.average also the average."""
        found = super().networks()
        return found if self.average is None else {**found, self.running_average: self.average.module}
