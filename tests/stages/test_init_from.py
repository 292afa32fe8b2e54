"""pretrain.init_from: pretraining that starts from weights, or takes them over, or refuses them before it writes."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file, write_json
from ssfer.core.rng import derive
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models.import_report import run_import
from ssfer.models.vit import build_classifier, build_mae, encoder_state
from tests.support import factory

STILL: Any = {"epochs": 1, "warmup_epochs": 0, "lr": 1e-12}  # training that changes nothing to speak of
HEADS: Any = {"num_heads": 2, "decoder_num_heads": 2}
START = "data/weights/imported/start.safetensors"
Capture = pytest.CaptureFixture[str]


def write_params(root: Path, **sections: dict[str, object]) -> Params:
    params = factory.tiny_params(**sections)
    write_json(root / "params.yaml", params.model_dump(mode="json"))
    return params


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data of a small project on which no stage has run."""
    root = tmp_path_factory.mktemp("a") / "project"
    root.mkdir()
    factory.write_project(root)
    yield root


@pytest.fixture
def root(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, also the working directory, with a whole MAE of another seed to start from."""
    shutil.copytree(empty, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    params = write_params(tmp_path / "project")
    torch.manual_seed(5)
    model = build_mae(params.model, params.pretrain)
    torch.save({"model": model.state_dict(), "epoch": 599}, "mae_visualize.pth")
    run_import(Path("mae_visualize.pth"), Path(START), **HEADS)
    return tmp_path / "project"


def start_from(root: Path, path: str = START, *, model: dict[str, Any] | None = None, **pretrain: Any) -> Params:
    """Write params.yaml with init_from and the file's sha256."""
    given = {"init_from": path, "init_sha256": sha256_file(root / path), **pretrain}
    return write_params(root, pretrain=given, model=model or {})


def run(stage: str) -> None:
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def result(name: str = "mae") -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_weights(Path(f"data/weights/pretrain/{name}.safetensors"), name)


def initial(params: Params) -> dict[str, Tensor]:
    """The state in which the stage's network begins without init_from."""
    torch.manual_seed(derive(params.pretrain.seed, "init"))
    return build_mae(params.model, params.pretrain).state_dict()


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_training_starts_from_encoder_and_decoder_of_the_file(root: Path, capsys: Capture) -> None:
    params, before = start_from(root, **STILL), load_weights(root / START)[0]
    assert not close(initial(params), before)
    run("pretrain")
    state, meta = result()
    assert close(state, before)
    assert meta["init"] == {"kind": "mae", "sha256": sha256_file(root / START)}
    assert meta["decoder"] == {"embed_dim": 16, "depth": 1, "num_heads": 2}
    assert result("encoder")[1]["init"] == meta["init"]
    err = capsys.readouterr().err
    assert f"pretrain: starts from {START} (mae, sha256 {sha256_file(root / START)[:12]}): encoder and decoder\n" in err


def test_training_without_a_file_starts_where_it_always_did(root: Path) -> None:
    params = write_params(root, pretrain=STILL)
    run("pretrain")
    state, meta = result()
    assert close(state, initial(params)) and "init" not in meta


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_files_without_decoder_leave_it_at_its_initialization_and_say_so(
    kind: str, root: Path, capsys: Capture
) -> None:
    if kind == "encoder":
        run_import(Path("mae_visualize.pth"), Path("e.safetensors"), kind="encoder", num_heads=2)
    else:
        torch.save(build_classifier(factory.tiny_params().model, 7).state_dict(), "rafdb.pth")
        more: Any = {"num_heads": 2, "classes": "rafdb", "pixels": "ssfer"}
        run_import(Path("rafdb.pth"), Path("e.safetensors"), **more)
    params, before = start_from(root, "e.safetensors", **STILL), load_weights(root / "e.safetensors", kind)[0]
    run("pretrain")
    assert "it has no decoder, which starts at its initialization" in capsys.readouterr().err
    state = result()[0]
    assert close(encoder_state(state), {k: v for k, v in before.items() if not k.startswith("head.")})
    decoder = {k: v for k, v in initial(params).items() if k not in encoder_state(state)}
    assert len(decoder) == 20 and close({k: state[k] for k in decoder}, decoder)


def test_other_pixel_statistics_are_mentioned(root: Path, capsys: Capture) -> None:
    run_import(Path("mae_visualize.pth"), Path("o.safetensors"), **HEADS, pixels="imagenet")
    start_from(root, "o.safetensors", **STILL)
    run("pretrain")
    assert "its pixels had the mean [0.485, 0.456, 0.406], model.mean is [0.588, " in capsys.readouterr().err


def test_no_epochs_take_the_weights_over_bit_for_bit(root: Path) -> None:
    start_from(root, epochs=0)
    run("pretrain")
    before, origin = load_weights(root / START)
    assert origin["kind"] == "mae" and result()[0].keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in result()[0].items())
    encoder, meta = result("encoder")
    assert all(torch.equal(value, before[name]) for name, value in encoder.items()) and len(encoder) == 18
    assert meta["data_fingerprint"] is None and meta["mean"] is None, "these weights never saw the corpus"
    assert Path("data/weights/pretrain/reconstruction.png").stat().st_size > 100
    metrics = read_metrics("pretrain")
    assert (metrics["loss"], metrics["epochs"], metrics["images"]) == (None, 0, 0)
    assert Path("metrics/curves/pretrain.csv").read_text() == "epoch,loss,lr,grad_norm\n"
    assert not [path for path in Path(".scratch").rglob("*") if path.suffix != ".lock"]
    for stage in ("finetune", "semisup", "evaluate"):
        run(stage)
    tested = read_metrics("evaluate")
    assert tested["test_images"] == 12


