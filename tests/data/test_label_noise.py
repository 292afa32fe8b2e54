"""ssfer.data.label_noise, and where its wrong labels reach: the parts whose labels are trained on, and no other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssfer.data.label_noise import noisy_labels
from ssfer.data.split import load_split
from ssfer.stages.common import split_dataset
from tests.support import factory


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, [0, 0, 0]), (0.1, [5, 4, 0]), (0.2, [9, 9, 1]), (0.3, [14, 13, 1])]
)
def test_a_share_of_each_class_is_wrong_rounded_half_up(share: float, expected: list[int]) -> None:
    labels = labels_of([45, 44, 4])
    noisy = noisy_labels(labels, 3, share, seed=1)
    assert np.bincount(labels[noisy != labels], minlength=3).tolist() == expected


def test_wrong_labels_are_every_other_class_equally_often() -> None:
    labels = labels_of([4000] * 4)
    noisy = noisy_labels(labels, 4, 0.5, seed=2024)
    for cls in range(4):
        wrong = np.bincount(noisy[(labels == cls) & (noisy != cls)], minlength=4)
        assert wrong[cls] == 0
        assert wrong.sum() == 2000
        assert all(abs(n - 2000 / 3) < 5 * (2000 * 2 / 9) ** 0.5 for i, n in enumerate(wrong) if i != cls)


def test_two_classes_swap() -> None:
    labels = labels_of([10, 10])
    noisy = noisy_labels(labels, 2, 0.3, seed=0)
    assert noisy[noisy != labels].tolist() == (1 - labels[noisy != labels]).tolist()
    assert (noisy != labels).sum() == 6


def test_larger_shares_keep_the_errors_of_smaller_ones() -> None:
    labels = labels_of([70, 50, 30])
    shares = [noisy_labels(labels, 3, share, seed=7) for share in (0.1, 0.2, 0.3)]
    for small, large in itertools.pairwise(shares):
        wrong = small != labels
        assert np.array_equal(small[wrong], large[wrong])
        assert (large != labels).sum() > wrong.sum()


def test_noise_is_repeatable_private_and_leaves_the_labels_alone() -> None:
    labels = labels_of([50, 50])
    before = labels.copy()
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    first, again, other = (noisy_labels(labels, 2, 0.2, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(labels, before)
    assert np.array_equal(np.random.get_state()[1], state)


# --- in the data sets of the training stages ---


def noisy_split(**changes: Any) -> dict[str, Any]:
    split = load_split()
    wrong = {split[part][0]: "surprise" for part in ("labeled", "valid", "unlabeled")}
    return {**split, "noisy": wrong, **changes}


@pytest.fixture
def faces(project: Path) -> Path:
    factory.write_project(project)
    return project


def test_wrong_labels_reach_labeled_and_validation_images_only(faces: Path) -> None:
    params, clean, split = factory.tiny_params(), load_split(), noisy_split()
    for part in ("labeled", "valid", "unlabeled"):
        true, found = (split_dataset(s, part, params).labels for s in (clean, split))
        assert true[0] == 0
        assert found[0] == (2 if part in ("labeled", "valid") else 0)
        assert np.array_equal(true[1:], found[1:])


def test_a_label_that_stage_semisup_reads_again_is_wrong_where_it_is_used_and_true_where_it_is_not(faces: Path) -> None:
    """With split.redraw_for_semi, an image can be labeled in stage finetune and unlabeled in stage semisup."""
    params, clean = factory.tiny_params(), load_split()
    first, second = clean["labeled"][0], clean["unlabeled"][0]
    split = noisy_split(semi_labeled=[second], semi_unlabeled=[first, clean["unlabeled"][3]])
    assert split_dataset(split, "labeled", params, stage="semisup").labels.tolist() == [2]
    assert split_dataset(split, "unlabeled", params, stage="semisup").labels.tolist() == [0, 0]
