"""Define the command `ssfer complexity`; torch is imported when it runs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


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
        from ssfer.tables.complexity import measured, networks, rendered

        chosen = networks(weights, params, variant or [], classes)
        where = None if not latency else (device, batch, threads)
        report = measured(chosen, where)
        print(rendered(report, "json" if json else "markdown" if markdown else "text"))

    stage_main("ssfer complexity", run)
