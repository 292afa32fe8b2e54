"""The learning-rate search as a user runs it: what it reads and writes, how it goes on, what it is worth.

Its score must be what stage finetune itself would report with the held-out images as validation part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssfer.cli.main import app
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_json
from ssfer.core.places import ENCODER
from ssfer.data.split import load_split
from ssfer.search import candidates as module
from ssfer.search.candidates import RATES, WORST, Candidates, prepare, score
from ssfer.search.lr import BOUNDS, RESULT, Settings, command, rates_at, run_search
from ssfer.stages.finetune import run_finetune
from ssfer.train.checkpoints import Scratch
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.search_inputs import write_inputs

SMALL = Settings(wolves=3, iterations=2, epochs=1)
EVALUATIONS = 1 + 3 * 2  # the present rates first


@pytest.fixture
def params(project: Path) -> Params:
    return write_inputs(project)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the candidates that are really trained, as the test goes on."""
    names: list[str] = []
    train = Candidates._train

    def noted(self: Candidates, rates: module.Rates, name: str) -> dict[str, float | None]:
        names.append(name)
        return train(self, rates, name)

    monkeypatch.setattr(Candidates, "_train", noted)
    return names


def files(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_result_has_history_best_bounds_and_holdout(project: Path, params: Params) -> None:
    before = files(project)
    result = run_search(params, SMALL)
    assert read_json(RESULT) == {"search": result}
    assert {f for f in files(project) - before if not f.startswith(".scratch/")} == {"metrics/search/lr.json"}
    assert not list((project / ".scratch").rglob("*.pt"))
    split = load_split()
    assert (result["split"], result["epochs"], result["batch_size"]) == (split["hash"], 1, 8)
    assert result["bounds"] == {name: list(pair) for name, pair in BOUNDS.items()}
    assert [row["a"] for row in result["history"]] == [2.0, 1.0]
    found = [c for row in result["history"] for c in row["candidates"]]
    assert len(found) == 6 and all(0 <= c["accuracy"] <= 1 for c in found)
    assert result["best"] in found and score(result["best"]) == max(map(score, found))
    assert result["present"]["rates"] == {name: getattr(params.finetune, name) for name in RATES}
    for c in found:
        assert all(BOUNDS[name][0] <= c["rates"][name] <= BOUNDS[name][1] for name in RATES)


def test_holdout_is_stratified_disjoint_and_of_labeled_images_alone(project: Path, params: Params) -> None:
    split, trial = load_split(), prepare(params, 0.2, 2024, None)
    kept, held = set(trial.kept.ids), set(trial.held.ids)
    assert kept | held == set(split["labeled"]) and not kept & held
    assert not (kept | held) & {*split["valid"], *split["unlabeled"]}
    assert sorted(trial.held.labels.tolist()) == [0, 1, 2]  # round(0.2 * 6) of each class
    assert trial.held_hash == sha256_json(trial.held.ids)
    assert set(prepare(params, 0.2, 7, None).held.ids) != held


def test_wrong_labels_stay_wrong_in_both_parts(project: Path, params: Params) -> None:
    split = load_split()
    wrong = dict.fromkeys(split["labeled"][:9:3], "surprise")  # three of the six that show anger
    factory.change_split(noisy=wrong)
    trial = prepare(params, 0.2, 2024, None)
    labels = {k: v for part in (trial.kept, trial.held) for k, v in zip(part.ids, part.labels.tolist(), strict=True)}
    assert [labels[name] for name in split["labeled"]] == [2, 1, 2, 2, 1, 2, 2, 1, 2, *[0, 1, 2] * 3]
    assert np.bincount(trial.held.labels).tolist() == [1, 1, 2]  # round(0.2 * n) of 3, 6 and 9


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_score_is_what_stage_finetune_reports_on_those_images(project: Path, params: Params, tau: float) -> None:
    """Stage finetune on a split whose labeled part is the kept and whose validation part is the held-out one."""
    factory.change_split(labeled=[id for i, id in enumerate(load_split()["labeled"]) if i < 9 or i % 3])  # 3, 6 and 6
    params = factory.tiny_params(finetune={"logit_adjustment": tau})
    trial = prepare(params, 0.34, 1, 4)
    rates = {"lr_max": 3e-3, "lr_min": 1e-4, "lr_warm": 2e-4}
    with Scratch("search", trial.identity) as scratch:
        found = Candidates(trial, Machine(params.machine), scratch).evaluate(rates)
    factory.change_split(labeled=trial.kept.ids, valid=trial.held.ids)
    same = factory.tiny_params(finetune={**rates, "epochs_few_labels": 4, "baselines": [], "logit_adjustment": tau})
    metrics = run_finetune(same)
    assert metrics is not None
    assert found["accuracy"] == metrics["facemix"]["val_accuracy_last"]
    loss = pd.read_csv("metrics/curves/finetune.csv")["val_loss"].dropna().iloc[-1]
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert found["rates"] == rates
    # The rates matter: other ones give another loss.
    with Scratch("search", trial.identity) as scratch:
        other = Candidates(trial, Machine(params.machine), scratch).evaluate({**rates, "lr_max": 1e-3})
    assert other["loss"] != found["loss"]


def test_test_part_is_never_read(project: Path, params: Params) -> None:
    whole = json.dumps(run_search(params, SMALL))
    shutil.rmtree(project / ".scratch")
    for shard in (project / "data/faces/exam").glob("*.tar"):
        shard.unlink()
    assert json.dumps(run_search(params, SMALL)) == whole


@pytest.mark.parametrize("finished", [1, EVALUATIONS - 1])
def test_interrupted_search_goes_on_and_ends_the_same(
    project: Path, params: Params, trained: list[str], monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    run_search(params, SMALL)
    whole = (project / RESULT).read_bytes()
    assert len(trained) == len(set(trained)) == EVALUATIONS
    shutil.rmtree(project / ".scratch")
    (project / RESULT).unlink()
    trained.clear()

    write = module.write_json

    def stop(path: Path, value: Any) -> None:
        if len(trained) > finished:
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_json", stop)
        run_search(params, SMALL)
    assert not (project / RESULT).exists() and len(trained) == finished + 1
    # Snapshots of a large network fill a disk: only those of the interrupted candidate are left.
    assert {path.parent.name for path in (project / ".scratch").rglob("*.pt")} == {trained[-1]}
    trained.clear()
    run_search(params, SMALL)
    assert len(trained) == EVALUATIONS - finished
    assert (project / RESULT).read_bytes() == whole
    trained.clear()
    run_search(params, SMALL)
    assert not trained and (project / RESULT).read_bytes() == whole


def _done(root: Path) -> list[Path]:
    return list((root / ".scratch/search").rglob("candidate-*.json"))


def test_damaged_and_foreign_records_are_trained_again(project: Path, params: Params, trained: list[str]) -> None:
    whole = run_search(params, SMALL)
    records = _done(project)
    assert len(records) == EVALUATIONS
    records[0].write_text('{"rates": {"lr_max"')
    records[1].write_text(records[2].read_text())
    records[3].write_text("[]")
    trained.clear()
    assert run_search(params, SMALL) == whole
    assert sorted(trained) == sorted(path.stem for path in (*records[:2], records[3]))


def test_other_settings_are_another_search(project: Path, params: Params) -> None:
    identity = prepare(params, 0.2, 2024, None).identity
    for other in (
        prepare(params, 0.4, 2024, None),
        prepare(params, 0.2, 7, None),
        prepare(params, 0.2, 2024, 7),
        prepare(factory.tiny_params(finetune={"facemix": {"variant": "L1"}}), 0.2, 2024, None),
    ):
        assert other.identity != identity
    same = factory.tiny_params(finetune={"lr_max": 0.003, "lr_min": 1e-6, "lr_warm": 1e-6, "baselines": []})
    assert prepare(same, 0.2, 2024, None).identity == identity


def test_held_out_images_do_not_make_training_longer(project: Path) -> None:
    """18 labels are not few below 17, the 15 that are left would be: stage finetune trains 2 epochs, so do these."""
    p = write_inputs(project)
    p = factory.tiny_params(finetune={"few_labels": 17, "epochs": 2, "epochs_few_labels": 3})
    assert prepare(p, 0.2, 2024, None).params.finetune.model_dump(include={"epochs", "epochs_few_labels"}) == {
        "epochs": 2,
        "epochs_few_labels": 2,
    }
    few = factory.tiny_params(finetune={"few_labels": 19, "epochs": 2, "epochs_few_labels": 3})
    assert prepare(few, 0.2, 2024, None).params.finetune.epochs == 3
    assert prepare(few, 0.2, 2024, None).params.finetune.eval_every == 3  # the last epoch alone counts
    assert prepare(few, 0.2, 2024, 5).params.finetune.epochs == 5


def test_divergence_is_the_worst_score_not_an_error(project: Path, params: Params) -> None:
    """Pixels divided by next to nothing: the first loss is not a number, as with rates that are far too high."""
    broken = factory.tiny_params(model={"std": (1e-44, 1e-44, 1e-44)})
    trial = prepare(broken, 0.2, 2024, 1)
    with Scratch("search", trial.identity) as scratch:
        found = Candidates(trial, Machine(broken.machine), scratch).evaluate(dict.fromkeys(RATES, 1e-4))
    assert (found["accuracy"], found["loss"]) == (None, None)
    assert score(found) == WORST < score({"accuracy": 0.0, "loss": 99.0})
    with pytest.raises(SsferError, match="training diverged at every candidate"):
        run_search(broken, SMALL)
    assert not (project / RESULT).exists()


def test_other_errors_of_training_stop_the_search(project: Path, params: Params) -> None:
    shard = project / "data/faces/faces/shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(SsferError, match="cut short"):
        run_search(params, SMALL)


def test_of_equal_accuracies_the_lower_loss_is_better() -> None:
    assert score({"accuracy": 0.5, "loss": 1.0}) > score({"accuracy": 0.5, "loss": 1.1})
    assert score({"accuracy": 0.6, "loss": 9.0}) > score({"accuracy": 0.5, "loss": 1.0})


def test_points_are_rates_on_a_logarithmic_scale() -> None:
    assert rates_at((0, 0, 0), BOUNDS) == {"lr_max": 5e-5, "lr_min": 1e-6, "lr_warm": 1e-6}
    assert rates_at((1, 1, 1), BOUNDS) == {"lr_max": 5e-4, "lr_min": 5e-5, "lr_warm": 1e-4}
    assert rates_at((0.5, 0.5, 0.5), BOUNDS) == {"lr_max": 1.58114e-4, "lr_min": 7.07107e-6, "lr_warm": 1e-5}
    low = 1.234564e-4  # rounding to six digits would leave the bounds
    assert rates_at((0, 0, 0), {**BOUNDS, "lr_max": (low, 2e-4)})["lr_max"] == low


def test_result_becomes_a_command_without_exponents() -> None:
    assert command({"lr_max": 1.23e-4, "lr_min": 1e-5, "lr_warm": 3.69e-5}) == (
        "ssfer run -S finetune.lr_max=0.000123 -S finetune.lr_min=0.00001 -S finetune.lr_warm=0.0000369"
    )


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of `ssfer search lr`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        app(["search", "lr", *map(str, words)], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_command_prints_how_to_use_the_result(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssfer.config.schema.load_params", lambda: params)
    options = ("--wolves", 3, "--iterations", 1, "--epochs", 1, "--seed", 5, "--holdout", 0.4)
    status, out, err = run(capsys, *options, "--lr-max", 1e-4, 2e-4)
    assert status == 0 and "iteration 1 of 1, best 0." in err
    lines = out.splitlines()
    assert lines[0] == "accuracy on 6 held-out images" and lines[1].startswith("  present: ")
    result = read_json(RESULT)["search"]
    better = score(result["best"]) > score(result["present"])
    expected = (
        r"ssfer run( -S finetune\.lr_(max|min|warm)=0\.0\d+){3}" if better else r"no candidate is better .*; keep them"
    )
    assert re.fullmatch(expected, lines[-1])
    assert (result["seed"], result["epochs"], result["wolves"], result["iterations"]) == (5, 1, 3, 1)
    assert result["bounds"]["lr_max"] == [1e-4, 2e-4]
    assert all(1e-4 <= c["rates"]["lr_max"] <= 2e-4 for c in result["history"][0]["candidates"])


def test_bad_input_is_refused_in_one_line(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssfer.config.schema.load_params", lambda: params)
    for words, message in (
        (("--holdout", 1.5), "--holdout is a share between 0 and 1, found 1.5"),
        (("--lr-max", 1e-3, 1e-4), "--lr-max takes a lower and a higher bound between 0 and 1, found 0.001 0.0001"),
    ):
        status, _, err = run(capsys, *words)
        assert status == 2 and message in err and len(err.splitlines()) == 1
    assert run(capsys, "--wolves", 2)[0] == 2
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert "runs in one process" in run(capsys)[2]
    monkeypatch.delitem(os.environ, "WORLD_SIZE")
    (project / ENCODER).unlink()
    assert "no weights at" in run(capsys)[2]
