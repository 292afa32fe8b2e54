"""Tracks: who is who in a moving scene, against a known truth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ssfer.predict.tracks import PATIENCE, Scene


def boxes(*corners: tuple[float, float], side: float = 20) -> np.ndarray:
    return np.array([[x, y, x + side, y + side] for x, y in corners], np.float32)


def test_faces_that_pass_each_other_keep_their_numbers_whatever_the_order() -> None:
    scene, random = Scene("x"), np.random.default_rng(0)
    switches = 0
    for step in range(60):
        # Two on crossing ways, that overlap in the middle, one that stands still.
        truth = boxes((2 * step, 50), (118 - 2 * step, 56), (60, 150))
        order = random.permutation(3)
        numbers = scene.assign(truth[order], step / 25)
        if step == 0:
            known = dict(zip(order.tolist(), numbers, strict=True))
        switches += sum(known[person] != number for person, number in zip(order.tolist(), numbers, strict=True))
    assert switches == 0 and scene.count == 3


def test_a_face_that_was_away_for_a_moment_comes_back_and_after_long_it_is_a_new_one() -> None:
    scene = Scene("x")
    assert scene.assign(boxes((10, 10)), 0.0) == [0]
    assert scene.assign(boxes(), 0.3) == []
    assert scene.assign(boxes((11, 10)), 0.6) == [0]
    assert scene.assign(boxes((11, 10)), 0.6 + PATIENCE + 0.1) == [1]
    assert scene.assign(boxes((80, 80), (12, 10)), 2.0) == [2, 1]


def test_probabilities_are_averaged_along_a_track_by_time() -> None:
    scene = Scene("x", smooth=0.5)
    old, new = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    scene.assign(boxes((0, 0)), 0.0)
    assert scene.smoothed(0, old).tolist() == [1, 0]
    scene.assign(boxes((0, 0)), 0.25)
    keep = math.exp(-0.25 / 0.5)
    assert scene.smoothed(0, new).tolist() == pytest.approx([keep, 1 - keep], abs=1e-6)
    plain = Scene("x")
    for time, probs in ((0.0, old), (0.1, new)):
        plain.assign(boxes((0, 0)), time)
        assert plain.smoothed(0, probs).tolist() == probs.tolist()


def test_a_scene_goes_through_json_unchanged() -> None:
    scene, same = Scene("x", smooth=1.0), None
    for step in range(8):
        found = boxes((3 * step, 0), (60 - 3 * step, 5))
        probs = np.array([[0.1 * step, 1 - 0.1 * step], [0.5, 0.5]])
        numbers = scene.assign(found, step / 10)
        smoothed = [scene.smoothed(n, p).tolist() for n, p in zip(numbers, probs, strict=True)]
        if same is not None:
            assert same.assign(found, step / 10) == numbers
            assert [same.smoothed(n, p).tolist() for n, p in zip(numbers, probs, strict=True)] == smoothed
        same = Scene.from_state(json.loads(json.dumps(scene.state())))
