"""A network's state dict in a file: PyTorch's or safetensors, bare or in an entry, with or without a prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.formats.untrusted import file_size, read_torch_file
from ssfer.formats.weights import load_weights

MARK = "cls_token"  # the tensor by which a ViT is found


@dataclass(frozen=True)
class Checkpoint:
    """One state dict of a file, with plain names.

    Args:
        entry: name under which the file holds the state dict; "" if it is the whole file.
        prefix: what all names began with, such as "module.".
        beside: other entries of the file, which are not read.
        meta: metadata of files that ssfer wrote; empty for others.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    entry: str = ""
    prefix: str = ""
    beside: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, entry: str | None = None, *, mark: str = MARK, network: str = "ViT") -> Checkpoint:
    """Return the network's state dict in a PyTorch file or safetensors.

    Args:
        entry: which of several state dicts, such as "model" or "ema_model"; None: the only one.
        mark: a tensor by which the network is found.
        network: what it is called in messages.

    Raises:
        SsferError: see `read_torch_file`; no such network or several in the file, values that are no finite numbers.
    """
    size = file_size(path)
    loaded, meta = read_safetensors(path) if path.suffix == ".safetensors" else (read_torch_file(path), {})
    if not isinstance(loaded, Mapping):
        raise SsferError(f"{path}: expected a checkpoint of a {network}, found a {type(loaded).__name__}")
    found = {"": loaded} if _prefix(loaded, mark) is not None else {}
    found |= {str(k): v for k, v in loaded.items() if isinstance(v, Mapping) and _prefix(v, mark) is not None}
    if entry is not None and entry not in found:
        raise SsferError(f"{path}: no entry '{entry}' with a {network}'s tensors, found {listed(found) or 'none'}")
    if len(found) > 1 and entry is None:
        raise SsferError(f"{path} holds several state dicts, choose one with --entry: {listed(found)}")
    if not found:
        raise SsferError(
            f"{path} is no {network}: expected a tensor '{mark}' in it or in one of its entries, found "
            f"{_outline(loaded)}"
        )
    name = entry if entry is not None else next(iter(found))
    prefix = _prefix(found[name], mark) or ""
    state = {}
    for key, value in found[name].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise SsferError(f"{path}: expected names and tensors only, found a {type(value).__name__} under {key!r}")
        if not key.startswith(prefix):
            raise SsferError(f"{path}: expected that all names begin with '{prefix}' as '{prefix}{mark}' does: {key}")
        state[key.removeprefix(prefix)] = value.detach()
    if sum(v.numel() * v.element_size() for v in state.values()) > size:  # repeated views of a few numbers
        raise SsferError(f"{path} is refused: its tensors claim more numbers than the file has bytes")
    for key, value in state.items():
        number = value.is_floating_point() or (value.dtype == torch.int64 and value.ndim == 0)  # or a norm's counter
        if value.layout != torch.strided or value.is_meta or not number:
            raise SsferError(f"{path}: expected plain floating-point numbers under '{key}', found {value.dtype}")
        if not _finite(value):
            raise SsferError(f"{path}: '{key}' holds values that are not finite numbers; the file is damaged")
    beside = tuple(str(k) for k in loaded if str(k) != name) if name else ()
    return Checkpoint(path, sha256_file(path), state, name, prefix, beside, meta)


def listed(names: Iterable[Any], most: int = 3) -> str:
    """Return the first names and how many more there are."""
    names = [str(n) or "the whole file" for n in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return tensors and ssfer's metadata, which are empty for files of others; SsferError when damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            if "ssfer" not in (file.metadata() or {}):
                return {key: file.get_tensor(key) for key in file.keys()}, {}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise SsferError(f"{path} is not a readable safetensors file ({error}); get it again") from error
    return load_weights(path)


def _prefix(state: Mapping[Any, Any], mark: str) -> str | None:
    """Return what stands before the mark's name, the shortest of several; None: no tensor of that name."""
    names = [key for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)]
    marked = [name for name in names if f".{name}".endswith(f".{mark}")]
    return min(marked, key=len).removesuffix(mark) if marked else None


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value.float()).all())


def _outline(loaded: Mapping[Any, Any]) -> str:
    return f"{len(loaded)} others such as {listed(loaded)}" if loaded else "nothing"
