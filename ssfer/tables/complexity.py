"""Table 6: parameters, operations and times of networks, beside the paper's (`ssfer complexity`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ssfer.config.schema import PARAMS_FILE, load_params
from ssfer.core.errors import SsferError
from ssfer.core.places import SPLIT_FILE
from ssfer.data.split import load_split
from ssfer.evaluation import complexity as counting
from ssfer.formats.weights import load_weights
from ssfer.models.backbone import architecture, build_backbone, params_of
from ssfer.models.settings import ModelSettings
from ssfer.predict.runtimes.torch import inference_device
from ssfer.tables.numbers import PAPER_CLASSES
from ssfer.tables.paper import paper_rows

HEADER = ("model", "params M, paper's way", "GMACs, paper's way", "params M", "GMACs", "GFLOPs", "accuracy %, RAF-DB")
TIMES = ("median ms", "p95 ms", "images/s")


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
    if sum(map(bool, (weights, params, variants))) > 1:
        raise SsferError("--weights, --params and --variant each say which network to count; give one of them")
    if variants:
        return [(f"ViT-{name.title()}", counting.variant_params(name), classes or PAPER_CLASSES) for name in variants]
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
