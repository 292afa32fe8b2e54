"""ssfer.formats.weights: round trip with metadata; everything else is refused with one sentence and never executed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssfer.core.errors import SsferError
from ssfer.formats.weights import load_weights, save_weights

META = {"kind": "mae", "arch": {"depth": 2}, "mean": [0.588, 0.459, 0.402], "classes": ["anger", "fear"]}


def state() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=g)
    return {"weight": weight, "sliced": weight[:, ::2].clone()[:, 1:], "count": torch.tensor(3), "empty": torch.ones(0)}


def test_tensors_and_metadata_survive_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "w.safetensors"
    save_weights(path, state(), META)
    loaded, meta = load_weights(path, "mae")
    assert meta == META | {"format": 1}
    assert loaded.keys() == state().keys()
    for name, tensor in state().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_parameters_are_stored_without_their_graph(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    save_weights(tmp_path / "w.safetensors", dict(layer.named_parameters()), META)
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded["weight"], layer.weight.detach())
    assert not loaded["weight"].requires_grad
    assert layer.weight.requires_grad


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name, meta in (("a", META), ("b", dict(reversed(META.items())))):
        save_weights(tmp_path / name, state(), meta)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="no weights at .*; run the stage that writes them"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", state(), META)
    with pytest.raises(SsferError, match="holds weights of kind 'mae', expected 'classifier'"):
        load_weights(tmp_path / "w.safetensors", "classifier")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, *({"ssfer": t} for t in ("null", "[1]", "1", '"x"', "{}", '{"format": 2}'))]
)
def test_files_of_others_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(state() | {"sliced": torch.ones(2)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(SsferError, match="has no ssfer metadata of format 1"):
        load_weights(tmp_path / "w.safetensors")


def test_damaged_files_are_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, state(), META)
    data = path.read_bytes()
    for length in (*range(0, len(data), 23), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(SsferError, match="is not a readable safetensors file .*; restore it with dvc checkout"):
            load_weights(path)
    save_file({"weight": torch.ones(2)}, path, metadata={"ssfer": "{"})
    for wrong in (path, tmp_path):  # no JSON, a folder
        with pytest.raises(SsferError, match="is not a readable safetensors file"):
            load_weights(wrong)


def test_a_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, state(), META)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, state(), META | {"arch": object()})
    assert path.read_bytes() == before


def test_any_flipped_byte_is_a_sentence(tmp_path: Path) -> None:
    """Tensors and metadata have a checksum; the rest of the header says where they lie."""
    path = tmp_path / "w.safetensors"
    save_weights(path, state(), META)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            loaded, meta = load_weights(path)
        except SsferError:
            continue
        same = all(torch.equal(loaded[name], value) for name, value in state().items())
        # Spaces that pad the header, and the name of the checksum: without one the file is of an older version.
        assert same and all(meta[key] == value for key, value in META.items()), f"byte {place} is used in silence"


def test_weights_of_older_versions_have_no_checksum(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors", metadata={"ssfer": '{"format": 1, "kind": "mae"}'})
    assert load_weights(tmp_path / "w.safetensors", "mae")[1] == {"format": 1, "kind": "mae"}