def test_an_encoder_taken_over_comes_without_a_decoder_made_up(root: Path) -> None:
    run_import(Path("mae_visualize.pth"), Path("e.safetensors"), kind="encoder", num_heads=2)
    start_from(root, "e.safetensors", epochs=0)
    run("pretrain")
    assert [p.name for p in Path("data/weights/pretrain").iterdir()] == ["encoder.safetensors"]


def test_another_file_is_another_run(root: Path) -> None:
    """Half-done work of one start is never continued from another."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        params = factory.tiny_params()
        torch.save(build_mae(params.model, params.pretrain).state_dict(), f"{seed}.pth")
        run_import(Path(f"{seed}.pth"), Path(f"{seed}.safetensors"), **HEADS)
        shutil.copy(f"{seed}.safetensors", START)
        start_from(root, **STILL)
        run("pretrain")
    assert len(list(Path(".scratch/pretrain").iterdir())) == 2


# --- refusals ---


def fails(capsys: Capture, words: str) -> None:
    """The stage refuses in one sentence and has written nothing."""
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and p.suffix != ".lock"}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("pretrain")
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(err.strip().splitlines()) == 1 and words in err, err
    assert before == {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_weights_of_another_architecture_are_refused_and_both_are_named(root: Path, capsys: Capture) -> None:
    start_from(root, model={"depth": 2})
    sizes = "img_size 16, patch_size 4, embed_dim 16, depth {}, num_heads 2"
    fails(capsys, f"section 'model' expects {sizes.format(2)}; found {sizes.format(1)}\n")
    start_from(root, model={"img_size": 32})
    fails(capsys, f"num_heads 2; `ssfer weights import {START} --resize-to 32` fits it")
    run_import(Path(START), Path("r.safetensors"), resize_to=32)
    start_from(root, "r.safetensors", model={"img_size": 32}, **STILL)
    run("pretrain")


def test_another_decoder_is_refused(root: Path, capsys: Capture) -> None:
    start_from(root, decoder_num_heads=4)
    fails(capsys, "expects embed_dim 16, depth 1, num_heads 4; found embed_dim 16, depth 1, num_heads 2")


def test_tensors_that_contradict_their_metadata_are_refused(root: Path, capsys: Capture) -> None:
    state, meta = load_weights(root / START)
    save_weights(root / "a.safetensors", {k: v for k, v in state.items() if k != "norm.bias"}, meta)
    start_from(root, "a.safetensors")
    fails(capsys, "expected 38 tensors, found 37, 1 missing (norm.bias), 0 unexpected (none)")
    save_weights(root / "c.safetensors", state, {**meta, "kind": "retinaface"})
    start_from(root, "c.safetensors")
    fails(capsys, "holds weights of kind 'retinaface', expected mae, encoder, classifier")


def test_missing_other_and_damaged_files_are_refused(root: Path, capsys: Capture) -> None:
    start_from(root)
    data = Path(START).read_bytes()
    Path(START).write_bytes(data[:-1])
    fails(capsys, "has sha256")
    start_from(root)
    fails(capsys, "is not a readable safetensors file")
    Path(START).unlink()
    fails(capsys, f"no file at {START}; `ssfer weights import` writes one")
    start_from(root, "mae_visualize.pth")
    fails(capsys, "is not a readable safetensors file")


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semisup"])
def test_files_that_the_pipeline_deletes_are_refused(stage: str, root: Path, capsys: Capture) -> None:
    path = root / f"data/weights/{stage}/mae.safetensors"
    path.parent.mkdir()
    shutil.copy(START, path)
    start_from(root, f"data/weights/imported/../{stage}/mae.safetensors")
    fails(capsys, "which the pipeline deletes and writes anew; copy the file to data/weights/imported")


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"epochs": 0}, "epochs: 0 takes weights over as they are, so it needs init_from"),
        ({"init_from": "x"}, "init_from and init_sha256 are given together"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pretrain: dict[str, object], message: str) -> None:
    raw = factory.tiny_params().model_dump(mode="json")
    raw["pretrain"] |= pretrain
    with pytest.raises(SsferError, match=message):
        parse_params(raw)
