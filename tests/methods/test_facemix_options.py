"""FaceMix's options and stage finetune's: table 14's rows both ways, and the invariants of specification 18.1-8, 18.17.

Rows 29 and 30 are options of the network and of the split: tests/models/test_vit.py, tests/data/test_split.py. Row 4
is in tests/data/test_batches.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssfer.core.images import fallback_box
from ssfer.core.pixels import denormalize, normalize
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.faces.views import view_boxes
from ssfer.formats.metrics import read_metrics
from ssfer.methods.facemix import BoxDetector, FaceMix
from ssfer.methods.shared.losses import facemix_loss, mix_images, mixed_target, soft_cross_entropy
from ssfer.methods.shared.similarity import image_kappa, paired_iou
from ssfer.models.vit import build_classifier
from ssfer.stages import finetune
from ssfer.train.device import Machine
from ssfer.train.optim import epoch_in_force
from tests.support.factory import tiny_params
from tests.support.rendered_photos import BrightDetector, bright_photo
from tests.support.stage_runs import change, make_project, run_here, tensors

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
KAPPAS = ("iou", "psnr", "ssim", "fsim")


def facemix(detect: BoxDetector | None = None, ema_decay: float | None = None, **options: Any) -> FaceMix:
    """Return the method with a small network that is not yet trained."""
    params = tiny_params(finetune={"facemix": options}, model={"head_init": "torch_default"})
    torch.manual_seed(0)
    return FaceMix(build_classifier(params.model, 3), params.finetune.facemix, params.model, ema_decay, detect)


@pytest.mark.parametrize("mode", ["facemix", "mixup", "none"])
def test_targets_of_one_class_are_labels_and_others_count_by_their_shares(mode: str) -> None:
    method, batch = facemix(mode=mode).eval(), batch_of()

    def loss(**more: Tensor) -> Tensor:
        torch.manual_seed(1)
        return method({**batch, **more})["loss"]

    one, other = F.one_hot(batch["y_lb"], 3).float(), F.one_hot((batch["y_lb"] + 1) % 3, 3).float()
    assert_close(loss(t_lb=one), loss())
    mixed = loss(t_lb=0.25 * one + 0.75 * other)
    assert_close(mixed, 0.25 * loss(t_lb=one) + 0.75 * loss(t_lb=other))
    assert not torch.allclose(mixed, loss())


def test_logit_adjustment_shifts_the_logits_in_training_alone() -> None:
    shift = torch.tensor([0.0, -1.0, -3.0])
    plain, batch = facemix(mode="none"), batch_of()
    shifted = FaceMix(plain.student, plain.settings, tiny_params().model, shift=shift)
    expected = F.cross_entropy(plain.student(batch["x_lb"]) + shift, batch["y_lb"])
    assert_close(shifted(batch)["loss"], expected)
    assert shifted.eval_module() is plain.student and "shift" not in shifted.state_dict()


def test_log_prior_has_hand_values() -> None:
    labeled: Any = SimpleNamespace(labels=np.array([0, 0, 0, 1, 1, 1, 1, 1]))
    assert finetune.log_prior(labeled, 3, 0.0) is None
    found = finetune.log_prior(labeled, 3, 0.5)
    assert_close(found, 0.5 * torch.tensor([3 / 9, 5 / 9, 1 / 9]).log())


def batch_of(seed: int = 0, n: int = 4) -> dict[str, Tensor]:
    """Return smooth pictures of 8-bit pixels, normalised as the engine does it, with labels and boxes."""
    g = torch.Generator().manual_seed(seed)
    small = 0.4 * torch.rand(n, 3, 4, 4, generator=g) + 0.6 * torch.rand(3, 4, 4, generator=g)
    pixels = (F.interpolate(small, (16, 16), mode="bilinear") * 255).byte()
    corner = torch.rand(n, 2, generator=g) * 6
    model = tiny_params().model
    return {
        "x_lb": normalize(pixels, model.mean, model.std),
        "y_lb": torch.randint(3, (n,), generator=g),
        "boxes_lb": torch.cat([corner, corner + 5 + corner.flip(0)], dim=1),
        "pixels": pixels.float() / 255,
    }


def run(method: FaceMix, batch: dict[str, Tensor], seed: int = 5) -> tuple[dict[str, Tensor], float]:
    """Return what the method says of the batch, and the mixing coefficient it drew."""
    torch.manual_seed(seed)
    lam = torch.rand(()).item()
    torch.manual_seed(seed)
    return method(batch), lam


def reversed_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.flip(0) for k, v in batch.items()}


# --- kappa in the loss: invariants 1, 2, 4, 6, 8 ---


@pytest.mark.parametrize("variant", ["L1", "L2", "L3", "L4"])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_loss_is_weighed_by_kappa_of_the_real_images(kappa: str, variant: str) -> None:
    method, batch = facemix(kappa=kappa, variant=variant), batch_of()
    out, lam = run(method, batch)
    x, y = batch["x_lb"], batch["y_lb"]
    expected = 1 - paired_iou(batch["boxes_lb"]) if kappa == "iou" else image_kappa(batch["pixels"], kappa)
    assert expected.min() > 0.05 and expected.max() < 1 and expected.std() > 0.005
    loss = facemix_loss(method.student(mix_images(x, lam)), method.student(x), y, lam, expected, 0.1, variant)
    assert_close(out["loss"], loss, **TOLERANCE)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_method_does_not_mind_a_reversed_batch_and_refuses_an_odd_one(kappa: str) -> None:
    method, batch = facemix(kappa=kappa), batch_of()
    assert_close(run(method, reversed_batch(batch))[0]["loss"], run(method, batch)[0]["loss"], **TOLERANCE)
    with pytest.raises(ValueError, match="even size, found 5"):
        method(batch_of(n=5))


def virtual_loss(method: FaceMix, batch: dict[str, Tensor], lam: float) -> Tensor:
    logits = method.student(mix_images(batch["x_lb"], lam))
    return soft_cross_entropy(logits, mixed_target(batch["y_lb"], 3, lam, 0.1)).mean()


def test_equal_boxes_give_the_mixup_loss_and_disjoint_ones_add_the_whole_real_loss() -> None:
    method, batch = facemix(), batch_of()
    real = 2 * F.cross_entropy(method.student(batch["x_lb"]), batch["y_lb"])
    out, lam = run(method, batch | {"boxes_lb": torch.tensor([[2.0, 2, 14, 14]]).expand(4, 4)})
    assert_close(out["loss"], virtual_loss(method, batch, lam), **TOLERANCE)
    left, right = torch.tensor([0.0, 0, 5, 5]), torch.tensor([8.0, 8, 15, 15])
    out, lam = run(method, batch | {"boxes_lb": torch.stack([left, left, right, right])})
    assert_close(out["loss"], virtual_loss(method, batch, lam) + real, **TOLERANCE)


@pytest.mark.parametrize(("smoothing", "off"), [(0.1, 0.1 / 3), (0.0, 0.0)])
def test_row_16_label_smoothing_is_of_the_mixed_targets_alone(smoothing: float, off: float) -> None:
    method, batch = facemix(label_smoothing=smoothing), batch_of()
    out, lam = run(method, batch)
    own = torch.full((4, 3), off).scatter_(1, batch["y_lb"][:, None], 1 - smoothing + off)
    target = lam * own + (1 - lam) * own.flip(0)
    virtual = -(target * method.student(mix_images(batch["x_lb"], lam)).log_softmax(dim=1)).sum(dim=1)
    real = F.cross_entropy(method.student(batch["x_lb"]), batch["y_lb"], reduction="none")
    expected = virtual + (1 - paired_iou(batch["boxes_lb"])) * (real + real.flip(0))
    assert_close(out["loss"], expected.mean(), **TOLERANCE)


# --- row 2: legacy_inplace; invariants 3 and 7 ---


@pytest.mark.parametrize("legacy", [False, True])
def test_row_2_real_images_are_real_unless_legacy_inplace_asks_for_mixed_ones(legacy: bool) -> None:
    method, batch, seen = facemix(legacy_inplace=legacy), batch_of(), []
    before = {k: v.clone() for k, v in batch.items()}
    method.student.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    out, lam = run(method, batch)
    assert all(torch.equal(batch[k], before[k]) for k in batch)
    mixed = mix_images(batch["x_lb"], lam)
    assert torch.equal(torch.cat(seen), mixed if legacy else torch.cat([batch["x_lb"], mixed]))
    virtual_logits = method.student(mixed)
    real_logits = virtual_logits if legacy else method.student(batch["x_lb"])
    real = F.cross_entropy(real_logits, batch["y_lb"], reduction="none")
    virtual = soft_cross_entropy(virtual_logits, mixed_target(batch["y_lb"], 3, lam, 0.1))
    kappa = 1 - paired_iou(batch["boxes_lb"])
    assert_close(out["loss"], (virtual + kappa * (real + real.flip(0))).mean(), **TOLERANCE)
    assert out["train_accuracy"] == (real_logits.argmax(dim=1) == batch["y_lb"]).float().mean()
    assert torch.allclose(real_logits, virtual_logits, atol=1e-4) is legacy


@pytest.mark.parametrize("legacy", [False, True])
def test_row_2_legacy_inplace_compares_the_mixed_images_too(legacy: bool) -> None:
    method, batch = facemix(legacy_inplace=legacy, kappa="ssim"), batch_of()
    out, lam = run(method, batch)
    mixed, y = mix_images(batch["x_lb"], lam), batch["y_lb"]
    pixels = mix_images(batch["pixels"], lam) if legacy else batch["pixels"]
    real = method.student(mixed if legacy else batch["x_lb"])
    expected = facemix_loss(method.student(mixed), real, y, lam, image_kappa(pixels, "ssim"))
    assert_close(out["loss"], expected, **TOLERANCE)


def test_legacy_inplace_trains_with_the_gradient_of_both_passes() -> None:
    method, batch = facemix(legacy_inplace=True), batch_of()
    out, lam = run(method, batch)
    out["loss"].backward()
    found = {k: p.grad.clone() for k, p in method.student.named_parameters()}
    method.zero_grad()
    mixed = mix_images(batch["x_lb"], lam)
    kappa = 1 - paired_iou(batch["boxes_lb"])
    facemix_loss(method.student(mixed), method.student(mixed.clone()), batch["y_lb"], lam, kappa).backward()
    for name, p in method.student.named_parameters():
        assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5)


# --- row 3: where boxes come from ---


class Noted:
    """A detector that notes what it sees and finds a face in the first and the last image."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        self.seen.append(images)
        found = torch.zeros(len(images), dtype=torch.bool)
        found[[0, -1]] = True
        return torch.tensor([[1.0, 2, 9, 10]]) * found[:, None], found


