"""Checkpoints of others: read without running their code, checked name by name, equal in what they compute."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssfer.cli.main import app
from ssfer.core.errors import SsferError
from ssfer.core.labels import class_set
from ssfer.formats import untrusted
from ssfer.formats.checkpoints import read_checkpoint
from ssfer.formats.untrusted import read_torch_file
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models.classifier import metadata
from ssfer.models.convert import convert, write_imported
from ssfer.models.import_report import class_names, grouped, run_import
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.vit import build_classifier, encoder_state
from tests.support import factory

HEADS: Any = {"num_heads": 4, "decoder_num_heads": 2}
ARCH = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4}
DECODER = {"embed_dim": 12, "depth": 1, "num_heads": 2}
Capture = pytest.CaptureFixture[str]


def mae(seed: int = 0, img_size: int = 16) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    model = MaskedAutoencoder(img_size, 4, 16, 2, 4, 12, 1, 2)
    with torch.no_grad():  # as after training: no bias is zero, no norm is one
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape))
            assert value.abs().sum() > 0, name
    return model


def classifier(classes: int = 7, seed: int = 0, **more: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=4, num_classes=classes, **more)


def official(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the MAE release's training script saves."""
    args = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3, output_dir="out", gpu=None, distributed=True)
    moments = {i: {"step": 3, "exp_avg": torch.zeros_like(v)} for i, v in enumerate(state.values())}
    return {
        "model": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "epoch": 799,
        "scaler": {"scale": 65536.0},
        "args": args,
    }


def saved(path: Path, value: Any, **how: Any) -> Path:
    torch.save(value, path, **how)
    return path


# --- published layouts ---


def test_official_checkpoint_with_decoder_computes_the_same_after_import(tmp_path: Path) -> None:
    model = mae()
    file = saved(tmp_path / "mae_visualize_vit_base.pth", official(model.state_dict()))
    source = read_checkpoint(file)
    assert (source.entry, source.prefix) == ("model", "")
    assert source.beside == ("optimizer", "epoch", "scaler", "args")
    weights = convert(source, **HEADS)
    assert (weights.kind, weights.arch, weights.decoder) == ("mae", ARCH, DECODER)
    assert (weights.dropped, weights.missing, weights.resized, weights.positions) == ({}, {}, None, "sin-cos")
    write_imported(tmp_path / "own.safetensors", weights, source, pixels="imagenet")
    state, meta = load_weights(tmp_path / "own.safetensors", "mae")
    assert meta["mean"] == [0.485, 0.456, 0.406] and meta["decoder"] == DECODER and meta["arch"] == ARCH
    assert meta["imported"] == {"file": file.name, "sha256": source.sha256, "entry": "model"}
    again = mae(seed=1)
    x, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    assert not torch.allclose(again(x, 0.75, noise).pred, model(x, 0.75, noise).pred)
    again.load_state_dict(state, strict=True)
    assert torch.equal(again(x, 0.75, noise).pred, model(x, 0.75, noise).pred)


@pytest.mark.parametrize("form", ["official", "plain", "module", "legacy", "safetensors"])
def test_encoder_only_checkpoints_of_every_form_give_the_same_tensors(form: str, tmp_path: Path) -> None:
    state = encoder_state(mae().state_dict())
    path = tmp_path / "mae_pretrain_vit_base.pth"
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(state, path, metadata={"format": "pt"})
    else:
        value: Any = {"official": official(state), "module": {f"module.{k}": v for k, v in state.items()}}.get(form)
        saved(path, value or state, _use_new_zipfile_serialization=form != "legacy")
    weights = convert(read_checkpoint(path), num_heads=4)
    assert (weights.kind, weights.arch, weights.decoder) == ("encoder", ARCH, None)
    assert weights.state.keys() == state.keys()
    assert all(torch.equal(weights.state[name], value) for name, value in state.items())


