"""ssfer.methods: FaceMix, EMA teacher and MAE as the loop sees them (specification 8, 10, 18.3-12)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.core.rng import counter_uniform
from ssfer.methods.base import Method
from ssfer.methods.build import build_method
from ssfer.methods.context import Context
from ssfer.methods.ema_teacher import EMATeacher
from ssfer.methods.facemix import FaceMix
from ssfer.methods.mae import MAE
from ssfer.methods.registry import METHODS
from ssfer.methods.shared import losses
from ssfer.methods.shared.self_training import pseudo_label_counts
from ssfer.methods.shared.settings import StageSettings
from ssfer.models.vit import build_mae
from ssfer.testing import method_setup as kit
from tests.support.factory import tiny_params
from tests.support.method_batches import Batch, batch_of, built, student

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def teacher_method(seed: int = 0, **changes: Any) -> EMATeacher:
    """A teacher that already differs from its student and is confident of some images."""
    values = {"threshold": 0.4, "threshold_op": "gt", "lambda_u": 5.0, "ema_decay": 0.9} | changes
    method = EMATeacher(Context(student(seed), EMATeacher.Settings(**values)))
    method.teacher.module.load_state_dict(student(seed + 100).state_dict())
    with torch.no_grad():
        method.teacher.module.head.weight.mul_(3)
    return method


def facemix_method(**changes: Any) -> FaceMix:
    params = tiny_params(finetune={"facemix": changes})
    return FaceMix(student(), params.finetune.facemix, params.model)


# --- what the conformance kit of the semi-supervised methods does not cover: stages 1 and 2 ---


def _methods() -> dict[str, Method]:
    params = tiny_params()
    torch.manual_seed(0)
    return {
        "mae": MAE(build_mae(params.model, params.pretrain), 0.75),
        **{f"facemix {mode}": facemix_method(mode=mode) for mode in ("facemix", "mixup", "none")},
    }


@pytest.mark.parametrize("name", sorted(_methods()))
def test_a_method_leaves_its_batch_unchanged(name: str) -> None:
    batch = batch_of()
    before = {k: v.clone() for k, v in batch.items()}
    out = _methods()[name](batch)
    out["loss"].backward()
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[k], before[k]) for k in batch)


@pytest.mark.parametrize("name", sorted(_methods()))
def test_only_the_loss_has_gradient_and_everything_is_finite(name: str) -> None:
    out = _methods()[name](batch_of())
    assert {k for k, v in out.items() if v.requires_grad} == {"loss"}
    assert out["loss"].ndim == 0
    assert all(torch.isfinite(v).all() for v in out.values())
    assert all(v.ndim == 0 or k.endswith("_count") for k, v in out.items())


@pytest.mark.parametrize("name", sorted(_methods()))
def test_the_loss_reaches_every_trainable_parameter_of_the_student_and_no_other(name: str) -> None:
    method = _methods()[name].train()
    method(batch_of())["loss"].backward()
    touched = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {f"student.{n}" for n, p in method.student.named_parameters() if p.requires_grad}


def test_methods_are_built_by_name_with_their_own_params() -> None:
    method = built("ema_teacher", student())
    assert isinstance(method, METHODS["ema_teacher"])
    assert method.settings == tiny_params().methods["ema_teacher"]
    assert method.teacher.decay == method.settings.ema_decay
    method = built("fixmatch", student(), own={"threshold": 0.31})
    assert isinstance(method, METHODS["fixmatch"])
    assert method.settings.threshold == 0.31


def test_an_unknown_method_names_the_nearest_one() -> None:
    with pytest.raises(SsferError, match=r"unknown method 'ema_techer'; did you mean 'ema_teacher'\?"):
        build_method(student(), StageSettings(method="ema_techer"), {})


def test_the_base_method_evaluates_its_student_and_has_no_loss() -> None:
    method = Method(student())
    assert method.eval_module() is method.student
    assert method.networks() == {"student": method.student}
    method.after_step(0)
    with pytest.raises(NotImplementedError):
        method({})


# --- EMA teacher ---


def loss_in_loops(method: EMATeacher, batch: Batch) -> tuple[float, float, float]:
    """Section 10, one image at a time; returns labelled loss, unlabelled loss and the share kept."""
    labeled = unlabeled = kept = 0.0
    for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True):
        labeled -= method.student(x[None])[0].log_softmax(dim=0)[y].item()
    for weak, strong in zip(batch["x_ulb_w"], batch["x_ulb_s"], strict=True):
        probs = method.teacher.module(weak[None])[0].softmax(dim=0).tolist()
        if max(probs) > method.settings.threshold:
            kept += 1
            unlabeled -= method.student(strong[None])[0].log_softmax(dim=0)[probs.index(max(probs))].item()
    n = len(batch["x_ulb_w"])
    return labeled / len(batch["x_lb"]), unlabeled / n, kept / n


@pytest.mark.parametrize("lambda_u", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("threshold", [0.0, 0.545, 1.0])
def test_ema_teacher_agrees_with_the_loop(lambda_u: float, threshold: float) -> None:
    method, batch = teacher_method(lambda_u=lambda_u, threshold=threshold), batch_of(1)
    out = method(batch)
    labeled, unlabeled, kept = loss_in_loops(method, batch)
    assert out["labeled_loss"].item() == pytest.approx(labeled, rel=1e-4)
    assert out["unlabeled_loss"].item() == pytest.approx(unlabeled, rel=1e-4)
    assert out["util_ratio"].item() == pytest.approx(kept)
    assert out["loss"].item() == pytest.approx(labeled + lambda_u * unlabeled, rel=1e-4)
    if threshold == 0.545:
        assert 0 < kept < 1  # the case means something


def test_pseudo_labels_are_counted_by_true_class() -> None:
    mask = torch.tensor([1.0, 1, 0, 1, 1, 1])
    target = torch.tensor([0, 1, 1, 2, 0, 2])
    truth = torch.tensor([0, 0, 1, 2, -1, 2])
    counts = {k: v.tolist() for k, v in pseudo_label_counts(mask, target, truth, 4).items()}
    assert counts == {
        "class_count": [2, 1, 2, 0],  # of the known ones
        "kept_count": [2, 0, 2, 0],
        "correct_count": [1, 0, 2, 0],
    }


def test_teacher_is_in_eval_mode_and_does_not_see_the_students_dropout() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3))
    settings = EMATeacher.Settings(threshold=0.0, threshold_op="gt", lambda_u=1, ema_decay=0.9)
    method = EMATeacher(Context(network, settings)).train()
    assert method.student.training
    assert not any(m.training for m in method.teacher.module.modules())
    batch = batch_of(6)
    expected = copy.deepcopy(network).eval()(batch["x_ulb_w"])
    torch.manual_seed(1)
    assert torch.equal(method.teacher(batch["x_ulb_w"]), expected)
    torch.manual_seed(2)
    assert torch.equal(method.teacher(batch["x_ulb_w"]), expected)


def test_the_threshold_operator_reaches_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("gt", "ge"):
        method = teacher_method(threshold=0.5, threshold_op=op)
        logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(6, 3)
        monkeypatch.setattr(method.teacher, "forward", lambda _x, logits=logits: logits)
        assert method(batch_of())["util_ratio"].item() == (op == "ge")


# --- FaceMix ---


def test_the_mixing_coefficient_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("ssfer.methods.facemix.mix_images", lambda x, lam: drawn.append(lam) or x)
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    method = FaceMix(network, facemix_method(mode="mixup").settings, tiny_params().model)
    torch.manual_seed(0)
    batch = {k: v[:2] for k, v in batch_of().items()}
    for _ in range(400):
        method(batch)
    assert 0 <= min(drawn) < 0.02
    assert 0.98 < max(drawn) <= 1
    assert sum(drawn) / 400 == pytest.approx(0.5, abs=0.06)


def test_mixup_is_the_virtual_part_alone() -> None:
    method, batch = facemix_method(mode="mixup"), batch_of(9)
    torch.manual_seed(5)
    lam = torch.rand(()).item()
    torch.manual_seed(5)
    out = method(batch)
    x, target = batch["x_lb"], losses.mixed_target(batch["y_lb"], 3, lam, 0.1)
    logits = method.student(lam * x + (1 - lam) * x.flip(0))
    assert_close(out["loss"], -(target * logits.log_softmax(dim=1)).sum(dim=1).mean(), **TOLERANCE)


@pytest.mark.parametrize("n", [4, 5])
def test_mode_none_is_plain_cross_entropy_without_smoothing(n: int) -> None:
    method, batch = facemix_method(mode="none"), batch_of(10, n_lb=n)
    state = torch.get_rng_state()
    out = method(batch)
    assert_close(out["loss"], F.cross_entropy(method.student(batch["x_lb"]), batch["y_lb"]), **TOLERANCE)
    assert torch.equal(torch.get_rng_state(), state)


# --- MAE ---


def mae_method() -> MAE:
    return _methods()["mae"]  # type: ignore[return-value]


def test_masks_are_a_function_of_the_samples_keys() -> None:
    method, batch = mae_method(), batch_of(13)
    noise = counter_uniform(batch["key_ulb"], 16)
    expected = method.student(batch["x_ulb_w"], 0.75, noise).loss
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(method(batch)["loss"], expected)
    assert torch.equal(torch.get_rng_state(), state)
    other = batch | {"key_ulb": batch["key_ulb"] + 1}
    assert not torch.allclose(method(other)["loss"], expected)


def test_mae_needs_weak_views_and_no_labels() -> None:
    assert MAE.views == ("w",)
    assert not MAE.labeled
    assert torch.isfinite(mae_method()({k: v for k, v in batch_of().items() if k in ("x_ulb_w", "key_ulb")})["loss"])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_running_average_of_the_student_changes_nothing_else(name: str) -> None:
    """Two steps with semisup.average and without: the same losses and student; the average by hand."""
    plain, averaged = kit.build(name), kit.build(name, average=0.75)
    first = {k: v.clone() for k, v in averaged.student.state_dict().items()}
    kept = averaged.average.module.state_dict() if averaged.average else averaged.networks()["teacher"].state_dict()
    kept = {k: v.clone() for k, v in kept.items()}
    losses = [kit.trained_state(m, name, 0, 1, kit.adamw(m)) for m in (plain, averaged)]
    assert losses[0] == losses[1]
    state = averaged.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())
    assert set(averaged.networks()) == set(type(averaged).exported(0.75)) >= set(plain.networks())
    assert any(not torch.equal(v, first[k]) for k, v in averaged.student.state_dict().items())
    if averaged.average:
        for key, value in averaged.average.module.state_dict().items():
            assert_close(value, 0.75 * kept[key] + 0.25 * averaged.student.state_dict()[key])
    else:
        assert averaged.running_average == "teacher" and state.keys() == plain.state_dict().keys()
