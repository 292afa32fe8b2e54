"""What `ssfer weights import` and `ssfer weights show` say: every tensor of a file, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ssfer.core import files
from ssfer.core.errors import SsferError
from ssfer.core.labels import CLASS_SETS
from ssfer.formats.checkpoints import Checkpoint, read_checkpoint
from ssfer.formats.untrusted import file_size
from ssfer.formats.weights import read_safetensors
from ssfer.models.convert import Imported, convert, write_imported

FOLDER = Path("data/weights/imported")  # below the project's root


def run_import(
    file: Path,
    out: Path | None = None,
    *,
    kind: str = "auto",
    entry: str | None = None,
    resize_to: int | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    classes: str | None = None,
    pixels: str | None = None,
) -> Path:
    """Convert a checkpoint, print what became of its tensors and how to use the result; return where it lies.

    Args:
        classes: name of a class set, or names in index order, with commas.

    Raises:
        SsferError: see `read_checkpoint`, `convert`, `write_imported`; `out` is the file itself or exists already.
    """
    out = out or files.project_root() / FOLDER / f"{file.stem}.safetensors"
    if out.exists():
        raise SsferError(f"{out} exists already; remove it or name another file with --out")
    source = read_checkpoint(file, entry)
    weights = convert(source, kind, num_heads=num_heads, decoder_num_heads=decoder_num_heads, resize_to=resize_to)
    meta = write_imported(out, weights, source, classes=class_names(classes), pixels=pixels)
    print("\n".join(report(source, weights)))
    print(f"written: {out}")
    if weights.kind == "classifier":
        print(f"classes: {', '.join(meta['classes'])}")
    print(f"to start pretraining from it: pretrain.init_from: {_below_root(out)}")
    print(f"                              pretrain.init_sha256: {files.sha256_file(out)}")
    return out


def run_show(file: Path, entry: str | None = None) -> None:
    """Print what weights are: those of ssfer by their metadata, others as an import would see them.

    Raises:
        SsferError: see `read_checkpoint` and `convert`.
    """
    file_size(file)
    state, meta = read_safetensors(file) if file.suffix == ".safetensors" else ({}, {})
    if meta:
        print(f"{file}: weights of ssfer, {_total(state.values())}")
        for name, value in meta.items():
            print(f"  {name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
        print(f"  sha256: {files.sha256_file(file)}")
        print("\n".join(grouped(state, state, "  ")))
        return
    source = read_checkpoint(file, entry)
    try:
        weights = convert(source)
    except SsferError as error:
        print(f"{file}: sha256 {source.sha256}, {_total(source.state.values())}")
        print("\n".join(grouped(source.state, source.state, "  ")))
        raise SsferError(f"not to be imported as it is: {error}") from error
    print("\n".join(report(source, weights)))


def report(source: Checkpoint, weights: Imported) -> list[str]:
    """Return lines that account for every tensor of the file and of the result."""
    arch = ", ".join(f"{name} {value}" for name, value in weights.arch.items())
    lines = [f"{source.path}: sha256 {source.sha256}"]
    if source.entry or source.prefix:
        entry = f"entry '{source.entry}'" if source.entry else "the whole file"
        lines.append(f"  read: {entry}" + (f", names without '{source.prefix}'" if source.prefix else ""))
    if source.beside:
        lines.append(f"  not read: {', '.join(source.beside)}")
    lines.append(f"kind {weights.kind}: {arch}; positions {weights.positions}")
    if weights.decoder:
        lines.append("decoder: " + ", ".join(f"{name} {value}" for name, value in weights.decoder.items()))
    if weights.resized:
        lines.append(f"positions resized from {weights.resized} px to {weights.arch['img_size']} px, bicubically")
    taken = [name for name in weights.state if name not in weights.missing]
    lines += [f"taken: {_total(weights.state[name] for name in taken)}", *grouped(taken, weights.state, "  ")]
    for title, group in (("dropped", weights.dropped), ("missing", weights.missing)):
        for reason in dict.fromkeys(group.values()):
            names = [name for name, why in group.items() if why == reason]
            lines.append(f"{title}: {len(names)} tensors, {reason}")
            lines += grouped(names, {**weights.state, **source.state}, "  ")
        if not group:
            lines.append(f"{title}: none")
    return lines


def grouped(names: Iterable[str], state: Mapping[str, Tensor], indent: str) -> list[str]:
    """Return one line per name and shape; what differs in the block's number only shares a line."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name in names:
        found = re.search(r"(?<=blocks\.)\d+", name)
        pattern = name if found is None else f"{name[: found.start()]}*{name[found.end() :]}"
        groups.setdefault((pattern, tuple(state[name].shape)), []).append(int(found[0]) if found else 0)
    return [
        f"{indent}{pattern.replace('*', _range(numbers))} {'x'.join(map(str, shape)) or 'scalar'}"
        for (pattern, shape), numbers in groups.items()
    ]


def class_names(text: str | None) -> Sequence[str] | None:
    """Return the names of a class set, or those in a list with commas; None stays None."""
    if text is None or text in CLASS_SETS:
        return CLASS_SETS[text] if text else None
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or "" in names:
        raise SsferError(f"expected one of {', '.join(sorted(CLASS_SETS))} or names with commas, found '{text}'")
    return names


def _range(numbers: list[int]) -> str:
    numbers = sorted(numbers)
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"[{numbers[0]}-{numbers[-1]}]"
    return ",".join(map(str, numbers))


def _total(tensors: Iterable[Tensor]) -> str:
    sizes = [tensor.numel() for tensor in tensors]
    return f"{len(sizes)} tensors, {sum(sizes):,} numbers"


def _below_root(path: Path) -> Path:
    root = files.project_root().resolve()
    return path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path.resolve()