def test_training_state_with_numpy_and_python_random_numbers_is_readable(tmp_path: Path) -> None:
    rng = {"numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()}
    value = {**official(mae().state_dict()), "rng": rng, "best": np.float64(0.5), "out": Path("x"), "curve": np.ones(3)}
    for zipped in (True, False):
        file = saved(tmp_path / "checkpoint-599.pth", value, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(file).state.keys() == mae().state_dict().keys()
        stand_in = read_torch_file(file)["args"]
        assert type(stand_in) is untrusted.Ignored and not vars(stand_in)


def test_encoder_can_be_taken_out_of_a_whole_mae(tmp_path: Path) -> None:
    model = mae()
    weights = convert(read_checkpoint(saved(tmp_path / "m.pth", official(model.state_dict()))), "encoder", num_heads=4)
    assert weights.state.keys() == encoder_state(model.state_dict()).keys()
    assert weights.dropped.keys() == model.state_dict().keys() - weights.state.keys()
    assert set(weights.dropped.values()) == {"part of the decoder, which an encoder has not"}


@pytest.mark.parametrize("wrap", ["", "model", "state_dict"])
def test_fine_tuned_checkpoint_gives_the_same_logits(wrap: str, tmp_path: Path) -> None:
    """As SSFER's authors publish theirs: timm's ViT with a head."""
    model = classifier().eval()
    state = {f"module.{k}": v for k, v in model.state_dict().items()} if wrap else model.state_dict()
    source = read_checkpoint(saved(tmp_path / "rafdb.pth", {wrap: state} if wrap else state))
    weights = convert(source, num_heads=4)
    write_imported(tmp_path / "own.safetensors", weights, source, classes=class_names("rafdb"), pixels="ssfer")
    loaded, meta = load_weights(tmp_path / "own.safetensors", "classifier")
    assert meta["classes"] == list(class_set("rafdb")) and meta["mean"] == [0.588, 0.459, 0.402]
    again = classifier(seed=1).eval()
    again.load_state_dict(loaded, strict=True)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), model(x))


def test_official_fine_tuned_checkpoint_is_an_encoder_only_when_asked(tmp_path: Path) -> None:
    model = classifier(global_pool="avg", fc_norm=True)
    assert "norm.weight" not in model.state_dict() and "fc_norm.weight" in model.state_dict()
    source = read_checkpoint(saved(tmp_path / "mae_finetuned_vit_base.pth", official(model.state_dict())))
    with pytest.raises(SsferError, match=r"2 missing \(norm.bias, norm.weight\), 2 unexpected \(fc_norm.*--kind enc"):
        convert(source, num_heads=4)
    weights = convert(source, "encoder", num_heads=4)
    assert set(weights.dropped) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(weights.missing) == {"norm.weight", "norm.bias"}
    assert (weights.state["norm.weight"] == 1).all() and (weights.state["norm.bias"] == 0).all()


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in encoder_state(mae().state_dict()).items()}
    weights = convert(read_checkpoint(saved(tmp_path / "m.pth", state)), num_heads=4)
    assert {v.dtype for v in weights.state.values()} == {torch.float32}
    assert torch.equal(weights.state["cls_token"], state["cls_token"].float())


def test_published_widths_know_their_number_of_heads(tmp_path: Path) -> None:
    model = MaskedAutoencoder(16, 8, 768, 1, 12, 512, 1, 16)
    weights = convert(read_checkpoint(saved(tmp_path / "m.pth", model.state_dict())))
    assert weights.arch["num_heads"] == 12 and weights.decoder == {"embed_dim": 512, "depth": 1, "num_heads": 16}


def test_one_of_several_state_dicts_is_chosen_by_name(tmp_path: Path) -> None:
    value: dict[str, Any] = {
        "model": classifier(seed=1).state_dict(),
        "ema_model": classifier(seed=2).state_dict(),
        "it": 3,
    }
    file = saved(tmp_path / "latest_model.pth", value)
    with pytest.raises(SsferError, match="holds several state dicts, choose one with --entry: model, ema_model"):
        read_checkpoint(file)
    with pytest.raises(SsferError, match="no entry 'teacher' with a ViT's tensors, found model, ema_model"):
        read_checkpoint(file, "teacher")
    source = read_checkpoint(file, "ema_model")
    assert torch.equal(source.state["cls_token"], value["ema_model"]["cls_token"])
    assert source.beside == ("model", "it")


# --- positions ---


def cubic(old: int, new: int) -> np.ndarray:
    """Return (new, old) weights of cubic convolution with a = -0.75, edges repeated, as MAE resizes its positions."""

    def weight(x: float) -> float:
        x, a = abs(x), -0.75
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        return near if x <= 1 else far if x < 2 else 0.0

    weights = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            weights[i, min(max(j, 0), old - 1)] += weight(at - j)
    return weights


