"""What each training stage hands to the loop: which faces, seeds, rates, groups, pixels and callbacks.

Nothing is trained here. Every setting has another value in each section, so that none can stand in for another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.places import ENCODER, WEIGHTS
from ssfer.data.split import load_split
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import cross_entropy
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models.classifier import metadata
from ssfer.models.vit import HEAD_KEYS
from ssfer.stages import finetune, pretrain, semisup
from ssfer.stages.common import save_classifier, seeded_classifier, split_dataset
from ssfer.train.device import Machine
from ssfer.train.metrics_history import Meter, Progression
from tests.support import factory

STAGES: dict[str, Any] = {"pretrain": pretrain, "finetune": finetune, "semisup": semisup}
RUN: dict[str, Callable[[Params], Any]] = {
    "pretrain": pretrain.run_pretrain, "finetune": finetune.run_finetune, "semisup": semisup.run_semisup,
}  # fmt: skip
PARAMS = factory.tiny_params(
    model={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "head_init": "torch_default"},
    pretrain={"seed": 11, "epochs": 5, "stop_at": 4, "batch_size": 8, "lr": 0.01, "weight_decay": 0.11,
              "min_scale": 0.15, "mask_ratio": 0.6},
    finetune={"seed": 21, "epochs_few_labels": 6, "warmup_epochs": 2, "cosine_fraction": 0.5, "batch_size": 6,
              "lr_max": 0.02, "lr_min": 0.003, "lr_warm": 0.01, "weight_decay": 0.21, "min_scale": 0.25,
              "eval_every": 2, "baselines": ["scratch", "plain"], "ema_decay": 0.5, "lr_lag_one_step": True},
    semisup={"seed": 31, "epochs": 7, "batch_size": 4, "uratio": 3, "lr": 0.03, "weight_decay": 0.31, "beta2": 0.93,
             "min_scale": 0.35, "eval_every": 3, "method": "leaf", "randaugment": "rand-m9-n1"},
)  # fmt: skip


class Planned(Exception):
    """The stage would train now."""


@pytest.fixture
def planned(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[tuple[Any, Any]]]:
    """Return a function that runs a stage without training and returns plan and callbacks of its runs."""
    factory.write_project(project)
    split, model = load_split(), seeded_classifier(PARAMS, 3, 5)
    encoder = {k: v for k, v in model.state_dict().items() if k not in HEAD_KEYS}
    save_weights(ENCODER, encoder, metadata("encoder", PARAMS.model, "x", "y"))
    for seed, when in enumerate(("last", "best")):
        state = seeded_classifier(PARAMS, 3, seed).state_dict()
        save_classifier(WEIGHTS / f"finetune/facemix_{when}.safetensors", state, PARAMS, split)

    def run(stage: str) -> list[tuple[Any, Any]]:
        runs: list[tuple[Any, Any]] = []

        def fit(plan: Any, machine: Machine, checkpoints: Any, callbacks: Any) -> Progression:
            runs.append((plan, callbacks))
            if stage != "finetune":
                raise Planned
            row = {"epoch": 1, "loss": 0.5, "val_accuracy": 0.25, "val_loss": 2.0}
            best = {k: torch.zeros_like(v) for k, v in plan.method.state_dict().items()}
            return Progression(1, [row], {**row, "state": best}, Meter())

        monkeypatch.setattr(STAGES[stage], "fit", fit)
        with suppress(Planned):
            RUN[stage](PARAMS)
        return runs

    return run


def last_plan(runs: list[tuple[Any, Any]]) -> Any:
    return runs[-1][0]


@pytest.mark.parametrize(
    ("stage", "seed", "decay", "beta2", "exempt", "epochs"),
    [
        ("pretrain", 11, 0.11, 0.95, True, 4),
        ("finetune", 21, 0.21, 0.95, False, 6),
        ("semisup", 31, 0.31, 0.93, False, 7),
    ],
)
def test_seed_groups_and_pixels_are_the_stages_own(
    planned: Any, stage: str, seed: int, decay: float, beta2: float, exempt: bool, epochs: int
) -> None:
    plan = last_plan(planned(stage))
    assert (plan.seed, plan.mean, plan.std, plan.batches.epochs) == (seed, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), epochs)
    groups = plan.optimizer.param_groups
    assert {group["betas"] for group in groups} == {(0.9, beta2)}
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = [p for p in plan.method.parameters() if p.requires_grad]
    assert decayed.keys() == {id(p) for p in trained}
    vectors = {decayed[id(p)] for p in trained if p.ndim == 1}  # biases and norms
    assert vectors == ({0.0} if exempt else {decay})
    assert decayed[id(next(p for p in trained if p.ndim == 2))] == decay
    seeds = [stream.seed for stream in plan.batches.streams]
    assert len({*seeds, seed}) == len(seeds) + 1


def test_rates_follow_the_stages_own_schedule(planned: Any) -> None:
    rates = {stage: last_plan(planned(stage)).lr_at for stage in STAGES}
    assert [rates["pretrain"](e) for e in (0.5, 1.0, 3.0, 5.0)] == pytest.approx([0.005, 0.01, 0.005, 0.0])
    # The first step of epoch 3 still has epoch 2's rate: 0.003 + 0.017 (1 + cos 2 pi / 3) / 2.
    assert [rates["finetune"](e) for e in (0.0, 1.9, 3.0, 3.1)] == pytest.approx([0.01, 0.015, 0.00725, 0.003])
    assert [rates["semisup"](e) for e in (0.0, 3.5)] == [0.03, 0.03]  # row 7: the release never steps its schedule


def test_streams_have_the_faces_sizes_and_views_of_the_stage(planned: Any) -> None:
    split = load_split()
    found = {
        stage: [
            (s.name, s.batch_size, len(s.dataset), s.dataset.ids[-1],
             {k: (type(v).__name__, getattr(v, "min_scale", None), v.size) for k, v in s.views.items()})
            for s in last_plan(planned(stage)).batches.streams
        ]
        for stage in STAGES
    }  # fmt: skip
    weak = {stage: ("Weak", scale, 16) for stage, scale in (("pretrain", 0.15), ("finetune", 0.25), ("semisup", 0.35))}
    assert found["pretrain"] == [("ulb", 8, 40, "corpus/train000039", {"w": weak["pretrain"]})]
    assert found["finetune"] == [("lb", 6, 18, split["labeled"][-1], {"": weak["finetune"]})]
    (*unlabeled, views), labeled = found["semisup"]
    assert unlabeled == ["ulb", 12, 24, split["unlabeled"][-1]]
    assert views["w"] == views["w2"] == weak["semisup"] and views["s"][0] == "Strong"
    assert labeled == ("lb", 4, 18, split["labeled"][-1], {"": weak["semisup"]})


def test_pretraining_masks_the_asked_share(planned: Any) -> None:
    assert last_plan(planned("pretrain")).method.mask_ratio == 0.6


@pytest.mark.parametrize(("stage", "every"), [("finetune", 2), ("semisup", 3)])
def test_checkpoints_are_chosen_on_the_validation_part(planned: Any, stage: str, every: int) -> None:
    """Of the network that the method evaluates, with the settings' pixels; never on the test part."""
    plan, callbacks = planned(stage)[-1]
    valid = split_dataset(load_split(), "valid", PARAMS)
    with torch.no_grad():  # the average differs from the student
        for p in plan.method.student.parameters():
            p.add_(0.1)
    network = (plan.method.average if stage == "finetune" else plan.method.teacher).module
    probs = predict(network, valid, machine=Machine(PARAMS.machine), model=PARAMS.model)
    found = callbacks.evaluate(plan.method)
    assert found["val_loss"] == pytest.approx(cross_entropy(probs, valid.labels), abs=1e-6)
    assert found["val_accuracy"] == pytest.approx(np.mean(probs.argmax(axis=1) == valid.labels), abs=1e-6)
    assert callbacks.eval_every == every


