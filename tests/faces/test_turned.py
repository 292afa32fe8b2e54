"""Faces in photos that lie on their side."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ssfer.datasets.base import RawRecord
from ssfer.faces.crops import FaceProcessor
from ssfer.faces.detectors.base import Detection
from ssfer.faces.turned import detect, turned_back
from tests.support.align_runs import LEFT, PARAMS
from tests.support.image_files import encoded
from tests.support.rendered_photos import BrightDetector, bright_photo

TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Upright(BrightDetector):
    """Sees faces in landscape photos only, and upright ones, whose left half is dark, better than those upside down."""

    def detect(self, images: list[Image.Image]) -> list[Detection]:
        found = super().detect(images)
        return [self._seen(image, one) for image, one in zip(images, found, strict=True)]

    def _seen(self, image: Image.Image, found: Detection) -> Detection:
        if image.width == image.height or not len(found):
            return found
        if image.width < image.height:
            return Detection()
        upright = found.boxes[0, 0] < image.width / 2
        return Detection(found.boxes, found.landmarks, np.full(len(found), 0.99 if upright else 0.96, np.float32))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_boxes_and_points_come_back_to_the_pixels_of_the_photo(degrees: int) -> None:
    photo = Image.new("L", (40, 30))
    photo.paste(255, (5, 8, 15, 20))
    photo.putpixel((6, 9), 128)
    pixels = np.asarray(photo.transpose(TURNS[degrees]))
    y, x = np.nonzero(pixels)
    point = np.argwhere(pixels == 128)[0][::-1]
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    seen = Detection(box, np.array([[point] * 5], np.float32), np.ones(1, np.float32))
    back = turned_back(seen, degrees, photo.size)
    assert back.boxes.tolist() == [[5, 8, 15, 20]]
    assert back.landmarks.tolist() == [[[6, 9]] * 5]


@pytest.mark.parametrize("degrees", [90, 270])
def test_a_photo_on_its_side_gives_the_same_crop(degrees: int) -> None:
    upright = bright_photo(LEFT)
    crops = {}
    for name, photo in {"up": upright, "side": upright.transpose(TURNS[degrees])}.items():
        processor = FaceProcessor("faces", "similarity", PARAMS.model_copy(update={"turned": True}), Upright())
        (face,) = processor.process([RawRecord("x.png")], lambda _, photo=photo: encoded(photo))
        crops[name] = face
    assert (crops["up"].row["crop_recipe"], crops["side"].row["crop_recipe"]) == (
        "bright-similarity5-v2-64",
        "bright-turned-similarity5-v2-64",
    )
    up, side = (np.asarray(Image.open(BytesIO(face.jpeg))).astype(int) for face in crops.values())
    assert np.abs(up - side).mean() < 2
    assert crops["side"].row["status"] == "ok"


def test_a_sure_face_is_not_looked_at_again_and_a_little_better_is_not_enough() -> None:
    asked: list[int] = []

    def find(images: list[Image.Image]) -> list[Detection]:
        asked.append(len(images))
        score = [0.95, 0.88][: len(images)] if len(asked) == 1 else [0.97] * len(images)
        return [Detection(np.ones((1, 4)), np.ones((1, 5, 2)), np.array([s], np.float32)) for s in score]

    photos = [bright_photo(LEFT)] * 2
    assert detect(find, photos)[1] == [0, 0]
    assert asked == [2, 1, 1, 1]
