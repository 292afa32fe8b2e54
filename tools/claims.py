"""The generated part of docs/explanation/what-holds.md: the paper's claims beside the committed records."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssfer.core.yaml import read_yaml
from ssfer.evaluation.metrics import wilson_interval
from ssfer.evaluation.paired import PairedSeeds, paired_seeds
from ssfer.formats.metrics import read_metrics
from ssfer.tables.catalogue import catalogue
from ssfer.tables.show import p_text
from tools.budgets import NAMES, RUNS, budgets
from tools.claim_records import Records

DATASETS = ("demo", "ferplus-vit")  # those with records of the paper's tables
SAME = "The same"  # of texts that compare other networks of the claim above
RATIOS = ("1%", "5%", "25%")
SIGNIFICANT = 0.05
UNCERTAIN = (  # of the rows that do not come from claims.yaml
    "- MAE pretraining: one seed each, far beyond the intervals. `ssfer experiments run table10 --row '+ FaceMix' "
    "--seeds 3 --set 'finetune.baselines=[scratch, plain]'` records both for three seeds.",
    "- Other label ratios: `ssfer experiments run table2 --labels 1% --labels 5% --labels 25% --seeds 3` runs them, on "
    "rendered faces or with `--dataset ferplus-vit`; `recipes` in place of `table2` with `--dataset ferplus-cpu`. With "
    "1 % of the labels the demo's fine-tuning has one step an epoch (`finetune.epochs_few_labels`: 200, paper: 1,000) "
    "and stays near chance.",
)
NETWORKS = ("student", "average")  # columns of table `methods`
HEAD = "| claim | data | without | with | gain, points | seeds | p | |\n|---|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, an entry of claims.yaml, whose head explains the keys."""

    text: str
    table: str
    first: str
    second: str
    why: Mapping[str, str] = field(default_factory=dict)
    note: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    datasets: tuple[str, ...] = DATASETS
    point: str = ""


# A claim, the data set, percent by seed without and with, their comparison, the number of test images.
Compared = tuple[Claim, str, Mapping[int, float], Mapping[int, float], PairedSeeds | None, int]
CLAIMS = tuple(Claim(**entry) for entry in read_yaml(Path(__file__).with_suffix(".yaml")))


def verdict(gain: PairedSeeds | None) -> str:
    """Return what a comparison over seeds says."""
    if gain is None:
        return "open"
    if gain.p_value is None or gain.p_value >= SIGNIFICANT:
        return "not shown"
    text = "holds" if gain.mean > 0 else "does not hold"
    return f"**{text}**" if len(gain.differences) > 2 else f"{text}, two seeds"


def one_seed(first: Sequence[float], second: Sequence[float]) -> str:
    """Return what two single runs say by their 95 % intervals (low, high)."""
    text = "holds" if second[0] > first[1] else "does not hold" if second[1] < first[0] else "not shown"
    return f"{text}, one seed"


def doubt(gain: PairedSeeds) -> str:
    """Return what the seeds of a gain that is not shown have in common; empty for others."""
    up, seeds = sum(one > 0 for one in gain.differences), len(gain.differences)
    if verdict(gain) != "not shown":
        return ""
    return "Every seed gains, but they are few." if up == seeds else f"{up} of {seeds} seeds gain."


