"""Model weights as safetensors with metadata that says how to use them, and the strict check of state dicts.

Nothing here ever unpickles.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.core.files import project_root, sha256_file, write_bytes
from ssfer.core.places import WEIGHTS

FORMAT = 1
CHECKSUM = "checksum"  # key of the metadata; weights of older versions have none
Shape = Sequence[int]


def save_weights(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors, metadata (JSON under the key "ssfer") and a checksum of both, atomically.

    `meta` holds kind ("mae", "encoder", or one of ssfer.models.classifier.KINDS), arch, mean, std, crop_recipe,
    data_fingerprint and, for classifiers, classes in index order. No commit and no date: equal tensors must give equal
    bytes, or DVC would retrain everything downstream of a stage that was merely run again. The commit is in dvc.lock's
    history and MLflow.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    known = {"format": FORMAT, **meta}
    # One key only: safetensors writes several in a random order.
    text = json.dumps({**known, CHECKSUM: _checksum(state, known)}, sort_keys=True)
    write_bytes(path, save(state, metadata={"ssfer": text}))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of any safetensors file and ssfer's metadata, which is empty for files of others.

    Raises:
        SsferError: damaged, or the metadata has another format version.
    """
    text: str | None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("ssfer")
            meta = {} if text is None else json.loads(text)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise SsferError(
            f"{path} is not a readable safetensors file ({error}); restore it with dvc checkout, or get it again"
        ) from error
    if text is not None and (not isinstance(meta, dict) or meta.get("format") != FORMAT):
        raise _foreign(path)
    checksum = meta.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(state, meta):
        raise SsferError(
            f"{path} is damaged: its tensors or metadata have another checksum than when it was written; restore it "
            "with dvc checkout --force, or get it again"
        )
    return state, meta


def load_weights(path: Path, kind: str | Sequence[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state dict, metadata) of weights that ssfer wrote.

    Raises:
        SsferError: missing, damaged, not written by ssfer, or not of the kind or one of the kinds asked for.
    """
    if not path.exists():
        raise SsferError(f"no weights at {path}; run the stage that writes them (dvc repro)")
    state, meta = read_safetensors(path)
    if not meta:
        raise _foreign(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds is not None and meta.get("kind") not in kinds:
        expected = " or ".join(f"'{name}'" for name in kinds)
        raise SsferError(f"{path} holds weights of kind '{meta.get('kind')}', expected {expected}")
    return state, meta


def _checksum(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Return the sha256 of the metadata and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def start_file(name: str, sha256: str | None) -> tuple[Path, str]:
    """Return path and sha256 of the file of pretrain.init_from; see `named_file`."""
    outputs = ("pretrain", "finetune", "semisup", "model.safetensors")  # DVC deletes them before their stage runs
    return named_file("pretrain.init_from", name, sha256, "`ssfer weights import` writes one", outputs)


def named_file(key: str, name: str, sha256: str | None, advice: str, outputs: Collection[str] = ()) -> tuple[Path, str]:
    """Return the path of the weights that a setting names, and their sha256.

    Paths are relative to the project's root, so that a queued experiment also finds the file.

    Args:
        key: the setting.
        name: its value, a path.
        sha256: of the file, or its beginning.
        advice: how to get such a file, for the message.
        outputs: folders and files below data/weights that the pipeline deletes before its stage runs.

    Raises:
        SsferError: missing, another hash, or inside `outputs`.
    """
    path = project_root() / name
    if any(path.resolve().is_relative_to((project_root() / WEIGHTS / folder).resolve()) for folder in outputs):
        raise SsferError(
            f"{key} names {name}, which the pipeline deletes and writes anew; copy the file to data/weights/imported "
            "and name that"
        )
    if not path.is_file():
        raise SsferError(f"{key}: no file at {name}; {advice}")
    found = sha256_file(path)
    if sha256 is None or not found.startswith(sha256):
        raise SsferError(f"{key}: {name} has sha256 {found}, expected {sha256}")
    return path, found


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], where: str, *, names: Collection[str] | None = None, hint: str = ""
) -> None:
    """Copy a state dict into a module after `check_tensors`; on an error the module is unchanged.

    Args:
        names: the module's tensors that the state must hold, and no others; None: all.
    """
    own = module.state_dict()
    check_tensors(state, {name: own[name].shape for name in (own if names is None else names)}, where, hint)
    module.load_state_dict(state, strict=False)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Shape], where: str, hint: str = "") -> None:
    """Refuse a state dict whose names or shapes are not those expected.

    Args:
        expected: name -> shape.
        where: begins the message: the file, and what it is read as.
        hint: ends the message: what to do.

    Raises:
        SsferError: tensors missing, unexpected or of another shape.
    """
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise SsferError(
            f"{where}: expected {len(expected)} tensors, found {len(found)}, {len(missing)} missing "
            f"({listed(missing) or 'none'}), {len(unexpected)} unexpected ({listed(unexpected) or 'none'}){hint}"
        )
    for name, shape in expected.items():
        if (size := tuple(found[name].shape)) != tuple(shape):
            raise SsferError(f"{where}: expected {name} of shape {tuple(shape)}, found {size}{hint}")


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not plain, finite floating-point numbers (or a batch norm's counter of steps)."""
    for name, value in state.items():
        number = value.is_floating_point() or (value.dtype == torch.int64 and value.ndim == 0)
        if value.layout != torch.strided or value.is_meta or not number:
            raise SsferError(f"{where}: expected plain floating-point numbers under '{name}', found {value.dtype}")
        if not bool(torch.isfinite(value.float()).all()):
            raise SsferError(f"{where}: '{name}' holds values that are not finite numbers; the file is damaged")


def listed(names: Iterable[Any], most: int = 3) -> str:
    """Return the first names and how many more there are."""
    names = [str(n) or "the whole file" for n in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")


def _foreign(path: Path) -> SsferError:
    return SsferError(f"{path} has no ssfer metadata of format {FORMAT}: expected weights written by ssfer")
