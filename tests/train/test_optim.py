"""ssfer.train.optim: every learning rate printed in the specification (6, 9, 10), parameter groups, AdamW's betas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssfer.models.ema import EMA
from ssfer.models.vit import build_classifier, build_mae
from ssfer.train.optim import adamw, finetune_lr, mae_lr, param_groups
from tests.support.factory import tiny_params

PAPER = {"epochs": 100, "lr_min": 1e-5, "lr_warm": 5e-5, "warmup_epochs": 5, "cosine_fraction": 0.5}

# --- fine-tuning ---


@pytest.mark.parametrize(
    ("lr_max", "epoch", "expected"),
    [
        *((1.5e-4, e, v) for e, v in enumerate((5e-5, 7e-5, 9e-5, 1.1e-4, 1.3e-4, 1.46574e-4, 1.450844e-4))),
        *((1.5e-4, e, v) for e, v in ((25, 8e-5), (49, 1.013813e-5), (50, 1e-5), (51, 1e-5), (99, 1e-5))),
        *((1e-4, e, v) for e, v in enumerate((5e-5, 6e-5, 7e-5, 8e-5, 9e-5, 9.779754e-5, 9.683994e-5))),
        *((1e-4, e, v) for e, v in ((25, 5.5e-5), (50, 1e-5), (99, 1e-5))),
    ],
)
def test_finetune_lr_has_the_printed_values(lr_max: float, epoch: int, expected: float) -> None:
    assert finetune_lr(epoch, lr_max=lr_max, **PAPER) == pytest.approx(expected, rel=1e-6)


def test_finetune_lr_defaults_are_the_papers() -> None:
    assert finetune_lr(5, epochs=100) == pytest.approx(9.779754e-5, rel=1e-6)
    assert finetune_lr(0, epochs=100) == pytest.approx(5e-5)


def finetune_by_formula(e: float, w: float, t: float, hi: float, lo: float, warm: float) -> float:
    if e < w:
        return warm + e * (hi - warm) / w
    return lo + 0.5 * (hi - lo) * (1 + math.cos(math.pi * e / t)) if e < t else lo


@pytest.mark.parametrize(("epochs", "cosine_fraction"), [(100, 0.5), (1000, 0.5), (100, 1.0), (30, 0.7)])
def test_finetune_lr_follows_the_formula_and_never_drops_below_the_minimum(epochs: int, cosine_fraction: float) -> None:
    span = cosine_fraction * epochs
    for quarter in range(4 * epochs):
        e = quarter / 4
        lr = finetune_lr(e, **{**PAPER, "epochs": epochs, "cosine_fraction": cosine_fraction}, lr_max=1e-4)
        assert lr == pytest.approx(finetune_by_formula(e, 5, span, 1e-4, 1e-5, 5e-5), rel=1e-9)
        assert lr >= 1e-5
        if e >= span:
            assert lr == 1e-5


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [1e-4]),  # T = max(0.5, 1) = 1, no warm-up left
        (2, [1e-4, 1e-5]),  # T = 1
        (4, [5e-5, 5.5e-5, 1e-5, 1e-5]),  # T = 2, warm-up 1, cosine at its middle
    ],
)
def test_finetune_lr_is_defined_for_very_short_runs(epochs: int, expected: list[float]) -> None:
    rates = [finetune_lr(e, **{**PAPER, "epochs": epochs}, lr_max=1e-4) for e in range(epochs)]
    assert rates == pytest.approx(expected, rel=1e-9)


# --- pretraining ---

MAE = {"lr": 3.4e-4, "epochs": 600, "warmup_epochs": 50}


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [
        (0, 0.0),
        (0.5, 0.01),  # per iteration: half an epoch counts
        (25, 0.5),
        (49.999, 0.99998),
        (50, 1.0),  # end of the warm-up
        (325, 0.5),  # middle of the cosine
        (50 + 550 / 4, 0.5 * (1 + math.sqrt(0.5))),
        (599.999, 0.0),
        (600, 0.0),
        (700, 0.0),
    ],
)
def test_mae_lr_rises_linearly_then_falls_along_half_a_cosine(epoch: float, factor: float) -> None:
    assert mae_lr(epoch, **MAE) == pytest.approx(3.4e-4 * factor, rel=1e-6, abs=3.4e-4 * 1e-9)


def test_mae_lr_without_warmup_starts_at_the_top() -> None:
    assert mae_lr(0, lr=1e-3, epochs=10, warmup_epochs=0) == pytest.approx(1e-3)


def test_mae_lr_with_nothing_but_warmup_is_defined() -> None:
    assert mae_lr(4.5, lr=1e-3, epochs=5, warmup_epochs=5) == pytest.approx(0.9e-3)
    assert mae_lr(5, lr=1e-3, epochs=5, warmup_epochs=5) == pytest.approx(1e-3)


@pytest.mark.parametrize(("epochs", "peak"), [(600, 0.98363), (800, 0.99077)])
def test_authors_schedule_peaks_where_the_specification_says(epochs: int, peak: float) -> None:
    factors = [mae_lr(e, lr=1.0, epochs=epochs, warmup_epochs=50, schedule="authors_min") for e in range(epochs)]
    assert max(factors) == pytest.approx(peak, abs=5e-6)
    assert factors.index(max(factors)) == 49
    assert factors[0] == pytest.approx(1 / 50)


def test_authors_schedule_of_800_epochs_is_far_from_zero_at_epoch_599() -> None:
    lr = mae_lr(599, lr=3.4e-4, epochs=800, warmup_epochs=50, schedule="authors_min")
    assert lr == pytest.approx(5.03e-5, abs=5e-8)
    assert lr / 3.4e-4 == pytest.approx(0.148, abs=5e-4)


def test_unknown_schedule_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'linear' \(known: mae_iter, authors_min\)"):
        mae_lr(0, **MAE, schedule="linear")


# --- parameter groups ---


def _networks() -> dict[str, nn.Module]:
    params = tiny_params()
    student = build_classifier(params.model, 3)
    return {
        "mae": build_mae(params.model, params.pretrain),
        "classifier": build_classifier(params.model, 3),
        "with teacher": nn.ModuleDict({"student": student, "teacher": EMA(student, 0.9)}),
    }


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", sorted(_networks()))
def test_every_trainable_parameter_is_in_exactly_one_group(name: str, decay_all: bool) -> None:
    network = _networks()[name]
    grouped = [id(p) for g in param_groups(network, 0.05, decay_all) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", sorted(_networks()))
def test_only_weight_matrices_and_filters_are_decayed(name: str) -> None:
    network = _networks()[name]
    decay = {id(p): g["weight_decay"] for g in param_groups(network, 0.05) for p in g["params"]}
    for key, p in network.named_parameters():
        if p.requires_grad:
            is_token = key.endswith(("_token", "pos_embed"))
            expected = 0.05 if key.endswith(".weight") and p.ndim >= 2 and not is_token else 0.0
            assert decay[id(p)] == expected, key


def test_tokens_and_position_table_of_a_nested_classifier_are_not_decayed() -> None:
    owner = nn.ModuleDict({"student": build_classifier(tiny_params().model, 3)})
    exempt = {id(p) for g in param_groups(owner, 0.05) if g["weight_decay"] == 0 for p in g["params"]}
    assert {id(owner["student"].cls_token), id(owner["student"].pos_embed)} <= exempt


def test_decay_all_decays_everything() -> None:
    groups = param_groups(build_mae(tiny_params().model, tiny_params().pretrain), 0.05, decay_all=True)
    assert [g["weight_decay"] for g in groups] == [0.05]


def test_adamw_has_the_betas_of_the_specification_and_keeps_the_groups_decay() -> None:
    optimizer = adamw(param_groups(nn.Linear(3, 2), 0.05), 1e-3)
    assert [(g["betas"], g["lr"], g["weight_decay"], g["eps"]) for g in optimizer.param_groups] == [
        ((0.9, 0.95), 1e-3, 0.05, 1e-8),
        ((0.9, 0.95), 1e-3, 0.0, 1e-8),
    ]


def test_adamw_step_agrees_with_the_formula() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    optimizer = adamw(param_groups(layer, 0.05), 0.1)
    for gradient in (3.0, -1.0):
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        layer.bias.grad = torch.full_like(layer.bias, gradient)
        optimizer.step()
    for decay, value in ((0.05, layer.weight.item()), (0.0, layer.bias.item())):
        x, m, v = 2.0, 0.0, 0.0
        for t, g in ((1, 3.0), (2, -1.0)):
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
            x -= 0.1 * decay * x  # decoupled
            x -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8)
        assert value == pytest.approx(x, rel=1e-5)
