"""Thresholds, targets and losses of the methods: by hand, by closed form, by slow loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssfer.core.rng import derive
from ssfer.methods.comatch import Memory
from ssfer.methods.shared import losses, targets
from ssfer.methods.shared import thresholds as masking

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def logits_of(seed: int, rows: int = 6, classes: int = 4) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def probs_of(seed: int, rows: int = 6, classes: int = 4) -> Tensor:
    return logits_of(seed, rows, classes).softmax(dim=1)


def keys(n: int) -> Tensor:
    return torch.tensor([derive(0, i) for i in range(n)])


# --- time ---


def test_clock_counts_steps_and_never_passes_the_end() -> None:
    clock = masking.Clock(4)
    shares = []
    for step in range(6):
        shares.append(clock.share.item())
        clock.after_step(step)
    assert shares == [0, 0.25, 0.5, 0.75, 1, 1]
    assert masking.Clock(0).share.item() == 1
    assert clock.state_dict()["steps"] == 6


@pytest.mark.parametrize(
    ("done", "share", "linear"), [(0.0, 0.4, 0.0), (0.1, 0.4, 0.25), (0.4, 0.4, 1.0), (0.9, 0.4, 1.0), (0.0, 0.0, 1.0)]
)
def test_weights_rise_over_their_share_of_the_run(done: float, share: float, linear: float) -> None:
    assert masking.linear_rampup(torch.tensor(done), share).item() == pytest.approx(linear)
    expected = math.exp(-5 * (1 - linear) ** 2)
    assert masking.sigmoid_rampup(torch.tensor(done), share).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("linear", [1 / 4, 5 / 8, 1.0]),
        ("log", [1 / 4, 0.25 + 0.75 * (1 - math.exp(-2.5)), 0.25 + 0.75 * (1 - math.exp(-5))]),
        ("exp", [0.25 + 0.75 * math.exp(-5), 0.25 + 0.75 * math.exp(-2.5), 1.0]),
        ("none", [math.inf] * 3),
    ],
)
def test_annealing_limit_has_the_values_computed_by_hand(schedule: str, at: list[float]) -> None:
    found = [masking.annealing_limit(torch.tensor(t), 4, schedule).item() for t in (0.0, 0.5, 1.0)]
    assert found == pytest.approx(at)


def test_annealing_leaves_out_what_is_above_the_limit_and_averages_over_the_rest() -> None:
    probs = torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])
    logits, labels = probs.log(), torch.tensor([0, 0, 1])  # probabilities of the label: 0.7, 0.5, 0.8
    for limit, expected in (
        (math.inf, -(math.log(0.7) + math.log(0.5) + math.log(0.8)) / 3),
        (0.75, -(math.log(0.7) + math.log(0.5)) / 2),
        (0.6, -math.log(0.5)),
        (0.4, 0.0),
    ):
        loss = losses.annealed_cross_entropy(logits, labels, torch.tensor(limit))
        assert loss.item() == pytest.approx(expected, abs=1e-6)


# --- targets ---


def test_sharpening_is_a_softmax_of_another_temperature_and_has_its_limits() -> None:
    logits = logits_of(1)
    for t in (0.25, 0.4, 1.0, 3.0):
        assert_close(targets.sharpen(logits.softmax(dim=1), t), (logits / t).softmax(dim=1), **CLOSE)
    hard = targets.sharpen(torch.tensor([[1e-30, 1 - 1e-7, 1e-7]]), 0.01)  # a power of 100
    assert torch.equal(hard, torch.tensor([[0.0, 1.0, 0.0]]))


def test_mixing_by_hand() -> None:
    values, order = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), torch.tensor([2, 0, 1])
    found = targets.mix(values, 0.75, order)
    assert_close(found, torch.tensor([[1.25, 0.5], [0.25, 0.75], [1.5, 1.75]]))
    assert torch.equal(values, torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]))


def test_the_first_image_dominates_a_mixture() -> None:
    torch.manual_seed(0)
    drawn = torch.tensor([targets.draw_mixing(0.75) for _ in range(4000)])
    assert drawn.min() >= 0.5 and drawn.max() <= 1
    # E max(l, 1 - l) = 1/2 + E|l - 1/2|; Beta(3/4, 3/4) by numerical integration
    x = torch.linspace(0.00005, 0.99995, 10000, dtype=torch.float64)
    density = (x * (1 - x)) ** -0.25
    expected = 0.5 + ((x - 0.5).abs() * density).sum() / density.sum()
    assert drawn.mean().item() == pytest.approx(expected.item(), abs=0.01)
    torch.manual_seed(0)
    assert torch.tensor([targets.draw_mixing(50.0) for _ in range(200)]).mean() < 0.56  # alpha is used


def test_rotation_turns_each_image_by_its_own_number_of_quarters() -> None:
    image = torch.tensor([[1.0, 2], [3, 4]]).expand(4, 1, 2, 2)
    found = targets.rotate(image, torch.tensor([0, 1, 2, 3]))
    assert found.flatten(1).tolist() == [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    mixed = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    turned = targets.rotate(mixed, torch.tensor([3, 0, 1]))
    for i, k in enumerate((3, 0, 1)):
        assert torch.equal(turned[i], torch.rot90(mixed[i], k, (1, 2)))


def test_turns_and_normal_numbers_are_functions_of_the_key() -> None:
    turns = targets.quarter_turns(keys(2000))
    assert set(turns.tolist()) == {0, 1, 2, 3}
    assert (torch.bincount(turns) / 2000 - 0.25).abs().max() < 0.03
    assert torch.equal(targets.quarter_turns(keys(2000)[500:600]), turns[500:600])
    normal = targets.counter_normal(keys(50), 400)
    assert torch.isfinite(normal).all()
    assert abs(normal.mean()) < 0.02 and abs(normal.var() - 1) < 0.03
    assert abs((normal**4).mean() - 3) < 0.2  # a bell, not a box
    assert torch.equal(targets.counter_normal(keys(50)[7:9], 400), normal[7:9])


def test_unit_vectors_have_length_one_however_small_they_are() -> None:
    values = torch.tensor([[[3.0, 4.0]], [[3e-30, 4e-30]], [[0.0, 0.0]], [[-3e30, 4e30]]])
    assert_close(targets.unit(values), torch.tensor([[[0.6, 0.8]], [[0.6, 0.8]], [[0.0, 0.0]], [[-0.6, 0.8]]]))


def test_graph_of_predictions_by_hand() -> None:
    # inner products: 0.82 within (0.9, 0.1), 0.68 of it with (0.75, 0.25), 0.18 with (0.1, 0.9); 0.3 of the last two
    probs = torch.tensor([[0.9, 0.1], [0.75, 0.25], [0.1, 0.9]])
    whole = torch.tensor([[1, 0.7, 0.18], [0.7, 1, 0.3], [0.18, 0.3, 1]])
    for threshold, kept in ((0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.9, 0.9)):
        expected = whole * (whole >= kept)
        found = targets.pseudo_label_graph(probs, threshold)
        assert_close(found, expected / expected.sum(dim=1, keepdim=True))


def test_pairs_of_images_weigh_their_confidences_where_both_are_sure_of_one_class() -> None:
    probs = torch.tensor([[0.95, 0.05], [0.8, 0.2], [0.9, 0.1], [0.05, 0.95]])
    found = targets.class_pair_weights(probs, 0.85)
    expected = torch.eye(4)
    expected[0, 2] = expected[2, 0] = 0.95 * 0.9
    assert_close(found, expected)
    assert torch.equal(targets.class_pair_weights(probs, float(probs[2, 0])), found)  # equal to it is enough
    everyone = targets.class_pair_weights(probs, 0.0)
    assert_close(everyone[0], torch.tensor([1, 0.76, 0.855, 0.0]))


# --- memory ---


def test_an_empty_memory_changes_no_prediction() -> None:
    memory, probs = Memory(5, 2, 4), probs_of(2)
    assert_close(memory.smooth(F.normalize(logits_of(3, classes=2)), probs, 0.3, 0.2), probs, **CLOSE)


def test_memory_smooths_towards_similar_images_by_the_loop() -> None:
    memory = Memory(5, 3, 4)
    stored, labels = F.normalize(logits_of(4, 3, 3), dim=1), probs_of(5, 3)
    memory.note(stored, labels)
    memory.after_step(0)
    z, probs = F.normalize(logits_of(6, 4, 3), dim=1), probs_of(7, 4)
    found = memory.smooth(z, probs, 0.9, 0.2)
    for i in range(4):
        a = [math.exp(float(z[i] @ m) / 0.2) for m in stored]
        near = sum((w / sum(a)) * q for w, q in zip(a, labels, strict=True))
        assert_close(found[i], 0.9 * probs[i] + 0.1 * near, **CLOSE)


def test_memory_keeps_the_last_images_in_a_ring() -> None:
    memory = Memory(4, 1, 2)
    for first in (0, 3, 6):
        rows = torch.arange(first, first + 3).float()[:, None]
        memory.note(rows[:1], rows[:1].expand(1, 2))
        memory.note(rows[1:], rows[1:].expand(2, 2))  # in two passes
        assert memory.position == first % 4  # nothing enters before the step is over
        memory.after_step(0)
    assert memory.features.flatten().tolist() == [8, 5, 6, 7]
    assert memory.targets[:, 1].tolist() == [8, 5, 6, 7]
    memory.note(torch.arange(10, 20).float()[:, None], torch.ones(10, 2))  # more than it holds
    memory.after_step(0)
    assert sorted(memory.features.flatten().tolist()) == [16, 17, 18, 19]


# --- losses ---


def test_soft_masked_cross_entropy_divides_by_the_batch() -> None:
    logits, target, mask = logits_of(8, 3), probs_of(9, 3), torch.tensor([1.0, 0.0, 0.5])
    own = [-(t * row.log_softmax(dim=0)).sum() for t, row in zip(target, logits, strict=True)]
    assert_close(losses.masked_soft_cross_entropy(logits, target, mask), (own[0] + 0.5 * own[2]) / 3)


def test_squared_difference_of_probabilities_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    target = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    assert losses.probability_mse(logits, target).item() == pytest.approx((0.25 + 0.25) / 4)


def test_divergence_and_entropy_by_hand() -> None:
    target, logits = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log()
    expected = [0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2), -math.log(0.8)]
    assert losses.kl_divergence(target, logits).tolist() == pytest.approx(expected)
    assert losses.kl_divergence(probs_of(1), probs_of(1).log()).abs().max() < 1e-6
    expected = [-0.8 * math.log(0.8) - 0.2 * math.log(0.2)] * 2
    assert losses.entropy(logits).tolist() == pytest.approx(expected)


def test_fairness_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    mask = torch.tensor([1.0, 1, 1, 0])
    mean, histogram = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.6, 0.0])
    # mean / histogram = 2, 0.5, 0 (nobody) -> 0.8, 0.2, 0
    # kept: p = (1.3, 1.3, 0.4) / 3; h = 2/3, 1/3, 0 -> p / h = 0.65, 1.3, 0 -> 1/3, 2/3, 0
    expected = 0.8 * math.log(1 / 3) + 0.2 * math.log(2 / 3)
    found = losses.fairness_loss(probs.log(), mask, mean, histogram)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_fairness_is_zero_when_nothing_is_kept_and_has_a_finite_gradient() -> None:
    logits = logits_of(10).requires_grad_()
    loss = losses.fairness_loss(logits, torch.zeros(6), torch.full((4,), 0.25), torch.full((4,), 0.25))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(6, 4))


def test_graph_contrast_by_the_loop() -> None:
    a, b = (F.normalize(logits_of(s, 4, 3), dim=1) for s in (11, 12))
    graph = targets.pseudo_label_graph(probs_of(13, 4), 0.2)
    total = 0.0
    for i in range(4):
        scores = [math.exp(float(a[i] @ b[j]) / 0.2) for j in range(4)]
        total -= sum(float(graph[i, j]) * math.log(scores[j] / sum(scores)) for j in range(4))
    assert losses.graph_contrastive_loss(a, b, graph, 0.2).item() == pytest.approx(total / 4, rel=1e-5)


def test_weighted_contrast_by_the_loop() -> None:
    a, b = (F.normalize(logits_of(s, 3, 3), dim=1) for s in (14, 15))
    weights = torch.tensor([[1, 0.8, 0], [0.8, 1, 0.0], [0, 0, 1]])
    v = torch.cat([a, b])
    total = 0.0
    for i in range(6):
        scores = {j: math.exp(float(v[i] @ v[j]) / 0.1) for j in range(6) if j != i}
        w = {j: float(weights[i % 3, j % 3]) for j in scores}
        logs = sum(w[j] * math.log(scores[j] / sum(scores.values())) for j in scores)
        total -= logs / sum(w.values())
    assert losses.weighted_contrastive_loss(a, b, weights, 0.1).item() == pytest.approx(total / 6, rel=1e-5)


def test_without_classes_the_weighted_contrast_is_that_of_own_views() -> None:
    a, b = (F.normalize(logits_of(s, 3, 3), dim=1) for s in (14, 15))
    v = torch.cat([a, b])
    scores = (v @ v.T / 0.1).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(scores, torch.arange(6).roll(3))
    assert_close(losses.weighted_contrastive_loss(a, b, torch.eye(3), 0.1), expected, **CLOSE)
    one = losses.weighted_contrastive_loss(a[:1], b[:1], torch.ones(1, 1), 0.1)
    assert one.item() == pytest.approx(0.0)


# --- running statistics ---


def test_free_thresholds_start_at_chance_and_follow_the_loop() -> None:
    rule = masking.SelfAdaptiveThresholds(4, 0.9)
    assert_close(rule.thresholds(), torch.full((4,), 0.25))
    tau, mean, histogram = 0.25, [0.25] * 4, [0.25] * 4
    for step in range(3):
        probs = probs_of(20 + step, 8)
        rule.note(probs[:3])
        rule.note(probs[3:])
        before = rule.thresholds()
        rule.after_step(0)
        assert not torch.equal(before, rule.thresholds())
        tau = 0.9 * tau + 0.1 * sum(max(row) for row in probs.tolist()) / 8
        for k in range(4):
            mean[k] = 0.9 * mean[k] + 0.1 * sum(row[k] for row in probs.tolist()) / 8
            histogram[k] = 0.9 * histogram[k] + 0.1 * sum(row.index(max(row)) == k for row in probs.tolist()) / 8
        assert rule.thresholds().tolist() == pytest.approx([m / max(mean) * tau for m in mean], rel=1e-5)
        assert rule.histogram.tolist() == pytest.approx(histogram, rel=1e-5)
    rule.after_step(0)  # nothing was noted since
    assert rule.confidence.item() == pytest.approx(tau, rel=1e-5)


def test_soft_weights_follow_the_loop() -> None:
    rule = masking.TruncatedGaussian(4, 0.9)
    mu, variance, mean = 0.25, 1.0, [0.25] * 4

    def aligned(rows: Tensor) -> list[float]:
        scaled = [[p * 0.25 / m for p, m in zip(row, mean, strict=True)] for row in rows.tolist()]
        return [max(row) / sum(row) for row in scaled]

    for step in range(3):
        probs = probs_of(30 + step, 8)
        confidence = aligned(probs)
        expected = [
            1.0 if c >= mu else math.exp(-((c - mu) ** 2) / (2 * variance / 4)) for c in confidence
        ]  # n = 2: the variance divided by 4
        assert rule.weights(probs).tolist() == pytest.approx(expected, rel=1e-4)
        rule.note(probs)
        rule.after_step(0)
        if not step:
            mean = probs.mean(dim=0).tolist()
            confidence = aligned(probs)
        center = sum(confidence) / 8
        spread = sum((c - center) ** 2 for c in confidence) / 7
        mu, variance = 0.9 * mu + 0.1 * center, 0.9 * variance + 0.1 * spread
        mean = [0.9 * m + 0.1 * p for m, p in zip(mean, probs.mean(dim=0).tolist(), strict=True)]
        assert [rule.mu.item(), rule.variance.item()] == pytest.approx([mu, variance], rel=1e-5)


def test_soft_weights_start_with_the_first_batchs_mean() -> None:
    rule = masking.TruncatedGaussian(2, 0.9)
    rule.note(torch.tensor([[0.9, 0.1], [0.7, 0.3]]))  # mean 0.8, 0.2; ratios to it 1.125, 0.5 and 0.875, 1.5
    rule.after_step(0)
    assert rule.mean.tolist() == pytest.approx([0.8, 0.2])
    assert rule.mu.item() == pytest.approx(0.45 + 0.1 * (9 / 13 + 12 / 19) / 2)
    assert rule.variance.item() == pytest.approx(0.9 + 0.1 * (9 / 13 - 12 / 19) ** 2 / 2)
    rule.note(torch.tensor([[0.2, 0.8]]))
    rule.after_step(1)
    assert rule.mean.tolist() == pytest.approx([0.74, 0.26])


def test_soft_weights_by_hand() -> None:
    rule = masking.TruncatedGaussian(2, 0.9)
    rule.mu.fill_(0.9)
    rule.variance.fill_(0.16)
    found = rule.weights(torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]))
    assert found.tolist() == pytest.approx([1, 1, math.exp(-0.5), math.exp(-2)], rel=1e-4)


def test_a_single_prediction_has_no_spread() -> None:
    rule = masking.TruncatedGaussian(4, 0.5)
    rule.note(probs_of(1, 1))
    rule.after_step(0)
    assert rule.variance.item() == 0.5


def test_rules_leave_their_inputs_unchanged() -> None:
    probs, logits = probs_of(1), logits_of(2)
    before = probs.clone(), logits.clone()
    targets.sharpen(probs, 0.5), targets.pseudo_label_graph(probs, 0.5), targets.class_pair_weights(probs, 0.5)
    targets.unit(probs), losses.kl_divergence(probs, logits), losses.entropy(logits)
    losses.fairness_loss(logits, torch.ones(6), probs[0], probs[1])
    for rule in (masking.SelfAdaptiveThresholds(4, 0.9), masking.TruncatedGaussian(4, 0.9)):
        rule.note(probs)
        rule.after_step(0)
    assert torch.equal(probs, before[0]) and torch.equal(logits, before[1])