@pytest.mark.parametrize("box_input", ["pixels", "normalized"])
@pytest.mark.parametrize("legacy", [False, True])
def test_row_3_detect_looks_at_the_views_and_keeps_the_given_box_where_it_finds_none(
    legacy: bool, box_input: str
) -> None:
    detect, batch = Noted(), batch_of()
    method = facemix(detect, box_source="detect", box_input=box_input, legacy_inplace=legacy)
    with torch.autocast("cpu", torch.bfloat16):
        out, lam = run(method, batch)
    images = mix_images(batch["x_lb"], lam) if legacy else batch["x_lb"]
    seen = images if box_input == "normalized" else denormalize(images, method.mean, method.std)
    assert len(detect.seen) == 1
    assert_close(detect.seen[0], seen, rtol=0, atol=1e-6)
    boxes = batch["boxes_lb"].clone()
    boxes[[0, 3]] = torch.tensor([1.0, 2, 9, 10])
    assert_close(method.kappa(images, batch["boxes_lb"]), 1 - paired_iou(boxes), rtol=0, atol=0)
    mixed = mix_images(batch["x_lb"], lam)
    real = method.student(mixed if legacy else batch["x_lb"])
    expected = facemix_loss(method.student(mixed), real, batch["y_lb"], lam, 1 - paired_iou(boxes))
    assert_close(out["loss"].float(), expected, rtol=0.02, atol=0.02)  # bfloat16


