"""Model weights as safetensors whose metadata says how to use them; nothing here ever unpickles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.files import write_bytes

FORMAT = 1


def save_weights(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and metadata (JSON under the key "ssfer"), atomically.

    `meta` holds kind ("mae", "encoder", "classifier" or one of ssfer.models.kinds), arch, mean, std, crop_recipe,
    data_fingerprint and, for classifiers, classes in index order. No commit and no date: equal tensors must give equal
    bytes, or DVC would retrain everything downstream of a stage that was merely run again. The commit is in dvc.lock's
    history and MLflow.
    """
    text = json.dumps({"format": FORMAT, **meta}, sort_keys=True)
    write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata={"ssfer": text}))


def load_weights(path: Path, kind: str | Sequence[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state dict, metadata).

    Raises:
        SsferError: missing, damaged, not written by ssfer, or of another kind than asked for (one or several).
    """
    if not path.exists():
        raise SsferError(f"no weights at {path}; run the stage that writes them (dvc repro)")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("ssfer", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise SsferError(
            f"{path} is not a readable safetensors file ({error}); restore it with dvc checkout"
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise SsferError(f"{path} has no ssfer metadata of format {FORMAT}: expected weights written by ssfer")
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds is not None and meta.get("kind") not in kinds:
        expected = " or ".join(f"'{name}'" for name in kinds)
        raise SsferError(f"{path} holds weights of kind '{meta.get('kind')}', expected {expected}")
    return state, meta