def test_positions_are_resized_only_when_asked_and_bicubically(tmp_path: Path) -> None:
    model = mae()
    with torch.no_grad():
        model.pos_embed.add_(0.1 * torch.randn(model.pos_embed.shape))  # a learned table
    source = read_checkpoint(saved(tmp_path / "m.pth", model.state_dict()))
    same = convert(source, **HEADS, resize_to=16)
    assert same.resized is None and torch.equal(same.state["pos_embed"], model.pos_embed)
    assert same.positions == "learned"
    weights = convert(source, **HEADS, resize_to=32)
    assert (weights.resized, weights.arch) == (16, {**ARCH, "img_size": 32})
    for name, dim in (("pos_embed", 16), ("decoder_pos_embed", 12)):
        old, new = model.state_dict()[name], weights.state[name]
        assert new.shape == (1, 1 + 64, dim)
        assert torch.equal(new[:, 0], old[:, 0])
        for channel in range(dim):
            picture = old[0, 1:, channel].reshape(4, 4).double().numpy()
            expected = torch.from_numpy(cubic(4, 8) @ picture @ cubic(4, 8).T).float()
            torch.testing.assert_close(new[0, 1:, channel].reshape(8, 8), expected, atol=1e-5, rtol=1e-5)
    mae(img_size=32).load_state_dict(weights.state, strict=True)


