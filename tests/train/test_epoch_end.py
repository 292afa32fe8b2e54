"""ssfer.train.epoch_end: in which precision a method's labeled pass computes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.methods.base import Batch, Method
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.training import fit_method


class Passing(Method):
    """Notes the type of what its network computes in steps and in labeled passes."""

    labeled_pass_views = "eval"

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1))
        self.seen: dict[str, set[tuple[Any, ...]]] = {"step": set(), "pass": set()}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": self._noted("step", batch).float().mean()}

    def labeled_pass(self, epoch: int, labeled: Iterable[Batch]) -> None:
        for batch in labeled:
            self._noted("pass", batch)

    def _noted(self, when: str, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = self.student(batch["x_lb"].mean(dim=(1, 2, 3))[:, None])
        self.seen[when].add((found.dtype, torch.backends.cudnn.allow_tf32))
        return found


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", (torch.float32, False)), ("bf16", (torch.bfloat16, False))]
)
def test_labeled_passes_compute_in_eval_precision_and_steps_do_not(
    precision: str, expected: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(8)])
    faces, p = FaceDataset([tmp_path / "faces"], classes=factory.CLASSES), factory.tiny_params()
    machine = Machine(p.machine.model_copy(update={"eval_precision": precision}))
    method, batches = Passing(), StepBatches([Stream("lb", faces, 4, {"": Weak(16, 0.5)}, 1)], 1)
    labeled = labeled_pass_batches("eval", faces, p, machine)
    fit_method(method, batches, p, tmp_path / "run", machine=machine, labeled_batches=labeled)
    assert method.seen == {"step": {(torch.float32, True)}, "pass": {expected}}
