"""The runs that the page on the paper's claims is about, and what each of them used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfer.config.profiles import resolve
from ssfer.config.schema import Params
from ssfer.formats.metrics import read_metrics

KEPT = ("ferplus-vit", "ferplus-cpu", "ferplus-night")  # profiles whose metrics are kept
RUNS = {"demo": "metrics"} | {name: f"metrics/profiles/{name}" for name in KEPT}
NAMES = {"demo": "rendered"} | {name: f"`{name}`" for name in KEPT}


def budgets(root: Path) -> str:
    """Return a table of what each run used, beside the paper's FERPlus run; `root` is the project."""
    head = "| | paper, FERPlus | " + " | ".join(NAMES[name] for name in RUNS) + " |"
    columns = [_budget(name, root / folder) for name, folder in RUNS.items()]
    paper = _sizes(resolve(["paper", "ferplus"])[1]) | {
        "faces in pretraining": "1.2 million", "labels": "10 %", "unlabeled faces": "the rest", "test faces": "7,178",
    }  # fmt: skip
    lines = [f"| {key} | {paper[key]} | {' | '.join(column[key] for column in columns)} |" for key in columns[0]]
    return "\n".join([head, "|---|---|" + "---|" * len(columns), *lines])


def _budget(name: str, folder: Path) -> dict[str, Any]:
    params = resolve([] if name == "demo" else [name])[1]
    split, pretrain = read_metrics("split", folder), read_metrics("pretrain", folder)
    counts = {
        "faces in pretraining": pretrain["images"],
        "labels": split["labeled"] + split["valid"],
        "unlabeled faces": split["unlabeled"],
        "test faces": split["test"],
    }
    return _sizes(params) | {key: f"{value:,}" for key, value in counts.items()}


def _sizes(params: Params) -> dict[str, str]:
    model, own = params.model, params.model.backbone == "vit"
    return {
        "network": f"ViT, width {model.embed_dim}, depth {model.depth}" if own else f"`{model.backbone}`",
        "image": f"{model.img_size} px",
        "epochs: MAE, fine-tuning, EMA teacher": ", ".join(
            str(part.epochs) for part in (params.pretrain, params.finetune, params.semisup)
        ),
    }
