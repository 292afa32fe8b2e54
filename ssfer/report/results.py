"""The results in metrics/, read once for the report and the model card.

`evaluate.json`, `split.json` and `confusion.csv` are required; everything else may be missing (None or empty), so a run
without baselines, without a validation part or with omitted DVC stages still has a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.formats.metrics import read_metrics
from ssfer.methods.registry import METHODS
from ssfer.models.settings import OWN_BACKBONE
from ssfer.tables.paper import printed

# Names of the models in the report, in the order in which each one adds a step to the one before. Of `SAME_RUN` only
# the headline model is a step.
LADDER: Mapping[str, str] = {
    "scratch": "from scratch",
    "plain": "+ MAE pretraining",
    "mixup": "+ mixup",
    "facemix": "+ FaceMix",
    "teacher": "+ EMA teacher",
    "student": "EMA teacher's student",
    "average": "running average",
}
AVERAGE = "_ema"  # end of the name of a fine-tuned network's average, which is no step either
SAME_RUN = ("teacher", "student", "average")  # networks of one training
TEXT_COLUMNS = {"class", "arm"}
EVALUATE_KEYS = ("test_images", "classes", "chance", "majority_rate", "majority_class", "headline_model", "headline")

PAPER_DATASETS: Mapping[str, str] = {
    "rafdb": "RAF-DB",
    "ferplus": "FERPlus",
    "affectnet7": "AffectNet-7",
    "affectnet8": "AffectNet-8",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Everything the report shows; rates are 0..1.

    Attributes:
        evaluate: details of evaluate.json. split: details of split.json.
        parts: details of the other metrics files by stage name, an empty dict if the file is missing.
        curves: rows by name (pretrain, finetune with all arms, semisup, pseudo_labels), empty if missing.
        confusion: (K, K) counts of the headline model, rows true.
    """

    params: Params
    classes: tuple[str, ...]
    evaluate: dict[str, Any]
    split: dict[str, Any]
    parts: Mapping[str, dict[str, Any]]
    curves: Mapping[str, list[Row]]
    confusion: npt.NDArray[np.int64]

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Models in ladder order -> {"last": M, "best": M if there is one}; unknown names come last."""
        models = self.evaluate["models"]
        known = [name for name in LADDER if name in models]
        return {name: models[name] for name in (*known, *sorted(set(models) - set(known)))}

    @property
    def steps(self) -> list[str]:
        """Models that each add one thing to the one before, the headline model included; averages of an arm do not."""
        beside = {*SAME_RUN, *(name for name in self.models if name.endswith(AVERAGE))}
        return [name for name in self.models if name not in beside or name == self.headline_name]

    @property
    def headline_name(self) -> str:
        """Model of the headline number: 'teacher' of 'teacher_last'."""
        return str(self.evaluate["headline_model"]).rpartition("_")[0]

    @property
    def method_name(self) -> str:
        """Name of the semi-supervised method in the report."""
        return METHODS[self.params.semisup.method].title

    def title(self, name: str) -> str:
        """Return a model's name for people; a teacher, or a student without one, is what its method adds."""
        if name.endswith(AVERAGE):
            return f"{self.title(name.removesuffix(AVERAGE))}, its average"
        if name == ("teacher" if "teacher" in self.evaluate["models"] else "student"):
            return f"+ {self.method_name}"
        if name == "plain" and self.params.model.backbone != OWN_BACKBONE:  # which no masked autoencoder has trained
            return "+ weights taken over" if self.params.pretrain.init_from else "from scratch, another start"
        return f"{self.method_name}'s {name}" if name in ("student", "average") else LADDER.get(name, name)

    @property
    def budget(self) -> int:
        """Number of labels used: trained on plus held out to choose a checkpoint."""
        return int(self.split["labeled"]) + int(self.split["valid"])


