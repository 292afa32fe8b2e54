"""Write README.md's results table from metrics/ (the demo) and metrics/profiles/<name>/ (kept runs of profiles).

python tools/readme.py            write the table
python tools/readme.py --keep ferplus-cpu   first copy metrics/*.json of this run to metrics/profiles/ferplus-cpu
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- results:start -->\n", "<!-- results:end -->"
STEPS = {
    "scratch": "from scratch",
    "plain": "+ MAE pretraining",
    "facemix": "+ FaceMix",
    "teacher": "**+ EMA teacher**",
    "student": "(the teacher's student)",
}
KEPT = ("align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate")


def table(metrics: Path, title: str) -> str:
    """Return the Markdown block of one run."""
    evaluate = json.loads((metrics / "evaluate.json").read_text())["evaluate"]
    split = json.loads((metrics / "split.json").read_text())["split"]
    labels = split["labeled"] + split["valid"]
    lines = [
        f"**{title}**: {len(evaluate['classes'])} classes, {labels:,} labels ({split['valid']:,} of them held out for "
        f"selection), {evaluate['test_images']:,} test faces; chance {_percent(evaluate['chance'])}, always "
        f"*{evaluate['majority_class']}* {_percent(evaluate['majority_rate'])}.",
        "",
        "| step | accuracy, last epoch | selected | mean class recall | macro-F1 | ECE |",
        "|---|---|---|---|---|---|",
    ]
    for name, text in STEPS.items():
        if name in evaluate["models"]:
            lines.append(_row(text, evaluate["models"][name]))
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


def results(root: Path) -> str:
    """Return all blocks: the committed demo, then the kept profiles."""
    blocks = [table(root / "metrics", "Rendered faces (demo, `make repro`)")]
    for folder in sorted((root / "metrics/profiles").glob("*/")):
        blocks.append(table(folder, f"Profile `{folder.name}` (`make profile PROFILE={folder.name}`)"))
    return "\n".join(blocks)


def insert(readme: str, text: str) -> str:
    """Return the README with `text` between the markers."""
    head, rest = readme.split(START)
    return head + START + text + END + rest.split(END)[1]


def main() -> None:
    """See the module docstring."""
    if sys.argv[1:2] == ["--keep"]:
        target = ROOT / "metrics/profiles" / sys.argv[2]
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(ROOT / f"metrics/{name}.json", target)
    readme = ROOT / "README.md"
    readme.write_text(insert(readme.read_text(), results(ROOT)))


if __name__ == "__main__":
    main()