@pytest.mark.parametrize("options", [{}, {"box_source": "detect", "kappa": "ssim"}], ids=str)
def test_row_3_nobody_looks_for_faces_when_boxes_are_cached_or_not_used(options: dict[str, str]) -> None:
    detect = Noted()
    run(facemix(detect, **options), batch_of())
    assert not detect.seen


def test_row_3_the_detector_is_aligns_and_only_built_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def build(*arguments: Any, **named: Any) -> BrightDetector:
        asked.append((*arguments, *named.values()))
        return BrightDetector()

    monkeypatch.setattr("ssfer.faces.detectors.registry.build_detector", build)
    align = {"box_min_score": 0.6}

    def made(**mixing: str) -> BoxDetector | None:
        params = tiny_params(align=align, finetune={"facemix": {"box_source": "detect", **mixing}})
        return finetune.view_detector(params, Machine(params.machine))

    idle = ({"box_source": "cached"}, {"kappa": "fsim"}, {"mode": "mixup"}, {"mode": "none"})
    assert [made(**mixing) for mixing in idle] == [None] * 4
    detect = made()
    assert asked == [("mtcnn", DETECTORS["mtcnn"].Settings(), "cpu")]
    assert detect is not None
    photo = torch.from_numpy(np.array(bright_photo((20, 30, 60, 70), size=(96, 96)))).permute(2, 0, 1)
    assert detect(photo[None] / 255)[1].tolist() == [False]  # its score is 0.587


def test_faces_of_views_are_found_by_the_rule_of_the_stored_crops() -> None:
    photos = [
        bright_photo((20, 30, 60, 70), size=(96, 96)),
        bright_photo(size=(96, 96)),
        bright_photo((10, 10, 40, 40), (50, 50, 90, 90), size=(96, 96)),
        bright_photo((30, 20, 70, 80), size=(96, 96)),
    ]
    images = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in photos])
    boxes, found = view_boxes(BrightDetector(), 0.5)(images)
    assert found.tolist() == [True, False, False, True]
    assert boxes[found].tolist() == [[20, 30, 60, 70], [30, 20, 70, 80]]
    assert boxes.dtype == torch.float32
    # 0.5 + 0.5 * share of the picture: 0.587 for the first face, 0.63 for the second
    assert view_boxes(BrightDetector(), 0.6)(images)[1].tolist() == [False, False, False, True]
    outside = images * 3 - 1  # clipped: 8-bit pictures know nothing beyond black and white
    assert torch.equal(view_boxes(BrightDetector(), 0.5)(outside)[1], found)


