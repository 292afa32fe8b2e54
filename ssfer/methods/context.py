"""What a method is built from: the student, its settings, and facts about the run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ssfer.core.errors import SsferError
from ssfer.methods.shared.settings import ImbalanceSettings


@dataclass(frozen=True)
class Population:
    """Facts about a run that a method may use.

    Attributes:
        labeled: labeled images per class (K,).
        unlabeled: number of unlabeled images.
        steps: training steps of the whole run; 0: not known, weights that rise over time are then at their end.
        classes: their names in index order.
    """

    labeled: Sequence[int]
    unlabeled: int
    steps: int = 0
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class Context:
    """Everything a semi-supervised method is built from.

    Attributes:
        student: the network that is trained.
        settings: of the method, an instance of its class `Settings`.
        population: facts about the run; None: not known.
        corrections: of imbalance that are switched on.
    """

    student: nn.Module
    settings: Any
    population: Population | None = None
    corrections: ImbalanceSettings = field(default_factory=ImbalanceSettings)

    @property
    def steps(self) -> int:
        """Training steps of the run; 0: not known."""
        return self.population.steps if self.population else 0

    def known(self) -> Population:
        """Return the facts about the run, for methods that need them.

        Raises:
            ValueError: it is not known.
        """
        if self.population is None:
            raise ValueError("this method needs the labeled images per class and the number of unlabeled images")
        return self.population

    def complete(self, what: str) -> Population:
        """Return the facts about the run, for methods that need labeled images of all classes.

        Args:
            what: the part of the method that needs them, for the error.

        Raises:
            ValueError: it is not known.
            SsferError: a class without a labeled image.
        """
        known = self.known()
        check_all_labeled(known.labeled, what)
        return known


def check_all_labeled(counts: Sequence[int], what: str) -> None:
    """Refuse a class without a labeled image; SsferError names `what` needs one."""
    if min(counts) < 1:
        raise SsferError(f"{what} needs a labeled image of every class, found counts {list(counts)}")
