"""Every registered method passes the conformance kit, and the kit finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.config.schema import load_params
from ssfer.methods.base import Batch
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.registry import METHODS
from ssfer.testing import methods as kit
from tests.support.factory import ROOT


@pytest.mark.parametrize("check", kit.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_method_conforms(name: str, check: Callable[[str], None]) -> None:
    check(name)


def test_every_method_says_its_name_and_paper_and_params_yaml_has_its_section() -> None:
    assert set(load_params(ROOT / "params.yaml").methods) == set(METHODS)
    assert len({METHODS[name].title for name in METHODS}) == len(METHODS)
    assert all(METHODS[name].paper for name in METHODS)


# --- each check fails for a method that is wrong in its way ---


class LeakyTarget(FixMatch):
    def label_logits(self, weak: Tensor) -> Tensor:
        return self.student(weak)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out = super().forward(batch)
        return out | {"loss": out["loss"] + self.student(batch["x_ulb_w"]).mean()}


class Untaught(FixMatch):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return super().forward(batch | {"x_ulb_s": batch["x_lb"][:1].expand_as(batch["x_ulb_s"])})


class InPlace(FixMatch):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        batch["x_ulb_s"].mul_(0.5)
        return super().forward(batch)


class Aliased(EMATeacher):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.teacher.module.head.bias.data = self.student.head.bias.data


class Forgetful(FixMatch):
    """Remembers in an attribute that no checkpoint carries."""

    scale: Tensor | float = 1.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out = super().forward(batch)
        return out | {"loss": out["loss"] * self.scale}

    def after_step(self, step: int) -> None:
        self.scale = torch.as_tensor(self.scale) * 0.5


class Cheating(FixMatch):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out = super().forward(batch)
        return out | {"loss": out["loss"] + self.student(batch["x_ulb_s"])[batch["y_ulb"] > 0].sum()}


class MeanOfKept(FixMatch):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        one = self.pseudo_loss
        self.pseudo_loss = lambda logits, target, mask, probs: one(logits, target, mask, probs) / mask.mean()


class Undetached(FixMatch):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out = super().forward(batch)
        return out | {"labeled_loss": out["loss"]}


class WrongEvaluated(EMATeacher):
    def eval_module(self) -> Any:
        return self.student


class Misdeclared(FixMatch):
    targets = ("w2",)


class NeedsMany(FixMatch):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out = super().forward(batch)
        return out | {"loss": out["loss"] + 0 * self.student(batch["x_lb"]).var(dim=0).sum()}


@pytest.mark.parametrize(
    ("wrong", "like", "check"),
    [
        (Misdeclared, "fixmatch", kit.declares_itself),
        (Undetached, "fixmatch", kit.reports_one_loss_and_monitors),
        (LeakyTarget, "fixmatch", kit.gradient_reaches_what_is_trained_and_nothing_else),
        (Untaught, "fixmatch", kit.the_unlabeled_images_teach),
        (InPlace, "fixmatch", kit.leaves_its_batch_alone),
        (Aliased, "ema_teacher", kit.leaves_its_batch_alone),
        (Forgetful, "fixmatch", kit.resumes_exactly),
        (Forgetful, "fixmatch", kit.keeps_its_state_in_buffers),
        (WrongEvaluated, "ema_teacher", kit.evaluates_what_it_says),
        (Cheating, "fixmatch", kit.never_reads_the_unlabeled_labels),
        (NeedsMany, "fixmatch", kit.works_with_a_batch_of_one),
        (MeanOfKept, "fixmatch", kit.works_when_no_sample_is_kept),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_the_kit_finds_a_method_that_is_wrong(
    wrong: type[FixMatch], like: str, check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS._loaded, like, wrong)
    with pytest.raises(AssertionError, match=rf"^method '{like}' breaks the contract '.+' \({check.__name__}\)"):
        check(like)
