"""The commands `ssfer weights ...`; anything heavy is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

weights_app = typer.Typer(
    name="weights",
    help="Look at weights, and bring in those of others: MAE's, SSFER's, timm's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@weights_app.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth, .pt, .bin or .safetensors file.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Where to write; default: data/weights/imported/<name>.safetensors."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="mae (with decoder), encoder, classifier; auto: what the tensors are.")
    ] = "auto",
    classes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="For classifiers: rafdb, ferplus, affectnet7, affectnet8 or names in index order, a,b,c."),
    ] = None,
    pixels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Mean and deviation the pixels had: imagenet (official MAE, DINOv2), ssfer (SSFER's authors), half "
            "(timm's), clip."
        ),
    ] = None,
    resize_to: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="PIXELS", help="Resize the tables of positions for images of this side."),
    ] = None,
    num_heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Attention heads, which no tensor tells; default: as published for the width."),
    ] = None,
    decoder_num_heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="The same for the decoder of a whole MAE."),
    ] = None,
    entry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Which state dict of several in the file, such as ema_model."),
    ] = None,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="timm's network that the tensors are of; without: the project's own ViT."),
    ] = None,
) -> None:
    """Convert a checkpoint of others to safetensors with metadata, and say what became of every tensor.

    Read are official MAE checkpoints (encoder only, with decoder, fine-tuned), those of the SSFER authors, DINOv2,
    other ViTs with timm's names, Hugging Face's ViT, ViTMAE and DINOv2, all of these inside a Lightning checkpoint or
    under `backbone.`; with --backbone any network of timm's, among them CLIP's vision towers. No code in the file is
    run: tensors and plain values are read, anything else is refused.

    \b
    Examples:
      ssfer weights import mae_pretrain_vit_base.pth --pixels imagenet
      ssfer weights import mae_visualize_vit_base.pth --kind encoder --resize-to 112
      ssfer weights import ssfer_rafdb.pth --classes rafdb --pixels ssfer
      ssfer weights import dinov2_vitb14_pretrain.pth --pixels imagenet --resize-to 224
      ssfer weights import clip.safetensors --backbone vit_base_patch16_clip_224 --pixels clip

    Exit status: 0, or 2 with one line on stderr that says why not; nothing is written then.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.cli.weights import run_import

        run_import(
            file,
            out,
            kind=kind,
            entry=entry,
            resize_to=resize_to,
            num_heads=num_heads,
            decoder_num_heads=decoder_num_heads,
            classes=classes,
            pixels=pixels,
            backbone=backbone,
        )

    stage_main("ssfer weights import", run)


@weights_app.command("show")
def weights_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights of ssfer or of others.")],
    entry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Which state dict of several in the file."),
    ] = None,
) -> None:
    """Say what weights are: kind, architecture, classes, where they come from, every tensor. Reads only.

    \b
    Examples:
      ssfer weights show data/weights/pretrain/encoder.safetensors
      ssfer weights show mae_pretrain_vit_base.pth    what an import would take

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.cli.weights import run_show

        run_show(file, entry)

    stage_main("ssfer weights show", run)
