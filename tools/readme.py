"""Write what the docs say of results from metrics/: the demo, kept profiles, experiments' records.

These are README.md's table, docs/results/results.md and two parts of docs/explanation/what-holds.md.

python -m tools.readme            write all three
python -m tools.readme --keep ferplus-cpu   first copy metrics/*.json of this run to metrics/profiles/ferplus-cpu
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from ssfer.formats.metrics import read_metrics
from tools.attack import attack_of
from tools.care import care_of
from tools.claims import claims_of
from tools.tables import experiments

ROOT = Path(__file__).resolve().parents[1]
HOLDS = Path("docs/explanation/what-holds.md")
STEPS = {
    "scratch": "from scratch",
    "plain": "+ MAE pretraining",
    "facemix": "+ FaceMix",
    "teacher": "**+ EMA teacher**",
    "student": "(the teacher's student)",
    "average": "(the student's running average)",
}
PAGE = """# Every table that was run

Written by `make table` from `metrics/`; a test compares them. [What holds](../explanation/what-holds.md) reads them.
The shipped model's results (table `shipped`) are in `models/README.md`.

## Runs, step by step

Each step starts from the one above it, with the same labels and the same test images. In brackets: 95 % Wilson
intervals. "Selected" is the epoch that is best on a validation part held out of the labels.
"""
TABLES = """## Tables

From the records in `metrics/experiments/`, which hold each run's settings, commit, split and test images; rows that
were not run are left out. `ssfer experiments run TABLE --dataset NAME` makes the records. "rendered faces" is the demo;
± is the sample standard deviation over seeds. "Gain" is the mean difference to the row in its head, in
points, with the 95 % interval and p of a paired t-test over the seeds that both rows have
([the tests](../howto/experiments.md#the-tests)). A row of one seed says little: even rounding moves one by up to three
points.

Tables of methods have two columns: the student, and an average of its weights, which is the method's own teacher or
that of `semisup.average`. "Labels only" is the fine-tuned network and an average of its weights. On rendered faces,
rows of `methods` with one seed come from another pretraining with the same settings, on another kind of CPU, than
rows with three: differences of up to three points between the two may be theirs. Table 12 gives FixMatch the EMA
teacher's settings, `methods` gives it its own. Missing methods and missing seeds were not yet run with the demo's
present sizes (CHANGELOG.md). "Class-wise thresholds" by today's rule in table `beyond` of `ferplus-vit` were not run
yet.
"""
KEPT = ("align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate")


def table(metrics: Path, title: str) -> str:
    """Return the Markdown block of one run."""
    evaluate, split = read_metrics("evaluate", metrics), read_metrics("split", metrics)
    labels = split["labeled"] + split["valid"]
    lines = [
        f"**{title}**: {len(evaluate['classes'])} classes, {labels:,} labels ({split['valid']:,} of them held out for "
        f"selection), {evaluate['test_images']:,} test faces; chance {_percent(evaluate['chance'])}, always "
        f"*{evaluate['majority_class']}* {_percent(evaluate['majority_rate'])}.",
        "",
        "| step | accuracy, last epoch | selected | mean recall | macro-F1 | ECE |",
        "|---|---|---|---|---|---|",
    ]
    models = tested(evaluate, metrics)
    lines += [_row(text, models[name]) for name, text in STEPS.items() if name in models]
    return "\n".join(lines) + "\n"


def _row(text: str, model: dict[str, Any]) -> str:
    last, best = model["last"], model.get("best")
    low, high = last["accuracy_ci95"]
    return (
        f"| {text} | {_percent(last['accuracy'])} ({100 * low:.1f}–{100 * high:.1f}) | "
        f"{_percent(best['accuracy']) if best else '–'} | {_percent(last['mean_recall'])} | "
        f"{_percent(last['macro_f1'])} | {last['ece']:.3f} |"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def runs(root: Path) -> dict[str, Path]:
    """Return title -> folder of metrics: the committed demo, then the kept profiles that have all stages.

    Of the shipped model only the test is kept; models/README.md has its results.
    """
    kept = [path.parent for path in sorted((root / "metrics/profiles").glob("*/split.json"))]
    return {"Rendered faces (`make repro`)": root / "metrics"} | {f"Profile `{path.name}`": path for path in kept}


def tested(evaluate: dict[str, Any], metrics: Path) -> dict[str, Any]:
    """Return step -> metrics; fine-tuning without pretraining is the step "scratch", under any name."""
    models = dict(evaluate["models"])
    if (metrics / "pretrain.json").exists() and not read_metrics("pretrain", metrics)["epochs"] and "plain" in models:
        models["scratch"] = models.pop("plain")
    return models


def summary(root: Path) -> str:
    """Return README's table: accuracy after each step, one row per run."""
    lines = [
        "| accuracy | from scratch | + MAE | + FaceMix | + EMA teacher | mean recall |",
        "|---|---|---|---|---|---|",
    ]
    for title, folder in runs(root).items():
        evaluate, split = read_metrics("evaluate", folder), read_metrics("split", folder)
        models, labels = tested(evaluate, folder), split["labeled"] + split["valid"]
        steps = [_percent(models[name]["last"]["accuracy"]) if name in models else "–" for name in STEPS][:4]
        what = f"{title}: {len(evaluate['classes'])} classes, {labels:,} labels"
        lines.append(f"| {' | '.join([what, *steps, _percent(evaluate['headline']['mean_recall'])])} |")
    return "\n".join(lines) + "\n"


def page(root: Path) -> str:
    """Return docs/results/results.md: all runs, the demo's attack and all of `experiments`."""
    blocks = [table(folder, title) for title, folder in runs(root).items()]
    attack = filter(None, [attack_of(root / "metrics")])
    return "\n".join([PAGE, *blocks, *attack, TABLES, *experiments(root)])


def what_holds(document: str, root: Path, tables: str) -> str:
    """Return docs/explanation/what-holds.md with both of its generated parts; `tables` is docs/results/results.md."""
    return insert(insert(document, claims_of(root, tables), "claims"), care_of(root), "care")


def insert(document: str, text: str, name: str = "results") -> str:
    """Return a document with `text` between the markers of this name."""
    start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
    head, rest = document.split(start)
    return head + start + text + end + rest.split(end)[1]


def main() -> None:
    """See the module docstring."""
    if sys.argv[1:2] == ["--keep"]:
        target = ROOT / "metrics/profiles" / sys.argv[2]
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(ROOT / f"metrics/{name}.json", target)
    readme = ROOT / "README.md"
    readme.write_text(insert(readme.read_text(), summary(ROOT)))
    tables = page(ROOT)
    (ROOT / "docs/results/results.md").write_text(tables)
    holds = ROOT / HOLDS
    holds.write_text(what_holds(holds.read_text(), ROOT, tables))


if __name__ == "__main__":
    main()
