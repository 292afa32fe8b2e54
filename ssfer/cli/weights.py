"""Define the commands `ssfer weights ...`; heavy packages are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

weights_app = typer.Typer(
    name="weights",
    help="Show weights, and import published ones: of MAE, SSFER, timm and others.",
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
        str, typer.Option(help="mae (with decoder), encoder or classifier; auto: by the tensors.")
    ] = "auto",
    classes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a classifier: rafdb, ferplus, affectnet7, affectnet8, or names in index order: a,b,c."),
    ] = None,
    pixels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Mean and standard deviation of the pixels in training: imagenet (official MAE, DINOv2), ssfer "
            "(SSFER's authors), half (timm), clip."
        ),
    ] = None,
    resize_to: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="PIXELS", help="Resize the position tables for images of this side."),
    ] = None,
    num_heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Attention heads, not known from the tensors; default: as published for the width."),
    ] = None,
    decoder_num_heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="The same for the decoder of a whole MAE."),
    ] = None,
    entry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="State dict to read if the file has several, such as ema_model."),
    ] = None,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="timm network that the tensors are of; default: the project's own ViT."),
    ] = None,
) -> None:
    """Convert a published checkpoint to safetensors with metadata, and list which tensors were taken.

    Reads official MAE checkpoints (encoder only, with decoder, fine-tuned), those of the SSFER authors, DINOv2, other
    ViTs with timm's names, and Hugging Face's ViT, ViTMAE and DINOv2, also inside a Lightning checkpoint or under
    `backbone.`; with --backbone any network of timm, including CLIP's vision towers. No code in the file is run: only
    tensors and plain values are read, anything else is refused.

    \b
    Examples:
      ssfer weights import mae_pretrain_vit_base.pth --pixels imagenet
      ssfer weights import mae_visualize_vit_base.pth --kind encoder --resize-to 112
      ssfer weights import ssfer_rafdb.pth --classes rafdb --pixels ssfer
      ssfer weights import dinov2_vitb14_pretrain.pth --pixels imagenet --resize-to 224
      ssfer weights import clip.safetensors --backbone vit_base_patch16_clip_224 --pixels clip

    Exit status: 0, or 2 with one line on stderr that says what is wrong; then nothing was written.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.models.import_report import run_import

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
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights of ssfer or of others, or the name of a shipped model.")
    ],
    entry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="State dict to read if the file has several."),
    ] = None,
) -> None:
    """Describe weights: kind, architecture, classes, origin and every tensor. Writes nothing.

    \b
    Examples:
      ssfer weights show data/weights/pretrain/encoder.safetensors
      ssfer weights show mae_pretrain_vit_base.pth    what an import would take

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.models.import_report import run_show
        from ssfer.predict.shipped_models import find_model, model_files

        run_show(find_model(file) if str(file) in model_files() and not file.exists() else file, entry)

    stage_main("ssfer weights show", run)
