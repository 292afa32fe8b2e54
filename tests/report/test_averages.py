"""The note about averages with too few steps: the rule by hand, and the steps that the stages count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ssfer.config.schema import parse_params
from ssfer.methods.registry import METHODS
from ssfer.report import conclusions
from ssfer.report.averages import finetune_steps, semisup_steps, short_averages
from ssfer.report.results import load_results
from ssfer.stages.finetune import epochs_and_batch
from ssfer.stages.semisup import build_streams
from tests.support.report_runs import edit, fake_metrics, make_params


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    fake_metrics(tmp_path / "metrics")
    return tmp_path / "metrics"


def notes(metrics: Path, decay: float, epochs: int, **semisup: Any) -> list[str]:
    """Return the notes of a run with 5,397 unlabeled faces and batches of 60 of them: 89 steps an epoch."""
    raw = make_params().model_dump(mode="json")
    raw["methods"]["ema_teacher"]["ema_decay"] = decay
    raw["semisup"] |= {"batch_size": 60, "uratio": 1, **semisup}
    edit(metrics / "semisup.json", lambda content: content.update(epochs=epochs))
    return list(short_averages(load_results(parse_params(raw), metrics)))


def test_the_note_says_steps_needed_steps_and_the_share_of_the_start(metrics: Path) -> None:
    (note,) = notes(metrics, 0.99, 2)  # 178 steps; 0.99^178 = 0.167
    assert note == (
        "Too few steps for the decay of EMA teacher (methods.ema_teacher.ema_decay 0.99): 178, where about 300 are "
        "needed, 3 / (1 - decay); 17% of it are still the weights it began with."
    )


@pytest.mark.parametrize(("epochs", "told"), [(3, True), (4, False)])  # 267 and 356 steps, 300 are needed
def test_three_times_the_memory_is_enough(metrics: Path, epochs: int, told: bool) -> None:
    assert bool(notes(metrics, 0.99, epochs)) is told


@pytest.mark.parametrize(("decay", "epochs", "told"), [(0.0, 1, 0), (1.0, 20, 1), (0.999, 0, 0)])
def test_the_smallest_and_the_largest_decay_and_a_stage_that_trained_nothing(
    metrics: Path, decay: float, epochs: int, told: int
) -> None:
    found = notes(metrics, decay, epochs)
    assert len(found) == told and all("never moves" in note for note in found)


def test_averages_beside_a_student_and_of_fine_tuning_are_judged_too(metrics: Path) -> None:
    raw = make_params(semisup__method="fixmatch", semisup__average=0.9999).model_dump(mode="json")
    raw["finetune"] |= {"ema_decay": 0.999, "batch_size": 32}
    run = load_results(parse_params(raw), metrics)
    first, second = short_averages(run)
    assert "the average of fine-tuning (finetune.ema_decay 0.999): 1,600, where about 3,000" in first  # 16 x 100 steps
    assert second.startswith("Too few steps for the decay of FixMatch's average (semisup.average 0.9999): ")
    assert [f.text for f in conclusions.find(run) if f.text.startswith("Too few steps")] == [first, second]


def test_extra_faces_lengthen_an_epoch(metrics: Path) -> None:
    edit(metrics / "semisup.json", lambda content: content.update(extra={"faces": 603}))
    assert ": 100, where" in notes(metrics, 0.99, 1)[0]  # 6,000 faces in batches of 60


class Faces(list[int]):
    """Stands for a data set, of which only the length counts."""

    def vote_shares(self) -> None:
        return None


@pytest.mark.parametrize(("labeled", "unlabeled"), [(546, 5405), (7, 20)])
def test_steps_are_those_of_the_stages(labeled: int, unlabeled: int) -> None:
    params = make_params()
    p, method = params.semisup, METHODS[params.semisup.method]
    streams = build_streams(method, *(cast(Any, Faces(range(n))) for n in (labeled, unlabeled)), params)
    assert streams[0].steps_per_epoch * 3 == semisup_steps(unlabeled, p.batch_size * p.uratio, 3)
    epochs, batch = epochs_and_batch(params.finetune, labeled)
    assert labeled // batch * epochs == finetune_steps(labeled, params.finetune.batch_size, epochs)
