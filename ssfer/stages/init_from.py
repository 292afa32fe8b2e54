"""Weights that pretraining starts from (pretrain.init_from): those of an earlier run or imported ones, checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.formats.weights import load_state, load_weights, start_file
from ssfer.models.backbone import architecture
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import HEAD_KEYS, encoder_state
from ssfer.train.settings import PretrainSettings

KINDS = ("mae", "encoder", "classifier")


@dataclass(frozen=True)
class Start:
    """Checked weights to start from."""

    path: str  # as in params
    sha256: str
    state: dict[str, Tensor]
    meta: Mapping[str, Any]

    @property
    def has_decoder(self) -> bool:
        """Return whether the file is a whole MAE."""
        return bool(self.meta["kind"] == "mae")

    def origin(self) -> dict[str, Any]:
        """Return the entry about these weights in the metadata of weights trained from them."""
        return {"kind": self.meta["kind"], "sha256": self.sha256}

    def describe(self, model: ModelSettings) -> str:
        """Return a line for the user: which parts are used, and which settings differ from those of their training."""
        head = " without the head" if self.meta["kind"] == "classifier" else ""
        rest = f"its encoder{head}; it has no decoder, which starts at its initialization"
        rest = "encoder and decoder" if self.has_decoder else rest
        if (mean := self.meta.get("mean")) is not None and list(mean) != list(model.mean):
            rest += f"; its pixels had the mean {list(mean)}, model.mean is {list(model.mean)}"
        return f"starts from {self.path} ({self.meta['kind']}, sha256 {self.sha256[:12]}): {rest}"


def read_start(params: Params) -> Start | None:
    """Return the weights pretraining starts from; None: from scratch.

    Raises:
        SsferError: see `start_file`; a file of another kind or architecture.
    """
    p = params.pretrain
    if p.init_from is None:
        return None
    path, digest = start_file(p.init_from, p.init_sha256)
    state, meta = load_weights(path)
    if meta.get("kind") not in KINDS:
        raise SsferError(
            f"pretrain.init_from: {p.init_from} holds weights of kind '{meta.get('kind')}', expected {', '.join(KINDS)}"
        )
    body = {name: value for name, value in state.items() if name not in HEAD_KEYS}
    start = Start(p.init_from, digest, body, meta)
    _check_architecture(start, params.model, p)
    return start


def load_start(mae: MaskedAutoencoder, start: Start) -> None:
    """Copy the weights into the model: all of them, or the encoder's only if the file has no decoder.

    Raises:
        SsferError: names or shapes of another architecture; `mae` is unchanged then.
    """
    own = mae.state_dict()
    load_state(
        mae,
        start.state,
        f"pretrain.init_from: {start.path} is of another architecture",
        names=own if start.has_decoder else encoder_state(own),
    )


def decoder_arch(p: PretrainSettings) -> dict[str, int]:
    """Return the decoder's part of a whole MAE's metadata."""
    return {"embed_dim": p.decoder_embed_dim, "depth": p.decoder_depth, "num_heads": p.decoder_num_heads}


def _check_architecture(start: Start, model: ModelSettings, p: PretrainSettings) -> None:
    expected, found = architecture(model), start.meta.get("arch")
    if found != expected:
        hint = ""
        if isinstance(found, dict) and {**found, "img_size": 0} == {**expected, "img_size": 0}:
            hint = f"; `ssfer weights import {start.path} --resize-to {model.img_size}` fits it"
        raise SsferError(
            f"pretrain.init_from: {start.path} is of another architecture: section 'model' expects {_text(expected)}; "
            f"found {_text(found, expected)}{hint}"
        )
    decoder = start.meta.get("decoder") if start.has_decoder else None
    wanted = decoder_arch(p)
    if decoder is not None and decoder != wanted:
        raise SsferError(
            f"pretrain.init_from: {start.path} has another decoder: section 'pretrain' expects {_text(wanted)}; "
            f"found {_text(decoder, wanted)}; or import it with --kind encoder"
        )


def _text(sizes: Any, order: Iterable[str] | None = None) -> str:
    if not isinstance(sizes, dict):
        return "none"
    return ", ".join(f"{name} {sizes.get(name)}" for name in (order or sizes))
