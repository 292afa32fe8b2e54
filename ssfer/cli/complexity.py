"""Define the command `ssfer complexity`; torch is imported when it runs, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from ssfer.models.settings import ModelSettings

HEADER = ("model", "params M, paper's way", "GMACs, paper's way", "params M", "GMACs", "GFLOPs", "accuracy %, RAF-DB")
TIMES = ("median ms", "p95 ms", "images/s")


def complexity(
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Count the network of these weights."),
    ] = None,
    params: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Count the network of these settings; default: params.yaml."),
    ] = None,
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Count the paper's tiny, small, base or large ViT at 224 px; repeat it for several."),
    ] = None,
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="N", help="Number of classes; default: that of the weights or settings, or 7."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure the time of a batch.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images in a measured batch.")] = 1,
    device: Annotated[str, typer.Option(help="Where to measure: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="N", help="CPU threads to measure with; default: torch's."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Count the classifier's parameters and operations, measure its speed, and compare with the paper (table 6).

    Counts both the paper's way (without class token, position table and the matrix products of attention) and
    completely. MACs are multiply-accumulates; a MAC is two FLOPs. What the paper calls FLOPs are MACs.

    \b
    Examples:
      ssfer complexity                                      the network of params.yaml
      ssfer complexity --variant base --latency --batch 16
      ssfer complexity --variant tiny --variant small --variant base --variant large --markdown
      ssfer complexity --weights data/weights/semisup/teacher_last.safetensors --latency

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.errors import SsferError
    from ssfer.core.process import stage_main

    def run() -> None:
        if json and markdown:
            raise SsferError("expected --json or --markdown, found both; leave one out")
        if not latency and (batch != 1 or device != "auto" or threads):
            raise SsferError("--batch, --device and --threads are for --latency; add it, or leave them out")
        chosen = networks(weights, params, variant or [], classes)
        where = None if not latency else (device, batch, threads)
        report = measured(chosen, where)
        print(rendered(report, "json" if json else "markdown" if markdown else "text"))

    stage_main("ssfer complexity", run)


def networks(
    weights: Path | None, params: Path | None, variants: Sequence[str], classes: int | None
) -> list[tuple[str, ModelSettings, int]]:
    """Return (name, network, number of classes) of everything to be counted.

    Args:
        weights: file of weights.
        params: file of settings.
        variants: the paper's ViTs by name.
        classes: instead of those of the weights or settings.

    Raises:
        SsferError: more than one of weights, params and variants; unreadable files, unknown variants.
    """
    from ssfer.config.schema import PARAMS_FILE, load_params
    from ssfer.core.errors import SsferError
    from ssfer.core.places import SPLIT_FILE
    from ssfer.data.split import load_split
    from ssfer.evaluation.complexity import variant_params
    from ssfer.formats.weights import load_weights
    from ssfer.models.backbone import params_of
    from ssfer.tables.numbers import PAPER_CLASSES

    if sum(map(bool, (weights, params, variants))) > 1:
        raise SsferError("--weights, --params and --variant each say which network to count; give one of them")
    if variants:
        return [(f"ViT-{name.title()}", variant_params(name), classes or PAPER_CLASSES) for name in variants]
    if weights:
        _, meta = load_weights(weights)
        found = len(meta.get("classes", ())) or PAPER_CLASSES
        return [(weights.name, params_of(meta["arch"]), classes or found)]
    path = params or PARAMS_FILE
    settings = load_params(path)
    known = len(settings.data.class_list or ())
    if not known and params is None and SPLIT_FILE.is_file():
        known = len(load_split()["classes"])
    return [(path.name, settings.model, classes or known or PAPER_CLASSES)]


def measured(
    chosen: Sequence[tuple[str, ModelSettings, int]], where: tuple[str, int, int | None] | None
) -> dict[str, Any]:
    """Return the report: one entry per network, and the paper's rows.

    Args:
        chosen: of `networks`.
        where: device, batch size and threads to measure times with; None: no times.

    Raises:
        SsferError: no such device.
    """
    import torch

    from ssfer.evaluation import complexity as counting
    from ssfer.models.backbone import architecture, build_backbone
    from ssfer.predict.runtimes.torch import inference_device
    from ssfer.tables.paper import paper_rows

    models = []
    for name, model, classes in chosen:
        counted = counting.complexity(model, classes)
        arch = architecture(model)
        entry = {"name": name, "arch": arch, "classes": classes, **asdict(counted), "flops": 2 * counted.macs}
        if where is not None:
            kind, batch, threads = where
            device = torch.device(inference_device(kind))
            if threads:
                torch.set_num_threads(threads)
            network = build_backbone(model, classes).eval().to(device)
            images = torch.randn(batch, 3, model.img_size, model.img_size, device=device)
            times = asdict(counting.measure(network, images))
            entry["latency"] = {**times, "device": counting.device_name(device), "precision": "float32"}
        models.append(entry)
    return {"models": models, "paper": [asdict(row) for row in paper_rows()]}


def rendered(report: dict[str, Any], form: str) -> str:
    """Return the report as "json", or as a table in "markdown" or "text" with notes below."""
    if form == "json":
        import json

        return json.dumps(report, indent=2)
    timed = any("latency" in entry for entry in report["models"])
    lines: list[tuple[str, ...]] = [(*HEADER, *TIMES) if timed else HEADER]
    for entry in report["models"]:
        counts = [entry["paper_params"] / 1e6, entry["paper_macs"] / 1e9, entry["params"] / 1e6, entry["macs"] / 1e9]
        cells = [entry["name"], *(f"{value:.2f}" for value in (*counts, entry["flops"] / 1e9)), "–"]
        if timed:
            times = entry["latency"]
            cells += [f"{times['median_ms']:.2f}", f"{times['p95_ms']:.2f}", f"{times['images_per_second']:.1f}"]
        lines.append(tuple(cells))
    for row in report["paper"]:
        printed = (f"{row['params_m']:g}", f"{row['flops_g']:g}", "–", "–", "–", f"{row['accuracy_percent']:.2f}")
        lines.append((f"{row['method']} (paper)", *printed, *("–" for _ in TIMES if timed)))
    remarks = [_remark(entry) for entry in report["models"]]
    return "\n".join([*_table(lines, form == "markdown"), "", *remarks])


def _remark(entry: dict[str, Any]) -> str:
    arch = entry["arch"]
    text = f"{entry['name']}: {arch['img_size']} px, "
    if "backbone" in arch:
        text += f"{arch['backbone']}, {entry['classes']} classes"
    else:
        text += (
            f"patches of {arch['patch_size']} px, width {arch['embed_dim']}, depth {arch['depth']}, "
            f"{arch['num_heads']} heads, {entry['classes']} classes"
        )
    if (times := entry.get("latency")) is None:
        return text
    return (
        f"{text}; {times['repeats']} batches of {times['batch']} on {times['device']}, {times['precision']}, "
        "untrained weights"
    )


def _table(lines: Sequence[Sequence[str]], markdown: bool) -> list[str]:
    if markdown:
        rule = "|".join(["---", *("---:" for _ in lines[0][1:])])
        return [f"| {' | '.join(lines[0])} |", f"|{rule}|", *(f"| {' | '.join(cells)} |" for cells in lines[1:])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in lines
    ]
