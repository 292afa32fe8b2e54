"""Define the commands `ssfer search ...`; heavy packages are imported when they run."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

search_app = typer.Typer(
    name="search", help="Search settings on held-out labels.", no_args_is_help=True, rich_markup_mode=None
)


@search_app.callback()
def _several() -> None:
    """Search settings on held-out labels, never on the test set."""


@search_app.command("lr")
def search_lr(
    wolves: Annotated[int, typer.Option(min=3, help="Candidates per iteration.")] = 8,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of the Grey Wolf Optimizer.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Draws the held-out images and moves the wolves.")] = 2024,
    holdout: Annotated[
        float, typer.Option(help="Share of the labeled images held out for scoring, between 0 and 1.")
    ] = 0.2,
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="N", help="Epochs per candidate; default: those of stage finetune."),
    ] = None,
    lr_max: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Search range.")] = (5e-5, 5e-4),
    lr_min: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Search range.")] = (1e-6, 5e-5),
    lr_warm: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Search range.")] = (1e-6, 1e-4),
) -> None:
    """Search finetune.lr_max, lr_min and lr_warm with the Grey Wolf Optimizer (SSFER, table 16).

    Each candidate runs stage finetune's main training with its rates on the labeled images except the held-out ones;
    its score is the accuracy on the held-out ones. Test and validation images are not read. You can stop at any time:
    the same command continues, and trained candidates are never trained again. Writes metrics/search/lr.json.

    \b
    Examples:
      ssfer search lr
      ssfer search lr --wolves 5 --iterations 4 --epochs 20
      ssfer search lr --lr-max 2e-4 4e-3 --lr-warm 1e-6 1e-3    the demo's small network needs larger rates

    Needs data/faces, data/splits and data/weights/pretrain (dvc repro pretrain split).

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import CONTINUES, stage_main

    def run() -> None:
        from ssfer.config.schema import load_params
        from ssfer.search.candidates import score
        from ssfer.search.lr import Settings, command, described, run_search

        bounds = {"lr_max": lr_max, "lr_min": lr_min, "lr_warm": lr_warm}
        result = run_search(load_params(), Settings(wolves, iterations, seed, holdout, epochs, bounds))
        print(f"accuracy on {result['holdout']['images']} held-out images")
        print(f"  present: {described(result['present'])}")
        print(f"  best:    {described(result['best'])}")
        if score(result["best"]) > score(result["present"]):
            print(command(result["best"]["rates"]))
        else:
            print("no candidate is better than the present rates; keep them")

    stage_main("ssfer search lr", run, CONTINUES)
