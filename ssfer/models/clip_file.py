"""The CLIP weights that `ssfer fetch clip` keeps: the published file, byte for byte, and beside it where it is from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ssfer.core.errors import SsferError
from ssfer.core.files import atomic_file, project_root, write_json

FOLDER = Path("data/weights/text")  # below the project's root
MODEL = "ViT-B-32"  # open_clip's name of what is published
# What tells its text tower from others: 49,408 tokens, 77 of them a sentence, width and embedding 512.
_SHAPES = {
    "token_embedding.weight": (49408, 512),
    "positional_embedding": (77, 512),
    "ln_final.weight": (512,),
    "text_projection": (512, 512),
}


def keep(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    """Copy the published file to `out` and write `origin` to the .json of the same name; return how to use it.

    Raises:
        SsferError: no safetensors, not ViT-B-32's, or values in its text tower that are not finite numbers.
        OSError: it cannot be written. Like after any error, `out` is as it was.
    """
    count = _check(file)
    with atomic_file(out) as target:
        with open(file, "rb") as source:
            shutil.copyfileobj(source, target)
        write_json(out.with_suffix(".json"), dict(origin))
    root, path = project_root(), out.absolute()
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return (
        f"wrote {out} ({MODEL}, {count} tensors)\n"
        "to use it, set in params.yaml, below methods.sitfer.text:\n"
        f"  encoder: open_clip\n  clip_model: {MODEL}\n  clip_weights: {shown.as_posix()}\n"
        f"  clip_sha256: {origin['source_sha256']}"
    )


def _check(file: Path) -> int:
    """Return the number of tensors."""
    try:
        with safe_open(file, framework="pt") as content:
            names = set(content.keys())
            found = {name: tuple(content.get_slice(name).get_shape()) for name in names & _SHAPES.keys()}
            wrong = [f"{name} {found.get(name, 'missing')}" for name in _SHAPES if found.get(name) != _SHAPES[name]]
            if wrong:
                raise SsferError(f"{file} does not hold the text tower of CLIP {MODEL}: {', '.join(wrong)}")
            for name in sorted(names):
                if not name.startswith("visual.") and not bool(torch.isfinite(content.get_tensor(name)).all()):
                    raise SsferError(f"{file}: '{name}' holds values that are not finite numbers; the file is damaged")
    except SafetensorError as error:
        raise SsferError(f"{file} is not a readable safetensors file ({error}); get it again") from error
    return len(names)
