"""Sentences through CLIP's text tower, by the optional package open_clip and weights that lie in a file.

Nothing is ever downloaded. What was computed once is kept in .scratch under the weights' hash and the sentences, so
that a cluster needs neither the package nor the weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.errors import SsferError, unknown_name
from ssfer.runtime import project_root, scratch_dir, sha256_file, sha256_json
from ssfer.torch_file import read_torch_file
from ssfer.training_params import SitferTextParams
from ssfer.vit_file import read_safetensors
from ssfer.weights import load_weights, save_weights

KIND = "clip_text"
_WHERE = "semisup.sitfer.text"


def clip_embeddings(sentences: Sequence[str], params: SitferTextParams) -> Tensor:
    """Return embeddings of length one (N, D_t), from the cache or computed and put there.

    Raises:
        SsferError: nothing in the cache, and the package or the weights are absent, or they are others than asked for.
    """
    assert params.clip_weights is not None and params.clip_sha256 is not None
    asked = {"model": params.clip_model, "sha256": params.clip_sha256, "sentences": list(sentences)}
    path = scratch_dir(KIND, sha256_json(asked)[:16]) / "embeddings.safetensors"
    if path.exists():
        return load_weights(path, KIND)[0]["embeddings"]
    embeddings = _compute(sentences, params.clip_model, project_root() / params.clip_weights, params.clip_sha256)
    save_weights(path, {"embeddings": embeddings}, {"kind": KIND, **asked})
    return embeddings


def _compute(sentences: Sequence[str], name: str, weights: Path, sha256: str) -> Tensor:
    if not weights.is_file():
        raise SsferError(
            f"{_WHERE}.clip_weights: no file at {weights}; put CLIP weights there (nothing is downloaded), or set "
            "encoder to learned"
        )
    if importlib.util.find_spec("open_clip") is None:
        raise SsferError(
            f"{_WHERE}.encoder open_clip needs the package open_clip: pip install open_clip_torch, or set encoder to "
            "learned"
        )
    found = sha256_file(weights)
    if not found.startswith(sha256):
        raise SsferError(f"{_WHERE}.clip_weights: {weights} has sha256 {found}, expected {sha256}")
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_name("CLIP model", name, open_clip.list_models())
    model = open_clip.create_model(name, pretrained=None, device="cpu").eval()
    _load(model, _state(weights), f"{weights}, as {name}")
    with torch.no_grad():
        return F.normalize(model.encode_text(open_clip.get_tokenizer(name)(list(sentences))).float(), dim=1)


def _state(path: Path) -> dict[str, Tensor]:
    state: Any = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch_file(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SsferError(f"{_WHERE}.clip_weights: {path} holds no state dict of CLIP")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _load(model: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load the text tower and leave the image tower, which nobody needs, as it is."""
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith("visual.")}
    buffers = {name for name, _ in model.named_buffers()}  # the causal mask, which not every file has
    wrong = [n for n, v in wanted.items() if n not in buffers and (n not in state or state[n].shape != v.shape)]
    if wrong:
        raise SsferError(f"{_WHERE}.clip_weights: {where}: missing or of another shape: {', '.join(wrong[:3])}")
    model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
