"""The contrastive loss against a memory, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ssfer.methods.shared.contrastive import memory_contrastive_loss

# One image of class 0 on the first axis, in slot 0; cosines 1 (itself), 0.6, 0, -1 and an empty slot of its class.
IMAGE, LABEL, OWN = torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([0])
STORED = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
FILLED = torch.tensor([True, True, True, True, False])
OTHERS = math.log(math.exp(1.2) + math.exp(0) + math.exp(-2))  # tau 0.5, without its own and the empty slot


def loss(labels: list[int], filled: torch.Tensor = FILLED, label: int = 0) -> float:
    bank = STORED, torch.eye(3)[labels], filled
    return memory_contrastive_loss(IMAGE, torch.tensor([label]), OWN, bank, 0.5).item()


def test_one_positive() -> None:
    assert loss([0, 0, 1, 2, 0]) == pytest.approx(OTHERS - 1.2) == pytest.approx(0.294129, abs=1e-6)


def test_several_positives_are_averaged_outside_the_logarithm() -> None:
    assert loss([0, 0, 1, 0, 0]) == pytest.approx(((OTHERS - 1.2) + (OTHERS + 2)) / 2)


def test_without_a_face_of_its_class_an_image_counts_as_zero() -> None:
    assert loss([0, 1, 1, 2, 0]) == 0
    assert loss([0, 0, 1, 2, 0], torch.zeros(5, dtype=torch.bool)) == 0


def test_soft_labels_count_by_their_share() -> None:
    targets = torch.eye(3)[[0, 0, 1, 2, 0]]
    targets[2] = torch.tensor([0.25, 0.75, 0.0])
    found = memory_contrastive_loss(IMAGE, LABEL, OWN, (STORED, targets, FILLED), 0.5).item()
    assert found == pytest.approx(((OTHERS - 1.2) + 0.25 * OTHERS) / 1.25)


def test_the_gradient_goes_into_the_images_alone() -> None:
    image = IMAGE.clone().requires_grad_()
    bank = STORED.clone().requires_grad_(), torch.eye(3)[[0, 0, 1, 2, 0]], FILLED
    stored = (bank[0].detach(), *bank[1:])
    memory_contrastive_loss(image, LABEL, OWN, stored, 0.5).backward()
    share = torch.tensor([math.exp(1.2), 1.0, math.exp(-2)]) / math.exp(OTHERS)
    expected = (share @ STORED[1:4] - STORED[1]) / 0.5
    assert torch.allclose(image.grad[0], expected, atol=1e-6)
    assert bank[0].grad is None


def test_an_empty_memory_gives_no_gradient_that_is_not_finite() -> None:
    image = IMAGE.clone().requires_grad_()
    bank = STORED, torch.eye(3)[[0, 0, 1, 2, 0]], torch.zeros(5, dtype=torch.bool)
    memory_contrastive_loss(image, LABEL, OWN, bank, 0.5).backward()
    assert (image.grad == 0).all()
