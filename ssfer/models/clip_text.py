"""Embeddings of sentences by CLIP's text encoder, with the optional package open_clip and weights from a file.

Nothing is downloaded here: `ssfer fetch clip` does that on request. `ssfer.formats.clip` caches the embeddings.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.core.errors import SsferError, unknown_name
from ssfer.formats.clip import WHERE, read_clip
from ssfer.formats.weights import load_state


def clip_embeddings(sentences: Sequence[str], name: str, weights: Path) -> Tensor:
    """Return embeddings of length one (N, D_t) by the text encoder of the model `name`.

    Raises:
        SsferError: the package is not installed, or the file does not hold this model's text encoder.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise SsferError(
            f"{WHERE}.encoder open_clip needs the package open_clip_torch (extra 'clip'); install it with make setup, "
            "or set encoder to learned"
        )
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_name("CLIP model", name, open_clip.list_models())
    # The package would download tokenizers and text encoders that it does not contain.
    if any(key.startswith("hf_") for key in open_clip.get_model_config(name)["text_cfg"]):
        raise SsferError(
            f"{WHERE}.clip_model {name} has a tokenizer that is not part of open_clip; expected a model with CLIP's "
            "own, such as ViT-B-32"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _silence():
        ids = _token_ids(open_clip.get_tokenizer(name), sentences)
        model = open_clip.create_model(name, pretrained=None, device="cpu").eval()
        _load(model, read_clip(weights).state, f"{WHERE}.clip_weights: {weights}, as {name}")
        return F.normalize(model.encode_text(ids).float(), dim=1)


def _token_ids(tokenizer: Any, sentences: Sequence[str]) -> Tensor:
    """Return token numbers (N, L); too long sentences are refused, because the tokenizer would cut off their end."""
    most = tokenizer.context_length - 2  # without the start and end tokens
    longest = max(len(tokenizer.encode(sentence)) for sentence in sentences)
    if longest > most:
        raise SsferError(f"{WHERE}.prompts: a sentence has {longest} tokens, expected at most {most}")
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


def _load(model: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load the text encoder; the image encoder, which is not used, stays random."""
    buffers = {name for name, _ in model.named_buffers()}  # the causal mask, which the model makes itself
    names = [name for name in model.state_dict() if not name.startswith("visual.") and name not in buffers]
    load_state(model, {name: state[name] for name in names if name in state}, where, names=names)
