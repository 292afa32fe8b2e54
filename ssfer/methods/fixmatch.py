"""FixMatch: the student's own confident predictions label the unlabelled faces (Sohn et al. 2020; SSFER, Table 12)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfer.methods.shared.self_training import SelfTraining


class FixMatch(SelfTraining):
    """The student labels the weak view and learns its confident classes on the strong view."""

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the student's logits, in the mode it is in.

        In a pass of its own: joined with the images that need a gradient, these would cost a backward pass as well,
        for the same numbers in a network without batch statistics.
        """
        with torch.no_grad():
            return self.student(weak)
