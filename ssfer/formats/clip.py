"""Files of CLIP's text encoder: the published weights, the parts of them that are read, and cached embeddings.

Embeddings are kept in .scratch under the weights' hash and the sentences, so that a cluster needs neither the package
open_clip nor the weights.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from ssfer.core.download import Published
from ssfer.core.files import atomic_file, project_root, scratch_dir, sha256_json, write_json
from ssfer.formats.checkpoints import Checkpoint, read_checkpoint
from ssfer.formats.weights import check_tensors, load_weights, named_file, save_weights

KIND = "clip_text"  # of the embeddings' file
WHERE = "methods.sitfer.text"
MODEL = "ViT-B-32"  # open_clip's name of what is published
# Shapes that only its text encoder has: 49,408 tokens, 77 per sentence, width and embedding 512.
_SHAPES = {
    "token_embedding.weight": (49408, 512),
    "positional_embedding": (77, 512),
    "ln_final.weight": (512,),
    "text_projection": (512, 512),
}


def embeddings(
    sentences: Sequence[str], model: str, weights: str, sha256: str, compute: Callable[[Path], Tensor]
) -> Tensor:
    """Return embeddings of length one (N, D_t), from the cache or computed and put there; one process computes.

    Args:
        model: open_clip's name.
        weights: file, below the project's root.
        sha256: of the file, or its beginning.
        compute: returns the embeddings (N, D_t), given that file.

    Raises:
        SsferError: nothing in the cache, and the weights are absent or others than asked for; see `compute`.
    """
    asked = {"model": model, "sha256": sha256, "sentences": list(sentences)}
    path = scratch_dir(KIND, sha256_json(asked)[:16]) / "embeddings.safetensors"
    with FileLock(path.with_name("lock")):
        if path.exists():
            return load_weights(path, KIND)[0]["embeddings"]
        advice = "get one with `ssfer fetch clip`, put CLIP weights there, or set encoder to learned"
        computed = compute(named_file(f"{WHERE}.clip_weights", weights, sha256, advice)[0])
        save_weights(path, {"embeddings": computed}, {"kind": KIND, **asked})
    return computed


def read_clip(file: Path) -> Checkpoint:
    """Return CLIP's state dict in a file; SsferError when there is none, see `read_checkpoint`."""
    return read_checkpoint(file, marks=tuple(_SHAPES)[:1], network="CLIP")


def _keep(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    """Copy the published file to `out`, byte for byte, and write `origin` to the .json of the same name.

    Returns:
        How to use it, for the user.

    Raises:
        SsferError: the file is not safetensors, not ViT-B-32's, or has values that are not finite.
        OSError: it cannot be written. As after any error, `out` is as it was.
    """
    state = read_clip(file).state
    tower = {name: state[name] for name in _SHAPES if name in state}
    check_tensors(tower, _SHAPES, f"{file}, as the text tower of CLIP {MODEL}")
    with atomic_file(out) as target:
        with open(file, "rb") as source:
            shutil.copyfileobj(source, target)
        write_json(out.with_suffix(".json"), dict(origin))
    root, path = project_root(), out.absolute()
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return (
        f"wrote {out} ({MODEL}, {len(state)} tensors)\n"
        "to use it, set in params.yaml, below methods.sitfer.text:\n"
        f"  encoder: open_clip\n  clip_model: {MODEL}\n  clip_weights: {shown.as_posix()}\n"
        f"  clip_sha256: {origin['source_sha256']}"
    )


PUBLISHED = Published(
    sha256="",  # not known: this was written without a network
    size="about 605 MB",
    license="MIT (LAION's CLIP ViT-B/32); trained on LAION-2B, pictures and texts from the web",
    keep=_keep,
    folder=Path("data/weights/text"),
    most=2**30,
    url="https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors",
)