def load_results(params: Params, folder: Path = Path("metrics")) -> Results:
    """Read the metrics folder.

    Raises:
        SsferError: a required file or key is missing, or the files contradict each other.
    """
    evaluate = _section(folder, "evaluate", (*EVALUATE_KEYS, "models"))
    split = _section(folder, "split", ("hash", "labeled", "valid", "unlabeled", "test", "per_class"))
    classes = tuple(evaluate["classes"])
    parts = {}
    for stage in ("generate", "align", "corpus", "pretrain", "finetune", "semisup", "robustness"):
        parts[stage] = read_metrics(stage, folder) if (folder / f"{stage}.json").exists() else {}
    names = ("pretrain", "finetune", "finetune_baselines", "semisup", "pseudo_labels")
    curves = {name: read_curve(folder / "curves" / f"{name}.csv") for name in names}
    curves["finetune"] += curves.pop("finetune_baselines")
    confusion = _read_confusion(folder / "confusion.csv", classes)
    if confusion.sum() != evaluate["test_images"]:
        raise SsferError(
            f"{folder}/confusion.csv has {confusion.sum()} rows, evaluate.json counts {evaluate['test_images']} "
            "test images; they are of different runs: run dvc repro evaluate"
        )
    return Results(params, classes, evaluate, split, parts, curves, confusion)


def read_curve(path: Path) -> list[Row]:
    """Read a curve as rows of floats, None for blanks, and text in text columns; [] without a file."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False)  # a class may be "null"
    numbers = table.columns.difference(list(TEXT_COLUMNS))
    table[numbers] = (
        table[numbers].apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    )
    return table.astype(object).where(table.notna(), None).to_dict("records")


def points(rows: Sequence[Row], column: str) -> tuple[list[float], list[float]]:
    """Return (epochs, values) of a column, without blanks."""
    pairs = [(r["epoch"], r[column]) for r in rows if r.get(column) is not None and r.get("epoch") is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def paper_numbers(params: Params) -> dict[str, float] | None:
    """Return the paper's accuracy (0..1) per ladder name for this data set and label share (SSFER, tables 2 and 10).

    None when the paper has no such data set; empty when it has no number for this label budget.
    """
    dataset, share = PAPER_DATASETS.get(str(params.data.classes)), printed_share(params)
    if dataset is None:
        return None
    if share is None:
        return {}
    # The method starts from the main arm of fine-tuning, so the paper's row to compare with depends on that arm.
    full = {"facemix": "+ FaceMix + EMA-Teacher", "none": "+ EMA-Teacher"}.get(params.finetune.facemix.mode, "")
    names = {("table10", "Baseline"): "plain", ("table10", "+ FaceMix"): "facemix"}
    if params.semisup.method == "ema_teacher":
        names["table10", full] = "teacher"
    if params.finetune.facemix.mode == "facemix":
        names |= {("table2", "SSFER"): "teacher"} if params.semisup.method == "ema_teacher" else {}
        names |= {("table12", "FixMatch"): "student"} if params.semisup.method == "fixmatch" else {}
    found = [p for p in printed() if p.dataset == dataset and p.setting == (("labels", share),)]
    keys = [(names.get((p.table, p.method)), p) for p in found]
    return {name: p.value / 100 for name, p in keys if name}


def printed_share(params: Params) -> str | None:
    """Return the share of labels as the paper writes it ("5%"); None for a split that its tables by share do not have.

    Its splits have a share of labels without noise, drawn once for all stages, and the official test part.
    """
    split = params.split
    if split.labeled_fraction is None or split.fold is not None or split.label_noise or split.redraw_for_semi:
        return None
    return f"{split.labeled_fraction * 100:g}%"


def _section(folder: Path, key: str, required: Sequence[str]) -> dict[str, Any]:
    section = read_metrics(key, folder)
    if missing := [name for name in required if name not in section]:
        raise SsferError(
            f"{folder / key}.json should hold the results of '{key}', but it lacks {', '.join(missing)}; "
            f"run dvc repro {key}"
        )
    return section


def _read_confusion(path: Path, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    if not path.exists():
        raise SsferError(f"{path} is missing; run dvc repro evaluate")
    pairs = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=["actual", "predicted"], fill_value="")
    wrong = sorted({*pairs["actual"], *pairs["predicted"]} - {*classes})
    if wrong:
        raise SsferError(f"{path} names classes that evaluate.json does not know: {wrong}; run dvc repro evaluate")
    found = pd.crosstab(pairs["actual"], pairs["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    return found.to_numpy(np.int64)
