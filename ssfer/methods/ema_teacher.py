"""EMA teacher: confident predictions of the averaged network label the unlabelled faces (SSFER specification 10)."""

from __future__ import annotations

from torch import Tensor

from ssfer.methods.shared.averaged import Averaged
from ssfer.methods.shared.self_training import SelfTraining


class EMATeacher(Averaged, SelfTraining):
    """The teacher sees the weak view, the student learns its confident classes on the strong view."""

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the teacher's logits."""
        return self.teacher(weak)
