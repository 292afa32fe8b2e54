"""RetinaFace with published weights, where they are at hand: faces lie where retinaface-pytorch puts them.

Other tests use random weights. This needs those of `ssfer fetch retinaface` or `ssfer fetch retinaface-mobilenet`, or
such a file named by the environment variable SSFER_RETINAFACE_WEIGHTS.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from retinaface import predict_single

from benchmarks.photos import rendered_in
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.faces.detectors.retinaface_network import MOBILENET, Network, is_counter
from ssfer.faces.detectors.retinaface_weights import Weights, read_weights
from tests.support.rendered_photos import render_once

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "SSFER_RETINAFACE_WEIGHTS"
SIDE, MIN_SCORE, NMS_IOU = 320, 0.5, 0.4
MEAN_BGR = (104.0, 117.0, 123.0)  # of the published training code, which reads pictures as BGR
PIXELS, SCORE = 0.01, 1e-4  # pixels of the photo; only rounding may differ, because our batch norms are folded


def files() -> list[Path]:
    """Return the published weights at hand: the named file, else those that were fetched."""
    named = os.environ.get(VARIABLE)
    return [Path(named)] if named else sorted((ROOT / "data/weights/detectors").glob("*.safetensors"))


pytestmark = pytest.mark.skipif(not files(), reason=f"no published weights: ssfer fetch retinaface, or {VARIABLE}")


def library(weights: Weights) -> predict_single.Model:
    """Return the library's model with its own forward pass, priors, decoding and suppression.

    The library builds ResNet-50 only. With MobileNet the body is ours, all other layers are the library's.
    """
    model = predict_single.Model(max_size=SIDE)
    if weights.backbone == MOBILENET:
        model.model = Network(MOBILENET)
    missing, unexpected = model.model.load_state_dict(weights.state, strict=False)
    assert not unexpected and all(is_counter(name) for name in missing)
    if weights.preprocess == "caffe":
        model.transform = lambda image: {"image": _caffe(image)}
    model.eval()
    return model


def _caffe(rgb: np.ndarray) -> np.ndarray:
    """Return BGR minus its mean, the longer side SIDE; the library's own transform is that of other weights."""
    scale = SIDE / max(rgb.shape[:2])
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    bgr = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)[..., ::-1].astype(np.float32)
    return bgr - np.array(MEAN_BGR, np.float32)


@pytest.mark.parametrize("file", files(), ids=lambda path: path.stem)
def test_faces_are_where_the_library_puts_them(file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    photos = [photo for photo, _ in rendered_in(render_once(tmp_path_factory))]
    weights = read_weights(file)
    settings = RetinaFaceDetector.Settings(weights=str(file), max_side=SIDE)
    ours = RetinaFaceDetector(settings, min_score=MIN_SCORE, nms_iou=NMS_IOU).detect_as_library(photos)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, about arguments that torchvision renamed
        patch.setattr(predict_single, "ROUNDING_DIGITS", 12)
        peer = library(weights)
        theirs = [peer.predict_jsons(np.asarray(photo), MIN_SCORE, NMS_IOU) for photo in photos]
    for found, told in zip(ours, theirs, strict=True):
        faces = [face for face in told if face["bbox"]]  # a photo without faces has one entry without a box
        assert len(found) == len(faces)
        for box, points, score, face in zip(found.boxes, found.landmarks, found.scores, faces, strict=True):
            np.testing.assert_allclose(box, face["bbox"], rtol=0, atol=PIXELS)
            np.testing.assert_allclose(points, face["landmarks"], rtol=0, atol=PIXELS)
            assert score == pytest.approx(face["score"], abs=SCORE)
    sure = [found for found in ours if len(found) and found.scores[0] > 0.9]
    assert len(sure) > len(photos) / 2  # not equal because empty
