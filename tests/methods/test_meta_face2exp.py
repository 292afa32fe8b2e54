"""Meta-Face2Exp: the worked numbers of its specification (two linear networks, float64), and its invariants."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssfer.methods.context import Context
from ssfer.methods.meta_face2exp import MetaFace2Exp
from ssfer.testing.method_setup import batch_of, build, gradients
from ssfer.train.device import Machine
from ssfer.train.plan import TrainingPlan
from ssfer.train.settings import MachineSettings
from ssfer.train.step import Step

Batch = dict[str, Tensor]
# Per step: CE(labeled), unlabeled loss, classes, student's loss, h, h * CE(strong, own class), sums of absolute values.
WORKED = [
    (1.793018, 3.232883, [0, 2, 1], 2.703350, -0.009121, -0.003250, [12.409146, 1.829924, 10.514944, 1.524897]),
    (1.623273, 2.645519, [2, 1, 1], 2.423353, 0.045822, 0.013520, [12.061346, 1.829924, 10.250859, 1.467369]),
]


def linear_networks(**changes: Any) -> tuple[MetaFace2Exp, list[Batch]]:
    """Return the method of 4 features and 3 classes, and its two batches, drawn as the specification says."""
    random = np.random.RandomState(900)

    def draw(*shape: int) -> Tensor:
        return torch.tensor(random.randn(*shape))

    labeled = [(draw(2, 4), torch.tensor(random.randint(0, 3, 2))) for _ in range(2)]
    views = [(draw(3, 4), draw(3, 4)) for _ in range(2)]
    teacher, student = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    with torch.no_grad():
        for network in (teacher, student):
            network.weight.copy_(draw(3, 4))
            network.bias.copy_(draw(3))
    method = MetaFace2Exp(Context(student, MetaFace2Exp.Settings(**changes)))
    method.teacher = teacher
    unknown = torch.full((3,), -1)
    return method, [
        {"x_lb": x, "y_lb": y, "x_ulb_w": w, "x_ulb_s": s, "y_ulb": unknown}
        for (x, y), (w, s) in zip(labeled, views, strict=True)
    ]


def test_two_steps_are_those_of_the_specification() -> None:
    method, batches = linear_networks()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    for batch, (labeled, unlabeled, classes, own, gain, feedback, sums) in zip(batches, WORKED, strict=True):
        assert method.teacher(batch["x_ulb_w"]).argmax(dim=1).tolist() == classes
        before = nn.functional.cross_entropy(method.student(batch["x_lb"]), batch["y_lb"])
        out = method(batch)
        found = [out[k].item() for k in ("labeled_loss", "unlabeled_loss", "loss")]
        assert found == pytest.approx([labeled, unlabeled, own], abs=1e-6)
        out["loss"].backward()
        assert all(p.grad is None for p in method.teacher.parameters())
        optimizer.step()
        optimizer.zero_grad()
        after = nn.functional.cross_entropy(method.student(batch["x_lb"]), batch["y_lb"])
        assert (before - after).item() == pytest.approx(gain, abs=1e-6)
        loss = method(batch, second=True)["loss"]
        assert loss.item() == pytest.approx(labeled + unlabeled + feedback, abs=2e-6)
        loss.backward()
        assert all(p.grad is None for p in method.student.parameters())
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0)
        parameters = (*method.teacher.parameters(), *method.student.parameters())
        assert [p.detach().abs().sum().item() for p in parameters] == pytest.approx(sums, abs=1e-6)


def test_the_training_step_takes_both_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worked numbers through the loop's own step, which knows no method."""
    method, batches = linear_networks()
    steps = SimpleNamespace(world=1, streams=[], steps_per_epoch=2, arrived=lambda batch, device: batch)
    plan = TrainingPlan(
        method,
        torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9),
        cast(Any, steps),
        lambda _: 0.1,
        0,
        (),
        (),
        "",
    )
    monkeypatch.setattr(Step, "_images", lambda self, batch: batch)  # features, not pixels
    step = Step(plan, Machine(MachineSettings(device="cpu")))
    for number, (batch, worked) in enumerate(zip(batches, WORKED, strict=True)):
        step.gradients(number, batch)
        step.update(number)
        parameters = (*method.teacher.parameters(), *method.student.parameters())
        assert [p.detach().abs().sum().item() for p in parameters] == pytest.approx(worked[-1], abs=1e-6)


def test_parts_of_a_batch_are_compared_with_themselves() -> None:
    """Without a student's step between, every part has gained nothing, whichever part came first."""
    method, batches = linear_networks()
    for batch in batches:
        method(batch)
    for batch in batches:
        terms = method._teachers_terms(batch)
        assert method(batch, second=True)["loss"].item() == pytest.approx((terms[0] + terms[1]).item(), abs=1e-9)


def test_the_teachers_targets_are_as_sharp_as_the_temperature_says() -> None:
    method, (batch, _) = linear_networks(temperature=0.5)
    with torch.no_grad():
        weak, strong = (method.teacher(batch[f"x_ulb_{view}"]) for view in "ws")
    expected = -((2 * weak).softmax(dim=1) * strong.log_softmax(dim=1)).sum(dim=1).mean()
    assert method(batch)["unlabeled_loss"].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("feedback", [0.0, 2.0])
def test_without_feedback_or_gain_the_teacher_trains_as_uda(feedback: float) -> None:
    method, (batch, _) = linear_networks(feedback=feedback, lambda_u=3.0)
    method(batch)  # no step of the student follows: it gains nothing
    found = method(batch, second=True)["loss"].item()
    assert found == pytest.approx(1.793018 + 3 * 3.232883, abs=4e-6)


@pytest.mark.parametrize("label", ["strong", "weak"])
def test_the_feedback_is_about_the_class_of_the_chosen_view(label: str) -> None:
    method, (batch, _) = linear_networks(feedback_label=label, feedback=2.0)
    method(batch)
    with torch.no_grad():
        method.student.get_parameter("bias").add_(torch.tensor([0.5, 0.5, 0.0]))  # stands for a step
    losses = [nn.functional.cross_entropy(net(batch["x_lb"]), batch["y_lb"]) for net in linear_students(method)]
    strong = method.teacher(batch["x_ulb_s"])
    classes = method.teacher(batch[f"x_ulb_{label[0]}"]).argmax(dim=1)
    feedback = 2 * (losses[0] - losses[1]) * nn.functional.cross_entropy(strong, classes)
    assert feedback.abs() > 0.01
    found = method(batch, second=True)["loss"]
    assert found.item() == pytest.approx(1.793018 + 3.232883 + feedback.item(), abs=2e-6)


def linear_students(method: MetaFace2Exp) -> tuple[nn.Module, nn.Module]:
    """Return the student before and after a step."""
    return linear_networks()[0].student, method.student


def test_a_threshold_leaves_targets_out_of_the_teachers_loss_alone() -> None:
    batch = batch_of("meta_face2exp")
    none, all_out = build("meta_face2exp"), build("meta_face2exp", threshold=1.0)
    first, second = none(batch), all_out(batch)
    assert torch.equal(first["loss"], second["loss"])
    assert (first["util_ratio"], second["util_ratio"], second["unlabeled_loss"]) == (1, 0, 0)


def test_the_order_of_the_unlabeled_images_does_not_matter() -> None:
    batch, order = batch_of("meta_face2exp"), torch.tensor([3, 1, 5, 0, 4, 2])
    other = {k: v[order] if "ulb" in k else v for k, v in batch.items()}
    one, two = gradients(build("meta_face2exp"), batch), gradients(build("meta_face2exp"), other)
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)
