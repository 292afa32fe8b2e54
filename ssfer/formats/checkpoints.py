"""A network's state dict in a file: PyTorch's or safetensors, bare or in an entry, with or without a prefix."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.formats.untrusted import MAX_BYTES, file_size, read_torch_file
from ssfer.formats.vit_names import timm_names
from ssfer.formats.weights import check_finite, listed, read_safetensors

MARKS = ("cls_token",)  # the tensor by which a ViT is found
_HEAD = re.compile(r"(?:.*\.)?(?:fc|head|classifier|linear)\.(weight|bias)")  # beside a network called `backbone`


@dataclass(frozen=True)
class Checkpoint:
    """One state dict of a file, with plain names.

    Args:
        entry: name under which the file holds the state dict; "" if it is the whole file.
        prefix: what all names began with, such as "module.".
        beside: other entries of the file, which are not read.
        meta: metadata of files that ssfer wrote; empty for others.
        whose: library whose tensor names were translated to timm's; "" if none were.
        outside: tensors with another prefix than the network's, which are not read; name -> shape.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    entry: str = ""
    prefix: str = ""
    beside: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    whose: str = ""
    outside: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_checkpoint(
    path: Path,
    entry: str | None = None,
    *,
    marks: Sequence[str] = MARKS,
    network: str = "ViT",
    most: int = MAX_BYTES,
    others: bool = False,
) -> Checkpoint:
    """Return the network's state dict in a PyTorch file or safetensors.

    Args:
        path: the file.
        entry: which of several state dicts, such as "model" or "ema_model"; None: the only one.
        marks: tensors by which the network is found; one of them is enough.
        network: what it is called in messages.
        most: largest size of the file, bytes.
        others: accept files of any origin: names are translated (`timm_names`), tensors outside the network are left
            out, and the classifier may be stored beside a network that is called `backbone`.

    Raises:
        SsferError: see `read_torch_file`; no such network or several in the file, values that are not finite.
    """
    file_size(path, most)
    loaded, meta = read_safetensors(path) if path.suffix == ".safetensors" else (read_torch_file(path, most), {})
    if not isinstance(loaded, Mapping):
        raise SsferError(f"{path}: expected a checkpoint of a {network}, found a {type(loaded).__name__}")
    whose = ""
    if others:
        loaded, whose = _translated(loaded)
    found = {"": loaded} if _prefix(loaded, marks) is not None else {}
    found |= {str(k): v for k, v in loaded.items() if isinstance(v, Mapping) and _prefix(v, marks) is not None}
    if others:
        found = _networks(found, marks)
    if entry is not None and entry not in found:
        raise SsferError(f"{path}: no entry '{entry}' with a {network}'s tensors, found {listed(found) or 'none'}")
    if len(found) > 1 and entry is None:
        raise SsferError(f"{path} holds several state dicts, choose one with --entry: {listed(found)}")
    if not found:
        raise SsferError(
            f"{path} is no {network}: expected a tensor {' or '.join(marks)} in it or in one of its entries, found "
            f"{f'{len(loaded)} others such as {listed(loaded)}' if loaded else 'nothing'}"
        )
    name = entry if entry is not None else next(iter(found))
    prefix = _prefix(found[name], marks) or ""
    state, outside = {}, dict[str, tuple[int, ...]]()
    for key, value in found[name].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise SsferError(f"{path}: expected names and tensors only, found a {type(value).__name__} under {key!r}")
        if key.startswith(prefix):
            state[key.removeprefix(prefix)] = value.detach()
        elif others and (head := _HEAD.fullmatch(key)):
            state[f"head.{head[1]}"] = value.detach()
        elif others:
            outside[key] = tuple(value.shape)
        else:
            raise SsferError(f"{path}: expected that all names begin with '{prefix}', found {key}")
    stored = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in state.values() if not v.is_meta}
    most = max(path.stat().st_size, sum(stored.values()))  # of both, as the file may lie in a zip
    if sum(v.numel() * v.element_size() for v in state.values()) > most:  # repeated views of a few numbers
        raise SsferError(f"{path} is refused: its tensors claim more numbers than the file has bytes")
    check_finite(state, str(path))
    beside = tuple(str(k) for k in loaded if str(k) != name) if name else ()
    return Checkpoint(path, sha256_file(path), state, name, prefix, beside, meta, whose, outside)


def _translated(loaded: Mapping[Any, Any]) -> tuple[dict[Any, Any], str]:
    """Return a file's content with timm's names in all of its state dicts, and the library whose names it had."""
    whose = ""
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    found: dict[Any, Any] = {k: v for k, v in loaded.items() if k not in tensors}
    renamed, whose = timm_names(tensors)
    for key, value in found.items():
        if isinstance(value, Mapping) and value and all(isinstance(k, str) for k in value):
            inner = {k: v for k, v in value.items() if isinstance(v, Tensor)}
            named, of = timm_names(inner)
            found[key] = {**{k: v for k, v in value.items() if k not in inner}, **named}
            whose = whose or of
    return {**found, **renamed}, whose


def _networks(found: Mapping[str, Mapping[Any, Any]], marks: Sequence[str]) -> dict[str, Mapping[Any, Any]]:
    """Return the networks by name; a state dict with several networks (student and teacher) is split into them."""
    split: dict[str, Mapping[Any, Any]] = {}
    for name, state in found.items():
        every = _prefixes(state, marks)
        # A mark's name can occur deeper inside of a network (conv1 in every block of a ResNet).
        prefixes = sorted(p for p in every if not any(p != q and p.startswith(q) for q in every))
        if len(prefixes) < 2:
            split[name] = state
            continue
        for prefix in prefixes:
            own = {k: v for k, v in state.items() if isinstance(k, str) and k.startswith(prefix)}
            split[".".join(filter(None, (name, prefix.rstrip("."))))] = own
    return split


def _prefix(state: Mapping[Any, Any], marks: Sequence[str]) -> str | None:
    """Return what stands before a mark's name, the shortest of several; None: no tensor of that name."""
    return min(_prefixes(state, marks), key=len, default=None)


def _prefixes(state: Mapping[Any, Any], marks: Sequence[str]) -> set[str]:
    names = [key for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)]
    return {name.removesuffix(mark) for mark in marks for name in names if f".{name}".endswith(f".{mark}")}
