"""ssfer.data.split: the counts printed in the specification (2.2, 7), nestedness, exactness, pinned ids."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ssfer.core.errors import SsferError
from ssfer.data.split import (
    check_per_class,
    hold_out,
    load_split,
    open_test_part,
    quotas,
    redraw,
    save_split,
    seal,
    split_labeled,
)

# Training images per class in index order (specification 2.1, 2.2).
RAFDB = [705, 717, 281, 4772, 2524, 1982, 1290]
FERPLUS = [10309, 7528, 3562, 3515, 2467, 191, 652, 165]
AFFECTNET7 = [74874, 134415, 25459, 14090, 6378, 3803, 24882]
AFFECTNET8 = [*AFFECTNET7, 3750]


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


# --- how many ---


@pytest.mark.parametrize(
    ("fraction", "half_even", "half_up"),
    [
        (0.05, [35, 36, 14, 239, 126, 99, 64], [35, 36, 14, 239, 126, 99, 65]),
        (0.1, [70, 72, 28, 477, 252, 198, 129], [71, 72, 28, 477, 252, 198, 129]),
        (0.25, [176, 179, 70, 1193, 631, 496, 322], [176, 179, 70, 1193, 631, 496, 323]),
    ],
)
def test_rafdb_quotas_are_those_of_the_table(fraction: float, half_even: list[int], half_up: list[int]) -> None:
    assert quotas(RAFDB, fraction=fraction, rounding="half_even") == half_even
    assert quotas(RAFDB, fraction=fraction, rounding="half_up") == half_up


@pytest.mark.parametrize(
    ("counts", "fraction", "half_even", "half_up"),
    [
        (RAFDB, 0.05, 613, 614),
        (RAFDB, 0.1, 1226, 1227),
        (RAFDB, 0.25, 3067, 3068),
        (FERPLUS, 0.05, 1419, 1419),
        (FERPLUS, 0.1, 2839, 2840),
        (FERPLUS, 0.25, 7097, 7098),
        (AFFECTNET7, 0.01, 2840, 2840),
        (AFFECTNET7, 0.05, 14195, 14196),
        (AFFECTNET7, 0.1, 28390, 28390),
        (AFFECTNET8, 0.01, 2878, 2878),
        (AFFECTNET8, 0.05, 14383, 14384),
        (AFFECTNET8, 0.1, 28765, 28765),
    ],
)
def test_totals_are_those_of_the_specification(
    counts: list[int], fraction: float, half_even: int, half_up: int
) -> None:
    assert sum(quotas(counts, fraction=fraction, rounding="half_even")) == half_even
    assert sum(quotas(counts, fraction=fraction, rounding="half_up")) == half_up
    assert quotas(counts, fraction=fraction) == quotas(counts, fraction=fraction, rounding="half_up")


def test_a_fraction_leaves_every_class_at_least_one_label_and_never_more_than_it_has() -> None:
    assert quotas([3, 1000], fraction=0.01) == [1, 10]
    assert quotas([3, 7], fraction=1.0) == [3, 7]


@pytest.mark.parametrize(("n", "expected"), [(10, [10, 10, 4]), (1, [1, 1, 1])])
def test_per_class_quotas_are_capped_by_the_class(n: int, expected: list[int]) -> None:
    assert quotas([50, 60, 4], per_class=n) == expected


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([100, 100, 100], 9, [3, 3, 3]),
        ([100, 100, 100], 11, [4, 4, 3]),  # remainder to the first classes
        ([100, 2, 100], 30, [14, 2, 14]),  # 8 labels that class 1 lacks go to the others
        ([100, 2, 100], 31, [15, 2, 14]),
        ([5, 5, 5], 15, [5, 5, 5]),
        ([1, 1, 1000], 500, [1, 1, 498]),
        ([100, 100, 100], 3, [1, 1, 1]),
    ],
)
def test_a_total_is_shared_equally_and_redistributed(counts: list[int], total: int, expected: list[int]) -> None:
    assert quotas(counts, total=total) == expected


@pytest.mark.parametrize(
    ("counts", "budget", "message"),
    [
        ([5, 5], {}, "exactly one of fraction, per_class, total"),
        ([5, 5], {"fraction": 0.1, "total": 3}, "exactly one of fraction, per_class, total"),
        ([5, 0, 5, 0], {"fraction": 0.5}, r"classes \[1, 3\] have no training image"),
        ([5, 5], {"total": 11}, "11 labels cannot be met: 2 classes with 10 training images"),
        ([5, 5], {"total": 1}, "1 labels cannot be met"),
    ],
)
def test_impossible_budgets_are_refused(counts: list[int], budget: dict, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        quotas(counts, **budget)


def test_a_class_that_cannot_give_its_labels_is_named() -> None:
    check_per_class({"fear": 281, "anger": 705}, 281)
    with pytest.raises(SsferError, match=r"250 labels per class cannot be met: 'contempt' has 165 .*shortage: cap"):
        check_per_class({"disgust": 191, "contempt": 165, "fear": 652}, 250)


# --- which ---


@pytest.mark.parametrize("budget", [{"fraction": 0.05}, {"per_class": 100}, {"total": 400}])
def test_labeled_and_unlabeled_are_disjoint_complete_and_stratified(budget: dict) -> None:
    labels = labels_of(RAFDB)
    labeled, unlabeled = split_labeled(labels, **budget)
    assert len(set(labeled) | set(unlabeled)) == len(labeled) + len(unlabeled) == len(labels)
    assert np.bincount(labels[labeled]).tolist() == quotas(RAFDB, **budget)


def split_in_loops(labels: np.ndarray, wanted: list[int], seed: int) -> list[int]:
    """Section 7: classes in index order, one generator, the first ones of each shuffled class."""
    rng, chosen = np.random.RandomState(seed), []
    for cls, n in enumerate(wanted):
        members = [i for i, label in enumerate(labels) if label == cls]
        rng.shuffle(members)
        chosen += members[:n]
    return chosen


def test_the_drawn_ids_follow_the_specified_algorithm() -> None:
    labels = labels_of([40, 25, 60], seed=3)
    labeled, unlabeled = split_labeled(labels, fraction=0.2, seed=2024)
    assert labeled.tolist() == split_in_loops(labels, [8, 5, 12], 2024)
    assert set(unlabeled.tolist()) == set(range(125)) - set(labeled.tolist())


def test_the_drawn_ids_are_pinned() -> None:
    labeled, _ = split_labeled(labels_of(RAFDB), fraction=0.05, seed=2024)
    assert labeled[:5].tolist() == [4928, 4351, 965, 7032, 10375]
    digest = hashlib.sha256(json.dumps(labeled.tolist()).encode()).hexdigest()
    assert digest == "c09f2f75358c1fd90d3638dc75619b50307b04c62cc0049bbdfce395d938d38d"


def test_default_seed_is_the_papers() -> None:
    labels = labels_of([50, 50])
    assert np.array_equal(split_labeled(labels, fraction=0.2)[0], split_labeled(labels, fraction=0.2, seed=2024)[0])


@pytest.mark.parametrize("budgets", [("fraction", 0.05, 0.1, 0.25), ("per_class", 10, 25, 100), ("total", 400, 1000)])
def test_smaller_budgets_lie_inside_larger_ones_also_after_holding_out(budgets: tuple) -> None:
    mode, *sizes = budgets
    labels = labels_of(RAFDB, seed=1)
    parts = []
    for size in sizes:
        labeled, _ = split_labeled(labels, **{mode: size})
        kept, held = hold_out(labels[labeled], 0.1)
        parts.append((set(labeled), set(labeled[kept]), set(labeled[held])))
    for small, large in itertools.pairwise(parts):
        assert all(a < b for a, b in zip(small, large, strict=True))


def test_splitting_leaves_the_global_generator_and_the_labels_alone() -> None:
    labels = labels_of([20, 30])
    np.random.seed(5)  # another state than any that a test before this one could leave behind
    before, state = labels.copy(), np.random.get_state()
    split_labeled(labels, fraction=0.5)
    hold_out(labels, 0.1)
    assert np.array_equal(labels, before)
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert np.random.get_state()[2] == state[2]


# --- validation part ---


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, [0, 0, 0]), (0.1, [0, 1, 3]), (0.25, [2, 3, 7]), (0.5, [4, 7, 15])]
)
def test_held_out_part_is_the_floor_of_the_share_of_each_class(share: float, expected: list[int]) -> None:
    labels = labels_of([9, 14, 30])
    kept, held = hold_out(labels, share)
    assert np.bincount(labels[held], minlength=3).tolist() == expected
    assert sorted([*kept, *held]) == list(range(53))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_every_class_keeps_an_image(share: float) -> None:
    labels = labels_of([1, 2, 40])
    kept, _ = hold_out(labels, share)
    assert set(labels[kept]) == {0, 1, 2}


# --- drawing again, as the release does before stage 3 ---


@pytest.mark.parametrize(("share", "used"), [(0.05, 0.0975), (0.1, 0.19), (0.25, 0.4375)])
def test_drawing_a_share_twice_uses_the_labels_of_almost_twice_as_many_images(share: float, used: float) -> None:
    """Specification, section 14, row 1: 1 - (1 - p)^2."""
    assert used == pytest.approx(1 - (1 - share) ** 2, rel=1e-12)
    labels = labels_of(RAFDB)
    found = []
    for seed in range(20):
        first, _ = split_labeled(labels, fraction=share, seed=seed)
        second, rest = redraw(labels, first, np.array([], dtype=np.int64), seed)
        assert np.bincount(labels[second]).tolist() == np.bincount(labels[first]).tolist()
        assert sorted([*second, *rest]) == list(range(len(labels)))
        assert set(first) & set(rest)  # the leak: labels of stage 2 among the unlabelled images of stage 3
        found.append(len(set(first) | set(second)) / len(labels))
    assert abs(np.mean(found) - used) < 0.001


def test_the_second_draw_leaves_the_validation_part_alone() -> None:
    labels = labels_of([40, 60])
    labeled, _ = split_labeled(labels, fraction=0.5)
    kept, held = (labeled[part] for part in hold_out(labels[labeled], 0.2))
    again, rest = redraw(labels, kept, held, seed=2024)
    assert np.bincount(labels[again]).tolist() == np.bincount(labels[kept]).tolist() == [16, 24]
    assert sorted([*again, *rest, *held]) == list(range(100))


def test_the_second_draw_is_repeatable_and_has_its_own_seed() -> None:
    labels = labels_of([200, 200])
    first, nothing = split_labeled(labels, fraction=0.5, seed=1)[0], np.array([], dtype=np.int64)
    second, again, other = (redraw(labels, first, nothing, seed=s)[0].tolist() for s in (1, 1, 2))
    assert second == again != other
    assert abs(len(set(first) & set(second)) - 100) < 30  # the first seed's shuffle would give 200


# --- the file ---

SPLIT = {"version": 1, "classes": ["a", "b"], "labeled": ["s/1"], "valid": [], "unlabeled": ["s/2"], "test": ["s/3"]}


def test_a_saved_split_reads_back_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "splits" / "split.json"
    save_split(SPLIT, path)
    split = load_split(path, faces=None)
    assert {**split, "test": open_test_part(split, path)} == {**SPLIT, "hash": split["hash"]}
    body = json.dumps(SPLIT, sort_keys=True, separators=(",", ":")).encode()
    assert split["hash"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("key", sorted(SPLIT))
def test_the_hash_covers_every_entry(key: str) -> None:
    assert seal(SPLIT | {key: "other"})["hash"] != seal(SPLIT)["hash"]


def test_an_edited_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    save_split(SPLIT, path)
    path.write_text(path.read_text().replace("s/2", "s/9"))
    with pytest.raises(SsferError, match=r"does not match its own hash.*dvc repro split"):
        load_split(path, faces=None)


def test_a_split_without_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(SPLIT))
    with pytest.raises(SsferError, match="does not match its own hash"):
        load_split(path, faces=None)


@pytest.mark.parametrize(("text", "message"), [(None, "is missing; run the stage"), ("{", "is not valid JSON")])
def test_a_missing_or_cut_split_is_a_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SsferError, match=message):
        load_split(path, faces=None)


def test_a_split_for_training_has_no_test_part(tmp_path: Path) -> None:
    save_split(SPLIT, tmp_path / "split.json")
    split = load_split(tmp_path / "split.json", faces=None)
    for read in (lambda: split["test"], lambda: split.get("test")):
        with pytest.raises(TypeError, match="a training split has no test part; .* calls open_test_part"):
            read()
    assert "test" not in split and "test" not in {**split} and "s/3" not in str(vars(split))


@pytest.mark.parametrize("part", ["labeled", "valid", "unlabeled", "semi_labeled", "semi_unlabeled"])
def test_an_image_in_training_and_test_is_refused(tmp_path: Path, part: str) -> None:
    save_split(SPLIT | {part: ["s/4", "s/3"]}, tmp_path / "split.json")
    with pytest.raises(SsferError, match=r"1 images both in training and in the test part \(e\.g\. 's/3'\)"):
        load_split(tmp_path / "split.json", faces=None)


def test_the_test_part_of_another_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    save_split(SPLIT, path)
    split = load_split(path, faces=None)
    save_split(SPLIT | {"test": ["s/5"]}, path)
    with pytest.raises(SsferError, match="was replaced while this stage was running"):
        open_test_part(split, path)
