"""Sentences through CLIP's text tower, by the optional package open_clip and weights that lie in a file.

Nothing is ever downloaded here: `ssfer fetch clip` does that, when asked. What was computed once is kept in .scratch
under the weights' hash and the sentences, so that a cluster needs neither the package nor the weights.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import project_root, scratch_dir, sha256_file, sha256_json
from ssfer.formats.checkpoints import read_safetensors
from ssfer.formats.untrusted import read_torch_file
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models.text import TextSettings

KIND = "clip_text"
_WHERE = "methods.sitfer.text"


def clip_embeddings(sentences: Sequence[str], params: TextSettings) -> Tensor:
    """Return embeddings of length one (N, D_t), from the cache or computed and put there; one process computes.

    Raises:
        SsferError: nothing in the cache, and the package or the weights are absent, or they are others than asked for.
    """
    assert params.clip_weights is not None and params.clip_sha256 is not None
    asked = {"model": params.clip_model, "sha256": params.clip_sha256, "sentences": list(sentences)}
    path = scratch_dir(KIND, sha256_json(asked)[:16]) / "embeddings.safetensors"
    with FileLock(path.with_name("lock")):
        if path.exists():
            return load_weights(path, KIND)[0]["embeddings"]
        embeddings = _compute(sentences, params.clip_model, project_root() / params.clip_weights, params.clip_sha256)
        save_weights(path, {"embeddings": embeddings}, {"kind": KIND, **asked})
    return embeddings


def _compute(sentences: Sequence[str], name: str, weights: Path, sha256: str) -> Tensor:
    if not weights.is_file():
        raise SsferError(
            f"{_WHERE}.clip_weights: no file at {weights}; get one with `ssfer fetch clip`, put CLIP weights there, "
            "or set encoder to learned"
        )
    if importlib.util.find_spec("open_clip") is None:
        raise SsferError(
            f"{_WHERE}.encoder open_clip needs the package open_clip_torch (extra 'clip'); install it with make setup, "
            "or set encoder to learned"
        )
    found = sha256_file(weights)
    if not found.startswith(sha256):
        raise SsferError(f"{_WHERE}.clip_weights: {weights} has sha256 {found}, expected {sha256}")
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_name("CLIP model", name, open_clip.list_models())
    # Tokenizers and text towers that are not in the package would be downloaded by it.
    if any(key.startswith("hf_") for key in open_clip.get_model_config(name)["text_cfg"]):
        raise SsferError(
            f"{_WHERE}.clip_model {name} has a tokenizer that is not part of open_clip; expected a model with CLIP's "
            "own, such as ViT-B-32"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _silence():
        ids = _token_ids(open_clip.get_tokenizer(name), sentences)
        model = open_clip.create_model(name, pretrained=None, device="cpu").eval()
        _load(model, _state(weights), f"{weights}, as {name}")
        return F.normalize(model.encode_text(ids).float(), dim=1)


def _token_ids(tokenizer: Any, sentences: Sequence[str]) -> Tensor:
    """Return token numbers (N, L). The tokenizer cuts what is too long, and the class may stand at the end."""
    most = tokenizer.context_length - 2  # beside start and end
    longest = max(len(tokenizer.encode(sentence)) for sentence in sentences)
    if longest > most:
        raise SsferError(f"{_WHERE}.prompts: a sentence has {longest} tokens, expected at most {most}")
    ids: Tensor = tokenizer(list(sentences))
    return ids


@contextmanager
def _silence() -> Iterator[None]:
    """Keep open_clip from warning that the network it builds is random, and from setting up the root logger for it."""
    handler, level = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        logging.root.removeHandler(handler)


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
    buffers = {name for name, _ in model.named_buffers()}  # the causal mask, which the model makes itself
    wrong = [n for n, v in wanted.items() if n not in buffers and (n not in state or state[n].shape != v.shape)]
    if wrong:
        raise SsferError(f"{_WHERE}.clip_weights: {where}: missing or of another shape: {', '.join(wrong[:3])}")
    given = {name: state[name] for name in wanted if name in state and name not in buffers}
    broken = [name for name, value in given.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise SsferError(f"{_WHERE}.clip_weights: {where}: not finite numbers: {', '.join(broken[:3])}")
    model.load_state_dict(given, strict=False)