def test_own_weights_can_be_resized_and_keep_what_they_know(tmp_path: Path) -> None:
    meta = {"kind": "encoder", "arch": ARCH, "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "crop_recipe": "r"}
    save_weights(tmp_path / "e.safetensors", encoder_state(mae().state_dict()), meta)
    run_import(tmp_path / "e.safetensors", tmp_path / "o.safetensors", resize_to=32)
    state, found = load_weights(tmp_path / "o.safetensors", "encoder")
    assert state["pos_embed"].shape == (1, 65, 16)
    assert (found["arch"], found["mean"], found["crop_recipe"]) == ({**ARCH, "img_size": 32}, [0.1, 0.2, 0.3], "r")
    assert found["imported"]["resized_from"] == 16


def test_image_sizes_of_broken_patches_are_refused(tmp_path: Path) -> None:
    source = read_checkpoint(saved(tmp_path / "m.pth", mae().state_dict()))
    with pytest.raises(SsferError, match="expected an image size of whole 4 px patches: 30"):
        convert(source, **HEADS, resize_to=30)


# --- refusals ---


class Harmful:
    """Pickles to a call that creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_never_runs(zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    value = {**official(mae().state_dict()), "hook": Harmful(trap)}
    file = saved(tmp_path / "m.pth", value, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SsferError, match=r"m.pth is refused: .*tensors and plain values only.*mkdir") as refusal:
        read_checkpoint(file)
    assert "weights_only" not in str(refusal.value) and "\n" not in str(refusal.value)  # torch's advice
    assert not trap.exists()


def test_code_is_not_run_behind_a_harmless_name_either(tmp_path: Path) -> None:
    """Stand-ins take any arguments, and nothing of what a file gives them is called."""
    trap = tmp_path / "trap"
    saved(tmp_path / "m.pth", {"args": argparse.Namespace(hook=Harmful(trap))})
    with pytest.raises(SsferError, match="is refused"):
        read_torch_file(tmp_path / "m.pth")
    assert not trap.exists()


def test_whole_modules_are_refused_by_name(tmp_path: Path) -> None:
    file = saved(tmp_path / "m.pth", {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(SsferError, match=r"but it names torch.nn.modules.linear.Linear$"):
        read_checkpoint(file)


def test_stand_ins_are_known_only_while_a_file_is_read(tmp_path: Path) -> None:
    file = saved(tmp_path / "m.pth", official(mae().state_dict()))
    read_checkpoint(file)
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace"):
        torch.load(file, weights_only=True)


STATE = encoder_state(mae().state_dict())
QKV = "blocks.0.attn.qkv.weight"
BAD: dict[str, tuple[Any, str]] = {
    "unexpected": (
        {**STATE, "dist_token": torch.ones(1, 1, 16)},
        r"expected 30 tensors, found 31, 0 missing \(none\), 1 unexpected \(dist_token\)$",
    ),
    "missing": (
        {k: v for k, v in STATE.items() if k != QKV},
        r"expected 30 tensors, found 29, 1 missing \(blocks.0.attn.qkv.weight\), 0 unexp",
    ),
    "missing block": (
        {k.replace("blocks.1.", "blocks.5."): v for k, v in STATE.items()},
        "12 missing .*, 12 unexpected .*blocks.5.attn",
    ),
    "shape": ({**STATE, QKV: torch.ones(40, 16)}, r"expected blocks.0.attn.qkv.weight of shape \(48, 16\), found \(40"),
    "no blocks": ({k: v for k, v in STATE.items() if "blocks" not in k}, "expected blocks.0, .* found no block"),
    "no patches": ({k: v for k, v in STATE.items() if "patch" not in k}, "expected a tensor patch_embed.proj.weight"),
    "no class position": ({**STATE, "pos_embed": torch.ones(1, 16, 16)}, "a square of patches and a class token, fou"),
    "flat class token": ({**STATE, "cls_token": torch.ones(16)}, r"expected cls_token with 3 dimensions, found \(16,"),
    "not finite": ({**STATE, QKV: torch.full((48, 16), torch.nan)}, f"'{QKV}' holds values that are not finite"),
    "integers": ({**STATE, QKV: torch.ones(48, 16).int()}, f"floating-point numbers under '{QKV}', found torch.int32"),
    "beside": ({**STATE, "epoch": 3}, "expected names and tensors only, found a int under 'epoch'"),
    "another network": (
        {"conv1.weight": torch.ones(2)},
        "is no ViT: expected a tensor cls_token .*1 others such as c",
    ),
    "empty": ({}, "is no ViT: .*found nothing"),
    "list": ([torch.ones(2)], "expected a checkpoint of a ViT, found a list"),
    "claims": (
        {**STATE, "pos_embed": torch.ones(1, 1, 16).expand(1, 10**12, 16)},
        "its tensors claim more numbers than the file has bytes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_state_dicts_are_refused(case: str, tmp_path: Path) -> None:
    value, message = BAD[case]
    file = saved(tmp_path / "bad.pth", value)
    with pytest.raises(SsferError, match=f"bad.pth.*{message}"):
        run_import(file, tmp_path / "out.safetensors", num_heads=4)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "heads", "message"),
    [
        ("encoder", {}, "is 16 wide, for which no number of attention heads is established; say it with --num-heads"),
        ("encoder", {"num_heads": 3}, "its width 16 must be a multiple of 4 and of the number of heads, found 3"),
        ("mae", {"num_heads": 4}, "is 12 wide, .* say it with --decoder-num-heads"),
        ("classifier", {"num_heads": 4}, "expected a tensor head.weight"),
        ("decoder", {}, "unknown kind of weights 'decoder'"),
    ],
)
def test_what_no_tensor_tells_is_asked_for(kind: str, heads: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = read_checkpoint(saved(tmp_path / "m.pth", mae().state_dict()))
    with pytest.raises(SsferError, match=message):
        convert(source, kind, **heads)


def test_an_encoder_is_no_mae(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="has no decoder: expected the tensors of a whole MAE"):
        convert(read_checkpoint(saved(tmp_path / "m.pth", STATE)), "mae", num_heads=4)


@pytest.mark.parametrize(
    ("classes", "pixels", "message"),
    [
        (None, "ssfer", "its head has 7 classes and no names for them; .* --classes, or .* --kind encoder"),
        ("ferplus", "ssfer", "expected 7 different class names, found 8: neutral, happiness, "),
        ("a,b,c,d,e,f,f", "ssfer", "expected 7 different class names, found 7: a, b"),
        ("rafdb", None, "a classifier needs the statistics .* --pixels imagenet or ssfer"),
        ("rafdb", "imagnet", "unknown pixel statistics 'imagnet'; did you mean 'imagenet'"),
        ("rafbd", "ssfer", "expected one of adience_age, .* or names with commas between, found 'rafbd'"),
    ],
)
def test_classifiers_need_names_and_pixels(
    classes: str | None, pixels: str | None, message: str, tmp_path: Path
) -> None:
    file = saved(tmp_path / "m.pth", classifier().state_dict())
    with pytest.raises(SsferError, match=message):
        run_import(file, tmp_path / "o.safetensors", num_heads=4, classes=classes, pixels=pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_damaged_compressed_and_missing_files_are_sentences(tmp_path: Path) -> None:
    file = saved(tmp_path / "m.pth", STATE)
    data = file.read_bytes()
    at = data.index(STATE[QKV].numpy().tobytes()[:16])
    (tmp_path / "flipped.pth").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(SsferError, match="flipped.pth is damaged: wrong checksum of its part .*/data/"):
        read_checkpoint(tmp_path / "flipped.pth")
    for length in (0, 1, 40, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(SsferError, match="cut.pth is (refused|damaged)"):
            read_checkpoint(tmp_path / "cut.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    with pytest.raises(SsferError, match="unpacks to 1000000 bytes, torch.save never compresses"):
        read_checkpoint(tmp_path / "bomb.pth")
    with pytest.raises(SsferError, match="expected a file of weights at .*absent.pth, found nothing"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(SsferError, match="found a folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(SsferError, match="is not a readable safetensors file"):
        read_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(SsferError, match="expected weights of at most 100"):
        read_checkpoint(file, most=100)


# --- the command ---


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        app(["weights", *map(str, words)], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_import_accounts_for_every_tensor_and_says_what_to_do_next(
    project: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = saved(tmp_path / "mae_visualize.pth", official({f"module.{k}": v for k, v in mae().state_dict().items()}))
    status, out, err = run(capsys, "import", file, "--kind", "encoder", "--num-heads", 4, "--resize-to", 32)
    assert (status, err) == (0, "")
    for line in (
        "  read: entry 'model', names without 'module.'",
        "  not read: optimizer, epoch, scaler, args",
        "kind encoder: img_size 32, patch_size 4, embed_dim 16, depth 2, num_heads 4; positions learned",
        "positions resized from 16 px to 32 px, bicubically",
        "taken: 30 tensors, 8,432 numbers",
        "  blocks.[0-1].attn.qkv.weight 48x16",
        "dropped: 20 tensors, part of the decoder, which an encoder has not",
        "  decoder_blocks.0.attn.qkv.weight 36x12",
        "missing: none",
        "to start pretraining from it: pretrain.init_from: data/weights/imported/mae_visualize.safetensors",
    ):
        assert line in out.splitlines(), line
    load_weights(project / "data/weights/imported/mae_visualize.safetensors", "encoder")
    status, out, err = run(capsys, "import", file, "--kind", "encoder", "--num-heads", 4)
    assert (status, out) == (2, "") and "mae_visualize.safetensors exists already; remove it" in err


def test_show_tells_own_weights_and_those_of_others_apart(tmp_path: Path, capsys: Capture) -> None:
    file = saved(tmp_path / "rafdb.pth", classifier().state_dict())
    own = tmp_path / "own.safetensors"
    command = ("import", file, "--num-heads", 4, "--classes", "rafdb", "--pixels", "ssfer", "--out", own)
    assert run(capsys, *command)[0] == 0
    status, out, _ = run(capsys, "show", own)
    assert status == 0
    assert f"{own}: weights of ssfer, 32 tensors" in out and "  kind: classifier" in out
    assert "'anger', 'disgust'" in out and "img_size 16" in out and "blocks.[0-1].norm1.bias 16" in out
    status, out, err = run(capsys, "show", file)
    assert status == 2 and "head.weight 7x16" in out and err.count("\n") == 1
    assert err.startswith("ssfer weights show: error: cannot be imported as it is: ") and "--num-heads" in err
    status, out, _ = run(capsys, "show", "ferplus-small")
    assert status == 0 and "ferplus-small.safetensors: weights of ssfer" in out
    (tmp_path / "c.onnx").write_bytes(b"any")
    assert "is an ONNX model; ssfer weights show describes weights" in run(capsys, "show", tmp_path / "c.onnx")[2]
    (tmp_path / "c.onnx").unlink()
    wide = saved(tmp_path / "b.pth", encoder_state(MaskedAutoencoder(16, 8, 768, 1, 12, 4, 0, 1).state_dict()))
    status, out, err = run(capsys, "show", wide)
    assert (status, err) == (0, "") and "embed_dim 768, depth 1, num_heads 12; positions sin-cos" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.pth", "own.safetensors", "rafdb.pth"]


def test_grouped_names_show_gaps_and_other_shapes() -> None:
    state = {f"blocks.{i}.w": torch.ones(2 + (i == 3)) for i in (0, 1, 3, 4, 6)} | {"n": torch.tensor(1.0)}
    assert grouped(state, state, "") == ["blocks.0,1,4,6.w 2", "blocks.3.w 3", "n scalar"]


def test_pixels_that_a_file_states_are_not_replaced(tmp_path: Path) -> None:
    """Another mean would shift every input, and nothing would tell."""
    model = factory.tiny_params().model
    state = build_classifier(model, 3).state_dict()
    meta = metadata("classifier", model, "x", "y", classes=list(factory.CLASSES))
    save_weights(tmp_path / "own.safetensors", state, meta)
    with pytest.raises(SsferError, match="own.safetensors states the statistics of its pixels; leave --pixels out"):
        run_import(tmp_path / "own.safetensors", tmp_path / "o.safetensors", pixels="imagenet")
    assert not (tmp_path / "o.safetensors").exists()
