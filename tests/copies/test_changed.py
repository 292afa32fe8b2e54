"""A face is found again when its photo was mirrored, turned or cropped, and other faces are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ssfer.copies.changed import aligned_face, changed_copies, registered_agreement
from ssfer.copies.find import matches
from ssfer.copies.thumbnails import SIDE
from ssfer.faces.alignment import template, transform_points
from tests.support.face_sets import write_faces
from tests.support.image_files import picture

POINTS = template(96) + 30.0  # of a face in a photo of 160 px
LEFT_RIGHT = [1, 0, 2, 4, 3]


def scene(seed: int) -> Image.Image:
    return picture(160, 160, seed)


def changed(photo: Image.Image) -> dict[str, tuple[Image.Image, np.ndarray]]:
    """Return changed copies of a photo and where the landmarks are in them, a pixel off as detectors put them."""
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = (np.array(photo.size) - 1) / 2
    matrix = np.hstack([turn, (middle - turn @ middle)[:, None]])
    mirrored = np.column_stack([photo.width - 1 - POINTS[:, 0], POINTS[:, 1]])[LEFT_RIGHT]
    off = np.random.default_rng(1).uniform(-1, 1, (5, 2))
    return {
        "mirrored": (ImageOps.mirror(photo), mirrored + off),
        "turned": (photo.rotate(10, Image.Resampling.BICUBIC), transform_points(POINTS, matrix) + off),
        "cropped": (photo.crop((40, 40, 150, 150)), POINTS - 40 + off),
    }


@pytest.mark.parametrize("how", ["mirrored", "turned", "cropped"])
def test_a_changed_copy_agrees_and_another_photo_does_not(how: str) -> None:
    face, points = changed(scene(1))[how]
    others = np.stack([aligned_face(scene(seed), POINTS) for seed in (5, 1, 6)])
    faces = np.stack([aligned_face(face, points), aligned_face(scene(9), POINTS), np.zeros((SIDE, SIDE), np.uint8)])
    assert list(changed_copies(faces, others, 0.9)) == [(0, 1)]
    assert list(changed_copies(faces, others, 1.0)) == []
    assert list(changed_copies(faces[:0], others, 0.9)) == list(changed_copies(faces, others[:0], 0.9)) == []


def test_registration_may_not_turn_one_face_into_another() -> None:
    face = aligned_face(scene(1), POINTS)
    assert registered_agreement(face, face) == pytest.approx(1)
    sheared = Image.fromarray(face).transform((SIDE, SIDE), Image.Transform.AFFINE, (1, 0.2, -3, 0, 1, 0))
    assert registered_agreement(face, np.asarray(sheared)) < 0.9


def test_points_that_are_no_face_leave_the_whole_photo() -> None:
    photo = scene(1)
    whole = np.asarray(photo.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    assert (aligned_face(photo, np.zeros((5, 2))) == whole).all()


def test_stored_crops_of_changed_copies_are_copies(tmp_path: Path) -> None:
    """Crops that were only resized are aligned by the landmarks in their rows."""

    def row(photo: Image.Image, points: np.ndarray) -> tuple[Image.Image, dict[str, object]]:
        return photo, {"landmarks": points.ravel().tolist(), "crop_recipe": "resize-v1-96"}

    left = write_faces(tmp_path / "a", [row(scene(seed), POINTS) for seed in (1, 2, 3)], size=96)
    copies = [*changed(scene(2)).values(), (scene(9), POINTS)]
    right = write_faces(tmp_path / "b", [row(*copy) for copy in copies], size=96)
    found = matches(right, left, tmp_path, 8, 0.85)
    assert found.of.tolist() == [1, 1, 1, -1]
    assert found.how.tolist() == ["near"] * 3 + [""]
