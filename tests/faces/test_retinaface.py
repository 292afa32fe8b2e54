"""RetinaFace: the library's boxes, landmarks and scores on the same weights, in batches and in the manifest's terms."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from retinaface import predict_single
from retinaface.prior_box import priorbox
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ssfer.faces import alignment as align
from ssfer.faces.detectors.base import Detection
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector, priors
from ssfer.faces.detectors.retinaface_network import MOBILENET, PREPROCESS, RESNET50, Network, build_network
from tests.support.random_retinaface import random_state

SIDE, MIN_SCORE, NMS_IOU = 128, 0.5, 0.4
# Width and height: as the network sees it, two equal ones, enlarged, shrunk, long ones, sides that round up and down.
SIZES = ((128, 128), (128, 96), (128, 96), (61, 90), (301, 200), (200, 150), (160, 40), (33, 64))


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Return a picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-60, 60, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def detector_of(weights: Path, max_side: int, **options: Any) -> RetinaFaceDetector:
    return RetinaFaceDetector(RetinaFaceDetector.Settings(weights=str(weights), max_side=max_side), **options)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [photo(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    return random_state(RESNET50)


@pytest.fixture(scope="module")
def resnet_file(resnet_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "weights.pth"
    torch.save(resnet_state, path)
    return path


@pytest.fixture(scope="module")
def detector(resnet_file: Path) -> RetinaFaceDetector:
    return detector_of(resnet_file, SIDE, min_score=MIN_SCORE, nms_iou=NMS_IOU)


@pytest.fixture(scope="module")
def peer(resnet_state: dict[str, Tensor], images: list[Image.Image]) -> list[Detection]:
    """What the library finds, one image at a time, not rounded."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, about arguments that torchvision renamed
        patch.setattr(predict_single, "ROUNDING_DIGITS", 12)
        model = predict_single.Model(max_size=SIDE)
        model.load_state_dict(resnet_state)  # type: ignore[arg-type]
        model.eval()
        found = []
        for image in images:
            faces = model.predict_jsons(np.asarray(image), MIN_SCORE, NMS_IOU)
            boxes, points, scores = (np.array([f[key] for f in faces]) for key in ("bbox", "landmarks", "score"))
            found.append(Detection(boxes, points, scores))
        return found


@pytest.fixture(scope="module")
def mobile_state() -> dict[str, Tensor]:
    return random_state(MOBILENET)


@pytest.fixture
def mobile_file(mobile_state: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "mobilenet0.25_Final.pth"
    torch.save(mobile_state, path)
    return path


def inside(found: Detection, image: Image.Image) -> Detection:
    """Leave out what the library leaves out: boxes beyond the right and the lower edge."""
    keep = (found.boxes[:, 0] < image.width - 1) & (found.boxes[:, 1] < image.height - 1)
    return Detection(found.boxes[keep], found.landmarks[keep], found.scores[keep])


def check_equal(a: Detection, b: Detection, pixels: float = 1e-3, score: float = 1e-5) -> None:
    assert len(a) == len(b)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=score)
    # Pairs that are nearest, because scores that are tied but for rounding may come in another order.
    one, other = (np.hstack([d.boxes, d.landmarks.reshape(len(d), -1), d.scores[:, None]]) for d in (a, b))
    order = linear_sum_assignment(np.abs(one - other[:, None]).sum(axis=2))[1]
    np.testing.assert_allclose(a.scores[order], b.scores, rtol=0, atol=score)
    np.testing.assert_allclose(a.boxes[order], b.boxes, rtol=0, atol=pixels)
    np.testing.assert_allclose(a.landmarks[order], b.landmarks, rtol=0, atol=pixels)


def test_boxes_landmarks_and_scores_are_the_librarys(
    detector: RetinaFaceDetector, images: list[Image.Image], peer: list[Detection]
) -> None:
    for image, ours, theirs in zip(images, detector.detect_as_library(images), peer, strict=True):
        check_equal(inside(ours, image), theirs)
        assert len(theirs) > 5 and theirs.scores.max() > 0.7  # not equal because empty


def test_overlapping_boxes_are_suppressed(resnet_file: Path, images: list[Image.Image], peer: list[Detection]) -> None:
    everything = detector_of(resnet_file, SIDE, min_score=MIN_SCORE, nms_iou=1.0)
    assert len(everything.detect_as_library(images[:1])[0]) > 1.5 * len(peer[0])


def test_each_axis_is_scaled_back_by_its_own_factor(
    detector: RetinaFaceDetector, images: list[Image.Image], peer: list[Detection]
) -> None:
    """301 x 200 becomes 128 x 85: the library multiplies x by 200/85 as well, which is not 301/128."""
    image, theirs = images[4], peer[4]
    assert image.size == (301, 200)
    found, right = detector.detect([image])[0], (301 / 128) / (200 / 85)
    wanted = Detection(np.clip(theirs.boxes * [right, 1, right, 1], 0, [301, 200] * 2), theirs.landmarks, theirs.scores)
    keep = ((wanted.boxes[:, 2:] - wanted.boxes[:, :2]) >= 1).all(axis=1)
    points = theirs.landmarks[keep] * [right, 1] - [0.5, 0]  # and x counts from the first pixel's centre
    check_equal(found, Detection(wanted.boxes[keep], points, wanted.scores[keep]), pixels=2e-3)
    assert abs(right - 1) * 301 > 0.1


def test_boxes_end_at_the_image_and_the_best_comes_first(
    detector: RetinaFaceDetector, images: list[Image.Image], peer: list[Detection]
) -> None:
    assert min(d.boxes.min() for d in peer) < -1  # there is something to cut
    for image, found in zip(images, detector.detect(images), strict=True):
        assert (found.boxes >= 0).all() and (found.boxes <= [*image.size, *image.size]).all()
        assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 1).all()
        assert (np.diff(found.scores) <= 0).all() and found.scores.min() > MIN_SCORE
        assert found.boxes.dtype == found.landmarks.dtype == found.scores.dtype == np.float32


