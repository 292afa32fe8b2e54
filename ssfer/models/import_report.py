"""What an import of weights takes of a file: every tensor, and whether it is used (`ssfer weights import`, `show`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ssfer.core import files
from ssfer.core.errors import SsferError, printable
from ssfer.core.labels import CLASS_SETS
from ssfer.formats.checkpoints import Checkpoint, read_checkpoint
from ssfer.formats.untrusted import file_size
from ssfer.formats.weights import read_safetensors
from ssfer.models.convert import PIXELS, Imported, convert, origin_of, write_imported
from ssfer.models.timm_weights import check_pixels, read_body, write_body

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
    backbone: str | None = None,
) -> Path:
    """Convert a checkpoint, print which tensors were taken and how to use the result; return its path.

    Args:
        file: the checkpoint.
        out: file to write; None: data/weights/imported/<name>.safetensors.
        kind: see `convert`.
        entry: name of the state dict in the file; see `read_checkpoint`.
        resize_to: side of the images in pixels that position tables are resized for; None: leave them.
        num_heads: attention heads of the encoder; None: as published for the width.
        decoder_num_heads: the same for the decoder.
        classes: name of a class set, or names in index order, separated by commas.
        pixels: name of the mean and standard deviation of the pixels.
        backbone: timm's name of the network that the tensors are of; None: the project's own ViT.

    Raises:
        SsferError: see `read_checkpoint`, `convert`, `write_imported`; `out` exists already.
    """
    out = out or files.project_root() / FOLDER / f"{file.stem}.safetensors"
    if out.exists():
        raise SsferError(f"{out} exists already; remove it or name another file with --out")
    if backbone is not None:
        if resize_to is not None:
            raise SsferError("--resize-to is for the project's own ViT; leave it or --backbone out")
        body = read_body(backbone, file, check_pixels(pixels, str(file)), entry)
        write_body(out, body, origin_of(body.source))
        lines = [*read(body.source), f"kind encoder: {backbone}", *accounted(body.state, body.dropped, body.source)]
        _print("\n".join(lines))
        _print(f"written: {out}")
        _next_steps(out)
        return out
    source = read_checkpoint(file, entry, others=True)
    stated = source.meta.get("mean")
    if pixels is not None and pixels in PIXELS and stated and list(stated) != list(PIXELS[pixels][0]):
        raise SsferError(f"{file} states the statistics of its pixels; leave --pixels out")
    weights = convert(source, kind, num_heads=num_heads, decoder_num_heads=decoder_num_heads, resize_to=resize_to)
    meta = write_imported(out, weights, source, classes=class_names(classes), pixels=pixels)
    _print("\n".join(report(source, weights)))
    _print(f"written: {out}")
    if weights.kind == "classifier":
        _print(f"classes: {', '.join(meta['classes'])}")
    _next_steps(out)
    return out


def _print(text: str) -> None:
    """Print text that contains names from a foreign file, with control characters escaped."""
    print(printable(text))


def _next_steps(out: Path) -> None:
    _print(f"to start pretraining from it: pretrain.init_from: {_below_root(out)}")
    _print(f"                              pretrain.init_sha256: {files.sha256_file(out)}")


def run_show(file: Path, entry: str | None = None) -> None:
    """Describe weights: those of ssfer by their metadata, others as an import would read them.

    Raises:
        SsferError: see `read_checkpoint` and `convert`.
    """
    file_size(file)
    if file.suffix == ".onnx":
        raise SsferError(
            f"{file} is an ONNX model; ssfer weights show describes weights, such as its .safetensors file"
        )
    state, meta = read_safetensors(file) if file.suffix == ".safetensors" else ({}, {})
    if meta:
        _print(f"{file}: weights of ssfer, {_total(state.values())}")
        for name, value in meta.items():
            _print(f"  {name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
        _print(f"  sha256: {files.sha256_file(file)}")
        _print("\n".join(grouped(state, state, "  ")))
        return
    source = read_checkpoint(file, entry, others=True)
    try:
        weights = convert(source)
    except SsferError as error:
        _print(f"{file}: sha256 {source.sha256}, {_total(source.state.values())}")
        _print("\n".join(grouped(source.state, source.state, "  ")))
        raise SsferError(f"cannot be imported as it is: {error}") from error
    _print("\n".join(report(source, weights)))


def report(source: Checkpoint, weights: Imported) -> list[str]:
    """Return lines about every tensor of the file and of the result."""
    arch = ", ".join(f"{name} {value}" for name, value in weights.arch.items())
    lines = read(source)
    lines.append(f"kind {weights.kind}: {arch}; positions {weights.positions}")
    if weights.decoder:
        lines.append("decoder: " + ", ".join(f"{name} {value}" for name, value in weights.decoder.items()))
    if weights.resized:
        lines.append(f"positions resized from {weights.resized} px to {weights.arch['img_size']} px, bicubically")
    return [*lines, *accounted(weights.state, weights.dropped, source, weights.missing)]


def read(source: Checkpoint) -> list[str]:
    """Return lines about what was read of a file."""
    lines = [f"{source.path}: sha256 {source.sha256}"]
    if source.entry or source.prefix:
        entry = f"entry '{source.entry}'" if source.entry else "the whole file"
        lines.append(f"  read: {entry}" + (f", names without '{source.prefix}'" if source.prefix else ""))
    if source.whose:
        lines.append(f"  names of {source.whose}, renamed to timm's; queries, keys and values are one tensor")
    if source.beside:
        lines.append(f"  not read: {', '.join(source.beside)}")
    if source.outside:
        lines.append(f"  not read, beside the network: {len(source.outside)} tensors")
        lines += [f"    {name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in source.outside.items()]
    return lines


def accounted(
    state: Mapping[str, Tensor], dropped: Mapping[str, str], source: Checkpoint, missing: Mapping[str, str] = {}
) -> list[str]:
    """Return lines about each tensor: taken, dropped or missing, and why."""
    taken = [name for name in state if name not in missing]
    lines = [f"taken: {_total(state[name] for name in taken)}", *grouped(taken, state, "  ")]
    for title, group in (("dropped", dropped), ("missing", missing)):
        for reason in dict.fromkeys(group.values()):
            names = [name for name, why in group.items() if why == reason]
            lines.append(f"{title}: {len(names)} tensors, {reason}")
            lines += grouped(names, {**state, **source.state}, "  ")
        if not group:
            lines.append(f"{title}: none")
    return lines


def grouped(names: Iterable[str], state: Mapping[str, Tensor], indent: str) -> list[str]:
    """Return one line per name and shape; tensors whose names differ only in the block's number share a line."""
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
    """Return the names of a class set, or those of a comma-separated list; None stays None.

    Raises:
        SsferError: an empty name, or fewer than two names.
    """
    if text is None or text in CLASS_SETS:
        return CLASS_SETS[text] if text else None
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or "" in names:
        raise SsferError(
            f"expected one of {', '.join(sorted(CLASS_SETS))} or names with commas between, found '{text}'"
        )
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