# --- row 6 and invariant 17: the learning rate ---


@pytest.mark.parametrize(("lag", "expected"), [(False, [0, 0, 0, 1, 1, 1, 2, 2]), (True, [0, 0, 0, 0, 1, 1, 1, 2])])
def test_row_6_a_new_learning_rate_comes_before_or_after_the_first_step_of_an_epoch(
    lag: bool, expected: list[int]
) -> None:
    assert [epoch_in_force(step / 3, lag) for step in range(8)] == expected


def test_row_6_a_lagging_rate_of_single_step_epochs_is_always_the_last_epochs() -> None:
    assert [epoch_in_force(float(step), True) for step in range(4)] == [0, 0, 1, 2]


# --- the running average ---


def test_without_a_decay_there_is_no_average() -> None:
    method = facemix()
    method.after_step(0)
    assert method.eval_module() is method.student
    assert {k.split(".")[0] for k in method.state_dict()} == {"student"}


def test_the_average_follows_the_student_and_is_what_is_evaluated() -> None:
    method = facemix(ema_decay=0.9)
    old = {k: v.clone() for k, v in method.student.state_dict().items()}
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1)
    method.after_step(0)
    assert method.eval_module() is not method.student
    for name, value in method.eval_module().state_dict().items():
        assert_close(value, old[name] + 0.1, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in method.average.parameters())
    assert {k.split(".")[0] for k in method.state_dict()} == {"student", "average"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project on which stage pretrain and a plain stage finetune have run."""
    root = tmp_path_factory.mktemp("options") / "project"
    make_project(root, finetune={"baselines": [], "epochs_few_labels": 2})
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("pretrain", "finetune"):
            run_here(root, stage, patch)
    yield root


def again(root: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run stage finetune with other settings; return its weights and metrics, and put everything back."""
    before = (root / "params.yaml").read_bytes()
    for key, value in settings.items():
        change(root, "finetune", key, value)
    run_here(root, "finetune", monkeypatch)
    (root / "params.yaml").write_bytes(before)
    return tensors(root / "data/weights/finetune"), read_metrics("finetune", root / "metrics")


def test_an_average_leaves_the_student_as_it_is_and_lies_beside_it(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = again(pretrained, monkeypatch)
    averaged, _ = again(pretrained, monkeypatch, ema_decay=0.5)
    assert all(torch.equal(averaged[k], plain[k]) for k in plain if k.startswith("facemix_last"))
    names = {k.partition("/")[0].removesuffix(".safetensors") for k in averaged}
    assert names == {"facemix_last", "facemix_best", "facemix_ema_last", "facemix_ema_best"}
    head = "facemix{}_last.safetensors/head.weight"
    assert not torch.equal(averaged[head.format("_ema")], averaged[head.format("")])
    frozen, metrics = again(pretrained, monkeypatch, ema_decay=1.0)
    assert metrics["facemix"]["best_epoch"] == 1  # validated is the average, which stays what it was at the start
    assert torch.equal(frozen[head.format("_ema")], frozen[head.format("_ema").replace("last", "best")])


@pytest.mark.parametrize("frame", ["source", "augmented"])
def test_stage_finetune_with_detect_forgets_the_stored_boxes(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    """Striped patterns are no faces for BrightDetector, so that only fallback boxes are left."""
    monkeypatch.setattr("ssfer.faces.detectors.registry.build_detector", lambda *_, **__: BrightDetector())
    boxes: list[tuple[float, ...]] = []
    kappa = FaceMix.kappa

    def noted(self: FaceMix, images: Tensor, found: Tensor) -> Tensor:
        boxes.extend(map(tuple, found.tolist()))
        return kappa(self, images, found)

    monkeypatch.setattr(FaceMix, "kappa", noted)
    facemix = {"mode": "facemix", "variant": "L4", "label_smoothing": 0.1, "kappa": "iou", "legacy_inplace": True}
    facemix |= {"box_source": "detect", "box_input": "normalized", "fallback_frame": frame}
    weights, _ = again(pretrained, monkeypatch, facemix=facemix)
    if frame == "augmented":
        assert set(boxes) == {tuple(torch.tensor(fallback_box(16)).tolist())}
    else:
        assert len(set(boxes)) > 10
        assert all(0 <= x1 < x2 <= 16 and 0 <= y1 < y2 <= 16 for x1, y1, x2, y2 in boxes)
    assert all(torch.isfinite(v).all() for v in weights.values())
