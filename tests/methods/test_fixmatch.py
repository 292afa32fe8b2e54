"""ssfer.methods.fixmatch: the student labels its own unlabeled faces (Sohn et al. 2020; SSFER, Table 12)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.methods.context import Context
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.fixmatch import FixMatch
from tests.support.method_batches import backward, batch_of, gradients, student


def fixmatch(**changes: Any) -> FixMatch:
    values = {"threshold": 0.4, "lambda_u": 5.0} | changes
    network = student()
    with torch.no_grad():
        network.head.weight.mul_(3)  # confident of some images
    return FixMatch(Context(network, FixMatch.Settings(**values)))


def loss_in_loops(method: FixMatch, batch: dict[str, Tensor]) -> tuple[float, float]:
    """One image at a time; returns the loss and the share kept."""
    labeled = unlabeled = kept = 0.0
    for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True):
        labeled -= method.student(x[None])[0].log_softmax(dim=0)[y].item()
    for weak, strong in zip(batch["x_ulb_w"], batch["x_ulb_s"], strict=True):
        probs = method.student(weak[None])[0].softmax(dim=0).tolist()
        if max(probs) > method.settings.threshold:
            kept += 1
            unlabeled -= method.student(strong[None])[0].log_softmax(dim=0)[probs.index(max(probs))].item()
    n = len(batch["x_ulb_w"])
    return labeled / len(batch["x_lb"]) + method.settings.lambda_u * unlabeled / n, kept / n


@pytest.mark.parametrize("lambda_u", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("threshold", [0.0, 0.86, 1.0])
def test_fixmatch_agrees_with_the_loop(lambda_u: float, threshold: float) -> None:
    method, batch = fixmatch(lambda_u=lambda_u, threshold=threshold), batch_of(1)
    out = method(batch)
    loss, kept = loss_in_loops(method, batch)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert out["util_ratio"].item() == pytest.approx(kept)
    if threshold == 0.86:
        assert 0 < kept < 1  # the case means something


def test_fixmatch_is_an_ema_teacher_that_forgets_at_once() -> None:
    """Decay 0: step by step the same loss, gradients and weights, bit for bit."""
    own = fixmatch()
    values = {**own.settings.model_dump(), "ema_decay": 0.0}
    teacher = EMATeacher(Context(copy.deepcopy(own.student), EMATeacher.Settings(**values)))
    optimizers = [torch.optim.AdamW(m.student.parameters(), 1e-3) for m in (own, teacher)]
    kept = []
    for step in range(4):
        batch = batch_of(step)
        outs = [method(batch) for method in (own, teacher)]
        assert outs[0].keys() == outs[1].keys()
        assert all(torch.equal(outs[0][k], outs[1][k]) for k in outs[0])
        kept.append(outs[0]["util_ratio"].item())
        for out, method, optimizer in zip(outs, (own, teacher), optimizers, strict=True):
            out["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(step)
        pairs = zip(own.student.state_dict().values(), teacher.student.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert any(0 < k <= 1 for k in kept)


def test_gradient_comes_from_the_strong_view_and_the_labels_alone() -> None:
    batch = batch_of(3)
    for name in ("x_lb", "x_ulb_w", "x_ulb_s"):
        batch[name].requires_grad_()
    both, labeled = fixmatch(threshold=0.0), fixmatch(threshold=0.0, lambda_u=0.0)
    supervised = copy.deepcopy(labeled.student)
    F.cross_entropy(supervised(batch["x_lb"]), batch["y_lb"]).backward()
    expected, without = gradients(supervised), backward(labeled, batch)
    for name in expected:
        assert_close(without[name], expected[name], rtol=1e-4, atol=1e-6)
    difference = {k: (v - without[k]).norm() for k, v in backward(both, batch).items()}
    assert all(norm > 1e-6 for norm in difference.values())
    assert batch["x_ulb_s"].grad.abs().sum() > 0
    assert batch["x_ulb_w"].grad is None


def test_the_student_is_all_there_is() -> None:
    method = fixmatch()
    assert method.eval_module() is method.student
    assert method.networks() == {"student": method.student}
    assert {k.partition(".")[0] for k in method.state_dict()} == {"student"}
    assert method.views == ("w", "s")


def test_labels_come_from_the_network_in_the_mode_it_is_in() -> None:
    """As in the paper's own code: with dropout the weak view is seen through dropout, too."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3))
    method = FixMatch(Context(network, fixmatch().settings)).train()
    weak = batch_of(6)["x_ulb_w"]
    torch.manual_seed(1)
    first = method.label_logits(weak)
    assert not first.requires_grad
    assert not torch.equal(method.label_logits(weak), first)
    assert torch.equal(method.eval().label_logits(weak), method.label_logits(weak))


def test_true_labels_of_unlabeled_images_influence_only_the_monitors() -> None:
    method, batch = fixmatch(), batch_of(5)
    first = backward(method, batch)
    other = batch | {"y_ulb": torch.full((6,), -1)}
    second = backward(method, other)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert method(other)["class_count"].tolist() == [0, 0, 0]
    assert sum(method(batch)["class_count"].tolist()) == 6


def test_a_confidence_equal_to_the_threshold_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method = fixmatch(threshold=0.5)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(6, 3)
    monkeypatch.setattr(method, "label_logits", lambda _x: logits)
    assert method(batch_of())["util_ratio"].item() == 0
