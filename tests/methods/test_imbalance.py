"""Corrections of imbalance: formulas by hand, closed forms and loops; state that follows the steps alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.methods.base import Method
from ssfer.methods.registry import METHODS
from ssfer.methods.shared import imbalance
from ssfer.methods.shared.imbalance import Imbalance, Population
from ssfer.methods.shared.settings import ImbalanceSettings
from ssfer.models.vit import build_classifier
from tests.support import factory
from tests.support.method_batches import built

COUNTS = (6, 3, 1)
SELECTING = ("ema_teacher", "fixmatch")  # the plain ones of the methods that take all corrections
THRESHOLD = 0.6


def switched(**on: Any) -> ImbalanceSettings:
    return ImbalanceSettings(
        **{"distribution_alignment": False, "class_thresholds": False, "logit_adjustment": 0.0} | on
    )


def predictions(seed: int, rows: int = 8, classes: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, classes, generator=g)).softmax(dim=1)


# --- formulas ---


def test_prior_is_the_share_of_each_class() -> None:
    assert_close(imbalance.class_prior(COUNTS), torch.tensor([0.6, 0.3, 0.1]))


def test_a_class_without_label_is_refused() -> None:
    with pytest.raises(SsferError, match=r"needs a labeled image of every class, found counts \[3, 0\]"):
        imbalance.class_prior([3, 0])


def test_alignment_has_the_value_computed_by_hand() -> None:
    # ratios 0.6/0.4, 0.3/0.4, 0.1/0.2 = 1.5, 0.75, 0.5; products 0.3, 0.225, 0.1, sum 0.625
    aligned = imbalance.align_distribution(
        torch.tensor([[0.2, 0.3, 0.5]]) * torch.tensor([1.0, 1.0, 0.4]) / 0.7,
        torch.tensor([0.6, 0.3, 0.1]),
        torch.tensor([0.4, 0.4, 0.2]),
    )
    assert_close(aligned, torch.tensor([[0.3, 0.225, 0.1]]) / 0.625)


def test_a_class_that_was_never_predicted_gives_finite_probabilities() -> None:
    aligned = imbalance.align_distribution(predictions(2), torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.7, 0.3, 0.0]))
    assert torch.isfinite(aligned).all()
    assert_close(aligned.sum(dim=1), torch.ones(8))


@pytest.mark.parametrize(
    ("confident", "total", "expected"),
    [
        ([50, 25, 0], 100, [0.8, 0.8 / 3, 0.0]),  # beta 1, 1/2, 0; M = 1, 1/3, 0
        ([50, 25, 25], 400, [0.8 / 11, 0.8 / 23, 0.8 / 23]),  # warm-up: 300 undecided; beta 1/6, 1/12, 1/12
        ([0, 0, 0], 7, [0.0, 0.0, 0.0]),
        ([9, 9, 9], 27, [0.8, 0.8, 0.8]),
    ],
)
def test_thresholds_have_the_values_computed_by_hand(confident: list[int], total: int, expected: list[float]) -> None:
    found = imbalance.curriculum_thresholds(torch.tensor(confident), total, 0.8)
    assert_close(found, torch.tensor(expected))


def test_adjusted_cross_entropy_is_that_of_menons_equation() -> None:
    g = torch.Generator().manual_seed(3)
    logits, labels, prior = torch.randn(5, 3, generator=g), torch.tensor([0, 1, 2, 1, 0]), torch.tensor([0.6, 0.3, 0.1])
    for tau in (0.5, 1.0, 2.0):
        found = F.cross_entropy(imbalance.adjust_logits(logits, prior, tau), labels, reduction="none")
        for row, y, loss in zip(logits.tolist(), labels.tolist(), found, strict=True):
            margins = [
                (prior[k].item() / prior[y].item()) ** tau * 2.718281828459045 ** (row[k] - row[y])
                for k in range(3) if k != y
            ]  # fmt: skip
            assert loss.item() == pytest.approx(torch.tensor(1 + sum(margins)).log().item(), rel=1e-5)


# --- state ---


def test_switched_off_nothing_is_held_and_nothing_changed() -> None:
    off, probs = Imbalance(), predictions(5)
    assert off.state_dict() == {} and list(off.buffers()) == []
    assert off.align(probs) is probs and off.adjust(probs) is probs
    mask, target = off.mask(probs, None, THRESHOLD)
    assert mask.tolist() == [float(row.max() > 0.6) for row in probs]
    assert target.tolist() == probs.argmax(dim=1).tolist()
    off.after_step(0)


@pytest.mark.parametrize(
    "on", [{"distribution_alignment": True}, {"class_thresholds": True}, {"logit_adjustment": 1.0}]
)
def test_switched_on_the_numbers_of_the_data_are_needed(on: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs the labeled images per class"):
        Imbalance(switched(**on))


def test_alignment_starts_at_the_prior_and_follows_the_last_128_batches() -> None:
    state = Imbalance(switched(distribution_alignment=True), Population(COUNTS, 40))
    prior = torch.tensor([0.6, 0.3, 0.1])
    past: list[Tensor] = []
    for step in range(200):
        probs = predictions(step)
        window = [prior] * max(128 - len(past), 0) + past[-128:]
        expected = probs * prior / torch.stack(window).mean(dim=0)
        if step in (0, 1, 2, 127, 128, 129, 199):
            assert_close(state.align(probs), expected / expected.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)
        else:
            state.align(probs)
        state.after_step(step)
        past.append(probs.mean(dim=0))
    assert_close(state.align(predictions(5)).sum(dim=1), torch.ones(8))


def test_an_image_keeps_its_last_class_above_the_threshold_or_loses_it() -> None:
    sure, unsure, other = [[0.9, 0.05, 0.05]], [[0.4, 0.3, 0.3]], [[0.1, 0.1, 0.8]]
    for forget, counts in ((False, [[3, 1, 0, 0], [3, 1, 0, 0], [3, 0, 0, 1]]), (True, [[3, 1, 0, 0], [4, 0, 0, 0]])):
        state = Imbalance(switched(class_thresholds=True, forget_unsure=forget), Population(COUNTS, 4))
        for step, (probs, expected) in enumerate(zip((sure, unsure, other), counts, strict=False)):
            state.mask(torch.tensor(probs), torch.tensor([2]), THRESHOLD)
            state.after_step(step)
            assert state.confident.tolist() == expected


@pytest.mark.parametrize("forget", [False, True])
def test_thresholds_per_class_follow_each_images_last_prediction(forget: bool) -> None:
    """Against a dictionary of last predictions, recounted at every step."""
    n, state = 30, Imbalance(switched(class_thresholds=True, forget_unsure=forget), Population(COUNTS, 30))
    last: dict[int, int] = {}
    tried = 0
    for step in range(25):
        index = torch.randperm(n, generator=torch.Generator().manual_seed(step))[:8]
        probs = predictions(step + 100)
        sigma = [sum(k == c for k in last.values()) for c in range(3)]
        limits = imbalance.curriculum_thresholds(torch.tensor(sigma), n, 0.6).tolist()
        mask, target = state.mask(probs, index, THRESHOLD)
        assert target.tolist() == probs.argmax(dim=1).tolist()
        assert mask.tolist() == [float(p.max().item() > limits[k]) for p, k in zip(probs, target.tolist(), strict=True)]
        tried += sum(mask.tolist()) not in (0.0, 8.0)
        state.after_step(step)
        for i, p in zip(index.tolist(), probs, strict=True):
            if forget:
                last.pop(i, None)
            if p.max() > 0.6:
                last[i] = int(p.argmax())
    assert tried > 3  # thresholds let some through and held some back
    assert state.confident.tolist() == [n - len(last), *[sum(k == c for k in last.values()) for c in range(3)]]


# --- inside the methods ---


class Fixed(nn.Module):
    """A network of one weight matrix, so that the formulas can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def corrected(method: str, threshold: float = 0.5, **on: Any) -> Method:
    torch.manual_seed(0)
    own = {"threshold": threshold, "lambda_u": 2.0}
    return built(method, Fixed(), Population(COUNTS, 20), own, imbalance=switched(**on).model_dump())