def points(value: float) -> str:
    """Return a difference in points, with its sign."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def gain_text(gain: PairedSeeds | None) -> str:
    """Return a mean gain with its 95 % interval, in points."""
    if gain is None:
        return "–"
    low, high = (points(bound) for bound in gain.interval)
    return f"{points(gain.mean)} ({low} to {high})"


def claims_of(root: Path, page: str) -> str:
    """Return the generated part of the page, with empty lines around it.

    Args:
        page: docs/results/results.md, which tells what tables have figures.
    """
    with contextlib.chdir(root):
        records = {name: Records(name) for name in RUNS}
        compared = [(claim, name, *_compare(claim, records[name])) for claim in CLAIMS for name in claim.datasets]
        lines = [HEAD, *_first_steps(), *(_row(*one) for one in compared), *_ratios(records)]
        reasons = [*UNCERTAIN]
        whole = ""
        for claim, name, *_, gain, _ in compared:
            start = records[name].apart(claim.table, (claim.first, claim.second), claim.point)
            if not claim.text.startswith(SAME):
                whole = re.sub(r", (its )?average .*", "", claim.text)
            texts = [claim.note.get(name, ""), start]
            if gain and verdict(gain) != "**holds**" and name in claim.why:
                texts += [doubt(gain), claim.why[name]]
            if any(texts):
                reasons.append(f"- {claim.text.replace(SAME, whole)} ({NAMES[name]}): {' '.join(filter(None, texts))}")
        parts = [
            "\n".join(lines),
            "Likely reasons, and the experiment that would decide:",
            "\n".join(reasons),
            "### Against other methods",
            "EMA teacher minus each method of table `methods`, on rendered faces, like with like: student minus "
            "student, and average of the weights minus average.",
            _against_methods(records["demo"]),
            "### Budgets",
            budgets(root),
            "### Open",
            _open(page),
        ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _compare(claim: Claim, records: Records) -> tuple[dict[int, float], dict[int, float], PairedSeeds | None, int]:
    first = records.values(claim.table, claim.first, point=claim.point)
    second = records.values(claim.table, claim.second, claim.metric, point=claim.point)
    return first, second, paired_seeds(first, second), records.tests


def _row(
    claim: Claim,
    name: str,
    first: Mapping[int, float],
    second: Mapping[int, float],
    gain: PairedSeeds | None,
    tests: int,
) -> str:
    means = (f"{sum(v.values()) / len(v):.1f} %" if v else "–" for v in (first, second))
    cells = [gain_text(gain), str(len(gain.differences)) if gain else "–", p_text(gain.p_value if gain else None)]
    says = verdict(gain)
    if gain is None and (shared := first.keys() & second.keys()):
        one, two = (values[min(shared)] for values in (first, second))
        cells = [points(two - one), "1", "–"]
        says = one_seed(*(wilson_interval(round(share * tests / 100), tests) for share in (one, two)))
    return f"| {' | '.join([claim.text, NAMES[name], *means, *cells, says])} |"


def _first_steps() -> Iterator[str]:
    """Yield the rows of what only single runs have: pretraining, and the EMA teacher without pretraining."""
    for text, first, second, names in (
        ("MAE pretraining improves on training from scratch", "scratch", "plain", DATASETS),
        (
            "The EMA teacher's average improves on the plain network, without pretraining",
            "plain",
            "teacher",
            ("ferplus-night",),
        ),
    ):
        for name in names:
            models = read_metrics("evaluate", Path(RUNS[name]))["models"]
            one, two = (models[model]["last"] for model in (first, second))
            says = one_seed(one["accuracy_ci95"], two["accuracy_ci95"])
            gain = points(100 * (two["accuracy"] - one["accuracy"]))
            shares = (f"{100 * model['accuracy']:.1f} %" for model in (one, two))
            yield f"| {' | '.join([text, NAMES[name], *shares, gain, '1', '–', says])} |"


def _ratios(records: Mapping[str, Records]) -> Iterator[str]:
    """Yield a row per data set and other label ratio than 10 %; one row where none of them has figures."""
    paper = (("table10", "+ FaceMix", ""), ("table2", "SSFER", ""))
    recipes = (("recipes", "labels only (the start)", "accuracy"), ("recipes", "EMA teacher (SSFER)", "accuracy"))
    sources = [*((name, paper, "after FaceMix") for name in DATASETS), ("ferplus-cpu", recipes, "without pretraining")]
    for name, rows, way in sources:
        text = f"The EMA teacher's average improves on labels only, {way}, with {{}} of the labels"
        compared: list[Compared] = []
        for ratio in RATIOS:
            first, second = (records[name].values(table, row, None, ratio, point) for table, row, point in rows)
            claim = Claim(text.format(ratio.replace("%", " %")), "table2", "", "")
            compared.append((claim, name, first, second, paired_seeds(first, second), records[name].tests))
        known = [one for one in compared if one[3]]
        rest: Compared = (Claim(text.format("1, 5 and 25 %"), "table2", "", ""), name, {}, {}, None, 0)
        yield from (_row(*one) for one in known or [rest])


def _against_methods(records: Records) -> str:
    ours = "EMA teacher (SSFER)"
    lines = ["| method | students, points | p | averages, points | p | seeds |", "|---" * 6 + "|"]
    without, starts = [], list[str]()
    for row in records.study.catalogue.table("methods").rows:
        if row.startswith(("EMA teacher", "labels only")):
            continue
        apart = records.apart("methods", (row, ours), NETWORKS[0])
        gains = [paired_seeds(*(records.values("methods", name, point=p) for name in (row, ours))) for p in NETWORKS]
        cells = [text for gain in gains if gain for text in (gain_text(gain), p_text(gain.p_value))]
        if gains[0] is None:
            without.append(row)
        else:
            lines.append(f"| {' | '.join([row, *cells, str(len(gains[0].differences))])} |")
            starts += [f"{row}: {apart}"] if apart else []
    rest = f"Not compared, for want of two shared seeds: {', '.join(without)}." if without else ""
    table = "\n".join(lines) if len(lines) > 2 else ""  # more than its head
    return "\n\n".join(filter(None, [table, *starts, rest]))


def _open(page: str) -> str:
    """Return which of the paper's tables have no two rows to compare."""
    shown = set(re.findall(r"^\*\*Table (\d+):", page, re.MULTILINE))
    left = [name.removeprefix("table") for name in catalogue().tables if name.startswith("table")]
    numbers = ", ".join(number for number in left if number not in shown)
    return (
        f"Of the paper's tables, these have no two rows with figures yet: {numbers}. `ssfer experiments run tableN "
        "--seeds 3` runs one. Nothing has been run at the paper's size."
    )