def test_the_labeled_pass_sees_the_labeled_images_whole(planned: Any) -> None:
    _, callbacks = planned("semisup")[-1]
    labeled = split_dataset(load_split(), "labeled", PARAMS, "semisup")
    seen = [batch["y_lb"] for batch in callbacks.labeled_batches(1)]
    assert torch.cat(seen).tolist() == labeled.labels.tolist()


def test_semisup_starts_from_the_last_weights_of_the_main_arm(planned: Any) -> None:
    method = last_plan(planned("semisup")).method
    start = load_weights(WEIGHTS / "finetune/facemix_last.safetensors")[0]
    found = method.student.state_dict()
    assert all(torch.equal(found[k], v) for k, v in start.items() if k not in HEAD_KEYS)


def test_finetune_trains_its_arms_from_their_starts_and_logs_the_main_one(planned: Any) -> None:
    runs = planned("finetune")
    assert [(plan.label, plan.method.settings.mode, calls.tracker is not None) for plan, calls in runs] == [
        ("finetune scratch", "none", False), ("finetune plain", "none", False), ("finetune facemix", "facemix", True),
    ]  # fmt: skip
    scratch, plain, main = (plan.method.student.state_dict() for plan, _ in runs)
    encoder = load_weights(ENCODER)[0]
    for key, value in encoder.items():
        assert torch.equal(plain[key], value) and torch.equal(main[key], value)
    assert any(not torch.equal(scratch[key], value) for key, value in encoder.items())
    assert all(torch.equal(plain[key], scratch[key]) for key in HEAD_KEYS)  # one seed for all heads
    for name, state in (("facemix_last", main), ("facemix_ema_last", main), ("plain_last", plain)):
        written = load_weights(WEIGHTS / f"finetune/{name}.safetensors")[0]
        assert all(torch.equal(written[key], value) for key, value in state.items())
    best = load_weights(WEIGHTS / "finetune/facemix_best.safetensors")[0]
    assert all(not value.any() for value in best.values())
    assert read_metrics("finetune")["facemix"]["val_accuracy_best"] == 0.25