def batch(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    images = {k: 2 * torch.randn(n, 3, 2, 2, generator=g) for k, n in (("x_lb", 4), ("x_ulb_w", 6), ("x_ulb_s", 6))}
    labels = {"y_lb": torch.randint(3, (4,), generator=g), "y_ulb": torch.randint(3, (6,), generator=g)}
    return {**images, **labels, "idx_ulb": torch.randperm(20, generator=g)[:6]}


@pytest.mark.parametrize("method", SELECTING)
def test_logit_adjustment_enters_both_cross_entropies_and_no_prediction(method: str) -> None:
    plain, adjusted = corrected(method), corrected(method, logit_adjustment=1.5)
    data, prior = batch(1), torch.tensor([0.6, 0.3, 0.1])
    out, other = adjusted(data), plain(data)
    assert torch.equal(out["util_ratio"], other["util_ratio"])
    assert torch.equal(out["kept_count"], other["kept_count"])
    shift = 1.5 * prior.log()
    labeled = F.cross_entropy(adjusted.student(data["x_lb"]) + shift, data["y_lb"])
    probs = adjusted.student(data["x_ulb_w"]).softmax(dim=1)
    kept = (probs.max(dim=1).values > 0.5).float()
    assert 0 < kept.mean() < 1
    rest = F.cross_entropy(adjusted.student(data["x_ulb_s"]) + shift, probs.argmax(dim=1), reduction="none")
    assert_close(out["loss"], labeled + 2.0 * (kept * rest).mean())
    assert not torch.allclose(out["loss"], other["loss"])


@pytest.mark.parametrize("method", SELECTING)
def test_alignment_changes_the_pseudo_labels_from_the_second_step_on(method: str) -> None:
    plain, aligned = corrected(method), corrected(method, distribution_alignment=True)
    first = batch(2)
    assert_close(aligned(first)["loss"], plain(first)["loss"])
    before = aligned.student(first["x_ulb_w"]).softmax(dim=1).mean(dim=0)
    for step in range(3):
        aligned.after_step(step)  # what the first call noted enters once
    assert_close(aligned.imbalance.means[0], before.detach())
    assert_close(aligned.imbalance.means[1:], torch.tensor([0.6, 0.3, 0.1]).expand(127, 3))
    aligned.imbalance.means[:] = torch.tensor([0.02, 0.08, 0.9])
    target = imbalance.align_distribution(
        aligned.student(first["x_ulb_w"]).softmax(dim=1).detach(), aligned.imbalance.prior, aligned.imbalance.means[0]
    )
    kept = (target.max(dim=1).values > 0.5).float()
    losses = F.cross_entropy(aligned.student(first["x_ulb_s"]), target.argmax(dim=1), reduction="none")
    out = aligned(first)
    assert_close(out["unlabeled_loss"], (kept * losses).mean().detach())
    assert not torch.allclose(out["unlabeled_loss"], plain(first)["unlabeled_loss"])


@pytest.mark.parametrize("method", SELECTING)
def test_thresholds_per_class_start_low_and_rise(method: str) -> None:
    plain, curriculum = corrected(method, threshold=0.9), corrected(method, threshold=0.9, class_thresholds=True)
    data = batch(3)
    assert plain(data)["util_ratio"] < 1
    assert curriculum(data)["util_ratio"] == 1  # nothing is known yet
    curriculum.after_step(0)
    curriculum.imbalance.confident[:] = torch.tensor([0, 20, 20, 20])
    assert torch.equal(curriculum(data)["util_ratio"], plain(data)["util_ratio"])


# --- settings ---


def test_forgetting_without_thresholds_per_class_is_refused() -> None:
    with pytest.raises(SsferError, match="forget_unsure has no effect without class_thresholds; set it to false or"):
        corrected("fixmatch", forget_unsure=True)
    assert corrected("fixmatch", class_thresholds=True, forget_unsure=True).imbalance.settings.forget_unsure


@pytest.mark.parametrize("correction", ["distribution_alignment", "class_thresholds", "logit_adjustment"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_correction_that_a_method_does_not_take_is_refused(method: str, correction: str) -> None:
    on = {correction: 1.0 if correction == "logit_adjustment" else True}
    network = build_classifier(factory.tiny_params().model, 3)
    population = Population(COUNTS, 20, classes=factory.CLASSES)
    if correction in METHODS[method].corrections:
        built(method, network, population, imbalance=on)
    else:
        taken = ", ".join(METHODS[method].corrections) or "none"
        message = f"imbalance.{correction} cannot be used with semisup.method {method} .it takes: {taken}"
        with pytest.raises(SsferError, match=message):
            built(method, network, population, imbalance=on)