def test_the_others_in_the_call_do_not_matter(detector: RetinaFaceDetector, images: list[Image.Image]) -> None:
    single = [detector.detect([image])[0] for image in images]
    together = detector.detect([*images[::-1], *images])
    for a, b, c in zip(single, together[: len(images)][::-1], together[len(images) :], strict=True):
        check_equal(a, b)
        check_equal(a, c)
    assert detector.detect([]) == []


def test_more_images_than_a_batch_holds(
    detector: RetinaFaceDetector, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = detector.detect(images)
    monkeypatch.setattr(detector, "batch_pixels", 2 * SIDE * 96)  # two pictures of 128 x 96, one of 128 x 128
    for a, b in zip(detector.detect(images), whole, strict=True):
        check_equal(a, b)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (85, 128), (250, 250), (33, 17), (1, 640), (8, 9)])
def test_priors_are_the_librarys(height: int, width: int) -> None:
    theirs = priorbox([[16, 32], [64, 128], [256, 512]], [8, 16, 32], False, (height, width))
    assert torch.equal(priors(height, width), theirs)


def test_landmarks_come_in_the_manifests_order(mobile_state: dict[str, Tensor], tmp_path: Path) -> None:
    """Channels x1, y1 .. x5, y5 of a head become points 1 to 5: eyes, nose, mouth corners, image-left first."""
    state = {k: v * 0 if "Head" in k else v for k, v in mobile_state.items()}
    wanted = align.TEMPLATE - align.TEMPLATE.mean(axis=0)
    for level in range(3):
        face = torch.tensor(wanted.ravel() / (0.1 * 64), dtype=torch.float32)  # offsets of the 64 px anchors
        state[f"LandmarkHead.{level}.conv1x1.bias"] = face.repeat(2)
        state[f"ClassHead.{level}.conv1x1.bias"] = torch.tensor([0.0, 5.0 if level == 1 else -9.0, 0.0, -9.0])
    torch.save(state, tmp_path / "w.pth")
    found = detector_of(tmp_path / "w.pth", 64).detect([photo(64, 64, 0)])[0]
    assert len(found) > 0
    for points in found.landmarks:
        np.testing.assert_allclose(points - points.mean(axis=0), wanted, atol=1e-3)
        align.estimate_similarity(points, align.template(112))  # raises when points are scrambled or mirrored


def test_offsets_that_are_no_numbers_are_dropped(mobile_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(mobile_state)
    bias = state["BboxHead.0.conv1x1.bias"].clone()
    bias[2] = 1e4  # exp overflows: the first anchor of each cell of the first level becomes infinitely wide
    state["BboxHead.0.conv1x1.bias"] = bias
    for name, values in (("before", mobile_state), ("after", state)):
        torch.save(values, tmp_path / f"{name}.pth")
    images = [photo(96, 96, 1)]
    before, after = (
        detector_of(tmp_path / name, 96, min_score=0.02, nms_iou=1.0).detect_as_library(images)[0]
        for name in ("before.pth", "after.pth")
    )
    assert 0 < len(after) < len(before)
    assert np.isfinite(after.boxes).all() and np.isfinite(after.landmarks).all()


@pytest.mark.parametrize("preprocess", sorted(PREPROCESS))
def test_folding_and_channel_order_change_nothing(mobile_state: dict[str, Tensor], preprocess: str) -> None:
    """Against the network as it was trained: batch norms apart, BGR minus its mean, or RGB normalised."""
    plain = Network(MOBILENET)
    plain.load_state_dict(mobile_state)
    rgb = torch.from_numpy(np.asarray(photo(96, 64, 3)).copy()).permute(2, 0, 1)[None].float()
    if preprocess == "caffe":
        trained = rgb.flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    else:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        trained = (rgb / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in PREPROCESS[preprocess])
    with torch.inference_mode():
        wanted = plain.eval()(trained)
        found = build_network(mobile_state, MOBILENET, preprocess)((rgb - mean) / std)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_the_name_tells_the_body(mobile_file: Path, detector: RetinaFaceDetector) -> None:
    assert detector.name == "retinaface"
    small = build_detector("retinaface", RetinaFaceDetector.Settings(weights=str(mobile_file), max_side=64))
    assert small.name == "retinaface-mobilenet0.25"
    assert [type(d) for d in small.detect([photo(40, 60, 0)])] == [Detection]


def test_small_faces_are_looked_for_in_larger_pictures(mobile_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces of 16 px are found: a share of 1/40 of the longer side needs 640 px."""
    settings = RetinaFaceDetector.Settings(weights=str(mobile_file), max_side=64)
    sides = []
    for share in (None, 0.5, 0.025):
        detector = build_detector("retinaface", settings, min_face=share)
        monkeypatch.setattr(detector, "_run", lambda pixels: sides.append(max(pixels.shape)) or [Detection()])
        detector.detect([photo(40, 60, 0)])
    assert sides == [64, 64, 640]


@pytest.mark.gpu
def test_cuda_finds_the_same_faces(resnet_file: Path, images: list[Image.Image]) -> None:
    """Half precision moves scores by percents: every clear face of the CPU is there, at its place."""
    cpu, cuda = (detector_of(resnet_file, SIDE, device=d, nms_iou=1.0).detect(images) for d in ("cpu", "cuda"))
    for a, b in zip(cpu, cuda, strict=True):
        for box in a.above(0.6).boxes:
            assert np.abs(b.boxes - box).max(axis=1).min() < 4
