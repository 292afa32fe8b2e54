"""The training stages as a user runs them: files, keys, determinism, and a real kill -9."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights
from ssfer.stages.finetune import epochs_and_batch
from tests.support import factory
from tests.support.launches import Launch, run_stage, run_stage_until, steps_saved
from tests.support.stage_runs import change, make_project, run_here, tensors

Check = Callable[[str, str], None]
STAGES = ("pretrain", "finetune", "semisup", "evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project on which all training stages have run."""
    root = tmp_path_factory.mktemp("a") / "project"
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            run_here(root, stage, patch)
    yield root


def test_stages_write_what_the_pipeline_declares(finished: Path) -> None:
    metrics = {s: read_metrics(s, finished / "metrics") for s in STAGES}
    assert set(metrics["finetune"]) == {"scratch", "plain", "facemix"}
    assert set(metrics["evaluate"]["models"]) == {"scratch", "plain", "facemix", "student", "teacher"}
    assert metrics["evaluate"]["headline"] == metrics["evaluate"]["models"]["teacher"]["last"]
    assert metrics["evaluate"]["test_images"] == 12
    assert metrics["pretrain"]["images"] == 40
    for name in ("pretrain", "finetune", "finetune_baselines", "semisup", "pseudo_labels"):
        assert (finished / f"metrics/curves/{name}.csv").stat().st_size > 20
    assert len((finished / "metrics/confusion.csv").read_text().splitlines()) == 13


def test_scratch_folder_is_emptied_when_a_stage_is_done(finished: Path) -> None:
    assert not list((finished / ".scratch").rglob("*.pt"))


def test_baseline_from_scratch_starts_without_the_encoder(finished: Path) -> None:
    encoder = load_weights(finished / "data/weights/pretrain/encoder.safetensors")[0]["blocks.0.attn.qkv.weight"]
    plain = load_weights(finished / "data/weights/finetune/plain_last.safetensors")[0]["blocks.0.attn.qkv.weight"]
    scratch = load_weights(finished / "data/weights/finetune/scratch_last.safetensors")[0]["blocks.0.attn.qkv.weight"]
    assert (plain - encoder).norm() < 0.2 * encoder.norm() < (scratch - encoder).norm()


def test_weights_know_how_to_use_them(finished: Path) -> None:
    _, meta = load_weights(finished / "data/weights/semisup/teacher_last.safetensors", "classifier")
    assert meta["classes"] == list(factory.CLASSES)
    assert meta["arch"]["img_size"] == 16
    assert meta["channels"] == "RGB"
    assert meta["crop_recipe"] == "pattern-24"
    assert len(meta["data_fingerprint"]) == 64


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semisup"])
def test_kill_minus_9_then_rerun_gives_the_same_weights_bit_for_bit(
    stage: str, finished: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copy, "machine", "checkpoint_minutes", 1e-9)
    shutil.rmtree(copy / "data/weights" / stage)
    assert Launch(copy, run_stage_until, stage, 5).wait() == [-signal.SIGKILL]
    assert not (copy / "data/weights" / stage).exists()  # no half output under the final name
    assert steps_saved(copy, stage) == 5

    run_here(copy, stage, monkeypatch)
    assert "continues at" in capsys.readouterr().err
    whole, killed = (tensors(root / "data/weights" / stage) for root in (finished, copy))
    assert whole.keys() == killed.keys() and all(torch.equal(whole[k], killed[k]) for k in whole)
    metrics = f"metrics/{stage}.json"
    assert (finished / metrics).read_bytes() == (copy / metrics).read_bytes()


@pytest.fixture
def fails(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], None]:
    """Return a check: the stage refuses in one sentence, exits non-zero, and leaves all earlier weights alone."""

    def check(stage: str, words: str) -> None:
        before = {p: p.read_bytes() for p in (copy / "data/weights").rglob("*.safetensors")}
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_here(copy, stage, monkeypatch)
        err = capsys.readouterr().err
        assert stop.value.code == 2
        assert len(err.strip().splitlines()) == 1 and words in err
        assert before == {p: p.read_bytes() for p in (copy / "data/weights").rglob("*.safetensors")}

    return check


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_misspelled_key_is_refused_by_the_stage(copy: Path, fails: Check) -> None:
    change(copy, "semisup", "epocs", 3)
    fails("semisup", "unknown key 'semisup.epocs'; did you mean 'epochs'?")


def test_checkpoint_of_another_architecture_is_refused(copy: Path, fails: Check) -> None:
    change(copy, "model", "depth", 2)
    fails("finetune", "the checkpoint is of another architecture")
    fails("semisup", "was trained with another architecture")


def test_missing_and_damaged_inputs_are_refused(copy: Path, fails: Check) -> None:
    encoder = copy / "data/weights/pretrain/encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:100])
    fails("finetune", "is not a readable safetensors file")
    encoder.unlink()
    fails("finetune", "no weights at")
    shard = copy / "data/faces/exam/shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    fails("evaluate", "cut short")


def test_edited_split_is_refused(copy: Path, fails: Check) -> None:
    path = copy / "data/splits/split.json"
    path.write_text(path.read_text().replace("train000001", "train000040", 1))
    fails("finetune", "does not match its own hash")


def test_second_process_with_the_same_settings_is_refused(copy: Path, fails: Check) -> None:
    change(copy, "pretrain", "epochs", 2000)
    change(copy, "machine", "checkpoint_minutes", 1e-9)
    first = Launch(copy, run_stage, "pretrain")
    try:
        first.wait_for_step("pretrain", 1)
        fails("pretrain", "another process is running stage pretrain")
    finally:
        first.kill()


@pytest.mark.parametrize(("labeled", "expected"), [(499, (7, 32)), (500, (3, 32)), (31, (7, 30)), (2, (7, 2))])
def test_few_labels_train_longer_in_smaller_even_batches(labeled: int, expected: tuple[int, int]) -> None:
    p = factory.tiny_params(finetune={"epochs": 3, "epochs_few_labels": 7, "few_labels": 500, "batch_size": 32})
    assert epochs_and_batch(p.finetune, labeled) == expected


def test_a_single_label_is_refused() -> None:
    with pytest.raises(SsferError, match="needs at least 2 labeled ones, found 1"):
        epochs_and_batch(factory.tiny_params().finetune, 1)
