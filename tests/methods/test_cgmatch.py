"""CGMatch: the count-gap, who teaches how, and the loss image by image from the formula."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.methods.cgmatch import TrainingDynamics, count_gaps, generalized_cross_entropy
from ssfer.testing.methods import CLASSES, batch_of, build


def test_count_gap_is_the_lead_of_the_commonest_class() -> None:
    counts = torch.tensor([[5, 2, 4], [3, 3, 0], [0, 0, 7], [0, 0, 0]])
    assert count_gaps(counts).tolist() == [1, 0, 7, 0]


def test_generalized_cross_entropy_is_bounded_and_near_the_cross_entropy_where_sure() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, 60.0]])
    found = generalized_cross_entropy(logits, torch.tensor([1, 0, 0]))
    assert_close(found, torch.tensor([(1 - 0.75**0.7) / 0.7, (1 - 0.25**0.7) / 0.7, 1 / 0.7]))


def test_dynamics_remember_after_the_step_and_start_with_the_first_batch() -> None:
    seen = TrainingDynamics(2, 4, decay=0.9)
    one, two = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([[0, 1]], dtype=torch.int32)
    batch = (torch.tensor([3]), torch.tensor([[0.8, 0.2]]), torch.tensor([0.7]))
    assert seen.note(*batch, one).tolist() == [1]  # with the class it gets now
    assert seen.counts.sum() == 0
    seen.after_step(0)
    assert seen.counts.tolist() == [[0, 0]] * 3 + [[1, 0]]
    assert_close(torch.stack([seen.confidence, seen.gap, seen.probs[0]]), torch.tensor([0.7, 1.0, 0.8]))
    assert seen.note(torch.tensor([3]), torch.tensor([[0.4, 0.6]]), torch.tensor([0.5]), two).tolist() == [0]
    seen.after_step(1)
    assert seen.counts[3].tolist() == [1, 1]
    assert_close(torch.stack([seen.confidence, seen.gap, seen.probs[0]]), torch.tensor([0.68, 0.9, 0.76]))


def probs_of(network: nn.Module, images: Tensor) -> list[list[float]]:
    with torch.no_grad():
        return [network(x[None])[0].softmax(dim=0).tolist() for x in images]


@pytest.mark.parametrize("align", ["uniform", "labels", "none"])
def test_the_sure_learn_the_strong_view_and_the_steady_both_views_mildly(align: str) -> None:
    method, batch = build("cgmatch", lambda_u=2.0, lambda_h=3.0, align=align), batch_of("cgmatch")
    method.clock.steps.fill_(5)  # of 10
    seen = method.dynamics
    seen.started.fill_(True)
    seen.probs.copy_(torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]))
    seen.gap.fill_(2.0)  # as high as the steady ones' gaps, which are enough
    weak, strong = (probs_of(method.student, batch[f"x_ulb_{v}"]) for v in "ws")
    goal = {"uniform": [0.2] * 5, "labels": [n / 16 for n in (4, 3, 2, 3, 4)], "none": seen.probs.tolist()}[align]
    scaled = [[p * g / m for p, g, m in zip(row, goal, seen.probs.tolist(), strict=True)] for row in weak]
    aligned = [[p / sum(row) for p in row] for row in scaled]
    target = [row.index(max(row)) for row in aligned]
    confidence = [max(row) for row in aligned]
    seen.confidence.fill_(sorted(confidence)[3] - 1e-6)  # three of six are sure
    steady = sorted(range(6), key=confidence.__getitem__)[:2]  # two of the others have got their class before
    for i in steady:
        seen.counts[batch["idx_ulb"][i], target[i]] = 1
    easy = [-math.log(s[t]) if c >= seen.confidence else 0 for s, t, c in zip(strong, target, confidence, strict=True)]
    mild = [sum((1 - view[i][target[i]] ** 0.7) / 0.7 for view in (weak, strong)) for i in steady]
    labels = [
        -math.log(p[y]) for p, y in zip(probs_of(method.student, batch["x_lb"]), batch["y_lb"].tolist(), strict=True)
    ]
    expected = sum(labels) / 4 + 2.0 * sum(easy) / 6 + 3.0 * 0.5**2 * sum(mild) / 6
    out = method(batch)
    assert_close(out["loss"].item(), expected, rtol=1e-5, atol=1e-6)
    assert out["util_ratio"] == 0.5
    assert out["kept_count"].sum() == 3
    assert CLASSES == 5
