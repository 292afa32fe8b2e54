"""The list "Read with care" of docs/explanation/what-holds.md: tools/care.md.j2 with the figures of the records."""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ssfer.config.profiles import resolve
from ssfer.evaluation.paired import paired_seeds
from ssfer.formats.metrics import read_metrics
from ssfer.tables.paper import printed
from tools.budgets import RUNS
from tools.claim_records import Records
from tools.claims import DATASETS, gain_text, points

TEMPLATE = Path(__file__).with_suffix(".md.j2")
START = "labels only (the start)"
TESTED = "student"  # the column of table `methods`; averages of labels only are not of every data set
GAINS = ("EMA teacher (SSFER)", "LEAF", "SIT-FER")  # of table `methods`


def care_of(root: Path) -> str:
    """Return the list, with empty lines around it."""
    with contextlib.chdir(root):
        records = {name: Records(name) for name in DATASETS}
        demo = resolve([])[1]
        adjusted, plain = rare_classes(records["ferplus-vit"])
        figures = {
            "paper": paper_accuracy(),
            "adjusted": adjusted,
            "plain": plain,
            "cpu": {
                "params": resolve(["ferplus-cpu"])[1],
                "seeds": over_seeds(Records("ferplus-cpu")),
                **cpu_run(Path(RUNS["ferplus-cpu"])),
            },
            "night": cpu_run(Path(RUNS["ferplus-night"])),
            "demo": demo,
            "gains": list(gains(records["ferplus-vit"])),
            "spread": largest_spread(records["demo"], records["ferplus-vit"]),
            "repeated": same_seed(records["demo"], demo.finetune.seed),
            "apart": kinds_of_cpu(records["demo"]),
        }
    pages = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f} %"
    text = pages.from_string(TEMPLATE.read_text()).render(figures).strip()
    return "\n" + re.sub(r"\s*\n\s*(?!- )(?=\S)", " ", text) + "\n\n"  # a line per item


def paper_accuracy() -> float:
    """Return SSFER's printed accuracy (0..1) on FERPlus with 10 % of the labels."""
    wanted = ("table2", "FERPlus", "SSFER", (("labels", "10%"),))
    (found,) = (n.value for n in printed() if (n.table, n.dataset, n.method, n.setting) == wanted)
    return found / 100


def rare_classes(records: Records) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return means over the seeds that the method has with and without logit adjustment; None without a shared seed."""
    rows = ("logit adjustment", "SSFER")
    values = [records.values("beyond", row, point=point) for row in rows for point in ("accuracy", "mean recall")]
    seeds = sorted(set.intersection(*map(set, values)))
    if not seeds:
        return None, None
    means = [sum(found[seed] for seed in seeds) / len(seeds) / 100 for found in values]
    counted = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    first, second = ({"accuracy": means[i], "recall": means[i + 1], "seeds": counted} for i in (0, 2))
    return first, second


def cpu_run(folder: Path) -> dict[str, Any]:
    """Return figures of a kept run: its models, the size of the validation part, and the two rarest classes."""
    models, split = read_metrics("evaluate", folder)["models"], read_metrics("split", folder)
    last = {name: model["last"] for name, model in models.items()}
    counts: Mapping[str, Mapping[str, int]] = split["per_class"]
    rare = sorted(counts, key=lambda name: counts[name]["labeled"])[:2]
    found = [{"name": name, **counts[name], "recall": last["teacher"]["recall"][name]} for name in rare]
    return {"models": last, "valid": split["valid"], "rare": found}


def over_seeds(records: Records) -> dict[str, Any]:
    """Return mean and sample standard deviation of the teacher's accuracy and mean recall, as text; needs two seeds."""
    values = [list(records.values("recipes", GAINS[0], point=p).values()) for p in ("accuracy", "mean recall")]
    accuracy, recall = (f"{statistics.mean(v):.1f} % (± {statistics.stdev(v):.1f})" for v in values)
    return {"count": len(values[0]), "accuracy": accuracy, "recall": recall}


def gains(records: Records) -> Iterator[dict[str, str]]:
    """Yield methods with their mean gain over labels only and its interval, in points."""
    start = records.values("methods", START, point=TESTED)
    for name in GAINS:
        values = records.values("methods", name, point=TESTED)
        gain, shared = paired_seeds(start, values), sorted(start.keys() & values.keys())
        if shared:
            text = gain_text(gain) if gain else f"{points(values[shared[0]] - start[shared[0]])}, one seed"
            yield {"name": name.partition(" (")[0], "text": text}


def largest_spread(*data: Records) -> float:
    """Return the largest sample standard deviation over seeds of a row of table 10, in points."""
    found = [r.values("table10", row) for r in data for row in r.study.catalogue.table("table10").rows]
    return max(statistics.stdev(values.values()) for values in found if len(values) > 1)


def kinds_of_cpu(records: Records) -> float | None:
    """Return by how many points at most a fine-tuned network differs between the CPUs of tables 10 and `methods`."""
    one, two = records.values("table10", "+ FaceMix"), records.values("methods", START, point="student")
    return max((abs(one[seed] - two[seed]) for seed in one.keys() & two.keys()), default=None)


def same_seed(records: Records, seed: int) -> dict[str, float] | None:
    """Return accuracies (0..1) of the demo's student and of its record of this seed; None if the splits differ."""
    run = Path(RUNS["demo"])
    value = records.values("methods", GAINS[0], point="student").get(seed)
    alike = [record for record in records.reader.records if (record.seed, record.labels) == (seed, "10%")]
    splits = {record.split["hash"] for record in alike}
    if value is None or splits != {read_metrics("split", run)["hash"]}:
        return None
    return {"run": read_metrics("evaluate", run)["models"]["student"]["last"]["accuracy"], "record": value / 100}
