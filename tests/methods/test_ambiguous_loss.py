"""ambiguous_loss and nt_xent: worked numbers, slow oracles, invariants (LEAF specification 4, 5, 8, 9)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssfer.methods.shared.ambiguous import ambiguous_loss
from ssfer.methods.shared.losses import _masked_nt_xent, nt_xent

STRONG = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])
# Section 8: target, m, loss, concave weight.
WORKED = [
    ([0.95, 0.02, 0.01, 0.008, 0.006, 0.004, 0.002], 1, 0.629426, 0.987485),
    ([0.60, 0.31, 0.04, 0.02, 0.01, 0.01, 0.01], 1, 0.629426, 0.666190),
    ([0.50, 0.30, 0.12, 0.03, 0.02, 0.02, 0.01], 2, 1.061712, 0.836091),
    ([0.30, 0.25, 0.15, 0.10, 0.08, 0.07, 0.05], 3, 1.206354, 0.747222),
]


def targets(n: int, num_classes: int = 7, seed: int = 0, sharp: float = 2.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(n, num_classes, generator=g)).softmax(dim=1)


def logits(n: int, num_classes: int = 7, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, num_classes, generator=torch.Generator().manual_seed(seed))


def positives(p: list[float], k_max: int = 3, coverage: float = 0.9) -> list[int]:
    """Section 5 in words of one sample: which classes are positive."""
    order = sorted(range(len(p)), key=lambda c: -p[c])
    for j in range(1, k_max):
        if sum(p[c] for c in order[: j + 1]) >= coverage:
            return order[:j]
    return order[:k_max]


def oracle(s: list[float], p: list[float]) -> tuple[float, float]:
    """The formulas of section 5 in double precision, pair by pair."""
    chosen = positives(p)
    rest = [c for c in range(len(s)) if c not in chosen]
    loss = math.log(1 + sum(math.exp(s[n] - s[j]) for n in rest for j in chosen))
    m, ranked = len(chosen), sorted(p, reverse=True)
    mu, pi = sum(ranked[: m + 1]) / (m + 1), ranked[m]
    return loss, min(math.log(1 + 50 * (mu - pi)) / math.log(1 + 50 * mu), 1.0)


@pytest.mark.parametrize(("p", "m", "loss", "weight"), WORKED)
def test_worked_numbers(p: list[float], m: int, loss: float, weight: float) -> None:
    found = ambiguous_loss(STRONG[None], torch.tensor([p]))
    assert len(positives(p)) == m
    assert found[0].item() == pytest.approx(loss, abs=2e-6)
    assert found[1].item() == pytest.approx(weight, abs=2e-6)


def test_batch_agrees_with_the_formulas_of_one_sample() -> None:
    s, p = logits(60), targets(60)
    assert {len(positives(row.tolist())) for row in p} == {1, 2, 3}  # the cases mean something
    loss, weight = ambiguous_loss(s, p)
    expected = [oracle(a.tolist(), b.tolist()) for a, b in zip(s, p, strict=True)]
    assert_close(loss, torch.tensor([e[0] for e in expected]), rtol=1e-5, atol=1e-6)
    assert_close(weight, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-6)


def test_one_positive_is_cross_entropy() -> None:
    """Invariant 1; also for any target when k_max is 1."""
    s, p = logits(40), targets(40, sharp=8.0)
    sure = torch.tensor([len(positives(row.tolist())) == 1 for row in p])
    assert 0 < sure.sum() < 40
    assert_close(ambiguous_loss(s, p)[0][sure], F.cross_entropy(s, p.argmax(dim=1), reduction="none")[sure])
    assert_close(ambiguous_loss(s, p, k_max=1)[0], F.cross_entropy(s, p.argmax(dim=1), reduction="none"))


def test_positive_logits_pull_down_negative_ones_push_up_and_a_constant_does_nothing() -> None:
    """Invariant 2."""
    s, p = logits(30).requires_grad_(), targets(30)
    loss, _ = ambiguous_loss(s, p)
    assert (loss > 0).all()
    loss.sum().backward()
    for gradient, row in zip(s.grad, p, strict=True):
        chosen = positives(row.tolist())
        assert (gradient[chosen] < 0).all()
        assert (gradient[[c for c in range(7) if c not in chosen]] > 0).all()
    assert_close(ambiguous_loss(s + 3.0, p)[0], loss, rtol=1e-5, atol=1e-6)


def test_the_target_enters_the_loss_by_its_positive_set_alone_and_gets_no_gradient() -> None:
    """Invariant 3."""
    s, p = logits(1).requires_grad_(), torch.tensor([[0.5, 0.3, 0.12, 0.03, 0.02, 0.02, 0.01]], requires_grad=True)
    other = torch.tensor([[0.3, 0.55, 0.02, 0.06, 0.02, 0.04, 0.01]])  # two positives, the same ones
    (loss, weight), (loss_too, weight_too) = ambiguous_loss(s, p), ambiguous_loss(s, other)
    assert torch.equal(loss, loss_too) and not torch.allclose(weight, weight_too)
    assert torch.equal(ambiguous_loss(s.detach() * 3, p)[1], weight)  # the weight is of the target alone
    assert not weight.requires_grad
    (loss * weight).sum().backward()
    assert p.grad is None and s.grad.abs().sum() > 0


def test_weights_lie_between_their_ends() -> None:
    """Invariant 5."""
    weight = ambiguous_loss(logits(300), targets(300, seed=4))[1]
    assert ((weight > 0) & (weight <= 1)).all()
    ends = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25, 0, 0, 0]])
    assert_close(ambiguous_loss(STRONG.expand(3, -1), ends)[1], torch.tensor([1.0, 0.0, 0.0]))


def test_large_logits_stay_finite() -> None:
    s = torch.tensor([[1e4, -1e4, 0.0, 5.0]], requires_grad=True)
    for p in ([[0.1, 0.9, 0.0, 0.0]], [[0.9, 0.1, 0.0, 0.0]]):
        loss, _ = ambiguous_loss(s, torch.tensor(p))
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(s.grad).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_max": 7}, "k_max 7 must be at least 1 and leave one of the 7 classes"),
        ({"k_max": 0}, "k_max 0 must"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ambiguous_loss(logits(2), targets(2), **settings)  # type: ignore[arg-type]


# --- NT-Xent ---


def unit(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def nt_xent_in_loops(a: Tensor, b: Tensor, temperature: float) -> float:
    v = [*a.double(), *b.double()]
    total = 0.0
    for i, one in enumerate(v):
        partner = v[(i + len(a)) % len(v)]
        others = sum(math.exp(float(one @ other) / temperature) for j, other in enumerate(v) if j != i)
        total -= float(one @ partner) / temperature - math.log(others)
    return total / len(v)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_nt_xent_agrees_with_the_loop(n: int, temperature: float) -> None:
    a, b = unit(n, 1), unit(n, 2)
    assert nt_xent(a, b, temperature).item() == pytest.approx(nt_xent_in_loops(a, b, temperature), rel=1e-5, abs=1e-6)


def test_one_sample_has_nothing_to_be_told_from_and_none_costs_nothing() -> None:
    """Invariant 12."""
    a = unit(1, 1).requires_grad_()
    assert nt_xent(a, unit(1, 2)).item() == pytest.approx(0, abs=1e-6)
    none = torch.empty(0, 5, requires_grad=True)
    loss = nt_xent(none, none)
    assert loss.item() == 0 and loss.ndim == 0
    loss.backward()


@pytest.mark.parametrize("which", [[1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0], [0] * 7, [1] * 7])
def test_masked_pairs_are_the_same_as_pairs_left_out(which: list[int]) -> None:
    """On a GPU pairs are masked; values and gradients are those of the shorter batch, and never not a number."""
    mask = torch.tensor(which).bool()
    found = []
    for loss in (nt_xent, _masked_nt_xent):
        a, b = unit(7, 1).requires_grad_(), unit(7, 2).requires_grad_()
        value = loss(a, b, 0.07, mask)
        value.backward()
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in (a, b)]  # None: without any pair
        found.append((value.detach(), *grads))
    for left_out, masked in zip(*found, strict=True):
        assert_close(masked, left_out, rtol=1e-5, atol=1e-6)
