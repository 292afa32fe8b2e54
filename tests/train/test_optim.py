"""ssfer.train.optim: every learning rate printed in the specification (6, 9, 10), parameter groups, AdamW's betas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssfer.models.ema import EMA
from ssfer.models.vit import build_classifier, build_mae
from ssfer.train.optim import adamw, build_optimizer, finetune_lr, mae_lr, param_groups
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


@pytest.mark.parametrize(("epochs", "peak"), [(600, 0.98363), (800, 0.99077)])
def test_authors_schedule_peaks_where_the_specification_says(epochs: int, peak: float) -> None:
    factors = [mae_lr(e, lr=1.0, epochs=epochs, warmup_epochs=50, schedule="authors_min") for e in range(epochs)]
    assert max(factors) == pytest.approx(peak, abs=5e-6)
    assert factors.index(max(factors)) == 49
    assert factors[0] == pytest.approx(1 / 50)


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


def test_sgd_is_nesterovs_momentum_with_decay_in_the_gradient() -> None:
    """By hand, weight 2, gradient 3, decay 0.5: g = 3 + 0.5 w, v = 0.9 v + g, w -= lr (g + 0.9 v)."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer("sgd", [{"params": [weight], "weight_decay": 0.5}], 0.1)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        (3 * weight).sum().backward()
        optimizer.step()
        found.append(weight.item())
    assert found == pytest.approx([2 - 0.1 * (4 + 0.9 * 4), 1.24 - 0.1 * (3.62 + 0.9 * (0.9 * 4 + 3.62))])


def test_adamw_is_the_other_choice() -> None:
    built = build_optimizer("adamw", param_groups(nn.Linear(3, 2), 0.05), 1e-3, beta2=0.999)
    assert isinstance(built, torch.optim.AdamW) and built.defaults["betas"] == (0.9, 0.999)
