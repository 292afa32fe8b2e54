"""The report's section about stage robustness: this run's Table 7 with the paper's numbers, and two pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.evaluation.attack.masks import measured_regions
from ssfer.report.attack_pictures import accuracy_png
from ssfer.report.licensed import licensed
from ssfer.report.results import PAPER_DATASETS, Results, printed_share
from ssfer.tables.paper import printed

PAPER_THRESHOLD = 0.3


def robustness_section(results: Results) -> dict[str, Any] | None:
    """Return the rows of Table 7, one table per model; None if the stage did not run.

    A row has epsilon (text), and by region the accuracy 0..1 of this run and, for the teacher, the paper's or None.

    Raises:
        SsferError: the measurement is of another split than the other results.
    """
    section = results.parts.get("robustness") or {}
    if not section:
        return None
    if section["split"] != results.split["hash"]:
        raise SsferError(
            f"robustness.json is of split {section['split'][:12]}, the other results are of "
            f"{results.split['hash'][:12]}; run dvc repro robustness"
        )
    paper = paper_table7(results.params)
    models = []
    for name, measured in section["models"].items():
        attacked = measured_regions(measured)
        rows = [
            {
                "epsilon": epsilon,
                "ours": {region: measured[region][epsilon]["accuracy"] for region in attacked},
                "paper": {r: paper.get((r, float(epsilon))) if name == "teacher" else None for r in attacked},
            }
            for epsilon in measured[attacked[0]]
        ]
        has_paper = any(r["paper"]["focused"] for r in rows)
        shown = {"name": results.title(name), "rows": rows, "has_paper": has_paper, "regions": attacked}
        models.append({**shown, **{key: measured[key] for key in ("focused_share", "without_focus")}})
    return {**{key: section[key] for key in ("test_images", "space", "cam_threshold")}, "models": models}


def robustness_pictures(results: Results, data: Path = Path("data")) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG): "robustness", and "robustness_faces" if faces may be shown and the stage's picture is here."""
    section = results.parts.get("robustness") or {}
    if not section:
        return
    yield "robustness", accuracy_png(section["models"], section["chance"])
    faces = data / "reports" / "robustness" / f"faces_{next(iter(section['models']))}.png"
    shown = results.params.report.gallery and not licensed(results.params)
    if shown and faces.is_file():
        yield "robustness_faces", faces.read_bytes()


def paper_table7(params: Params) -> dict[tuple[str, float], float]:
    """Return (region, epsilon) -> the paper's accuracy 0..1; empty for other data, splits, training or thresholds."""
    dataset, share = PAPER_DATASETS.get(str(params.data.classes)), printed_share(params)
    ours = params.semisup.method == "ema_teacher"
    same = ours and params.finetune.facemix.mode == "facemix" and params.robustness.cam_threshold == PAPER_THRESHOLD
    if dataset is None or share is None or not same:
        return {}
    rows = [p for p in printed() if (p.table, p.dataset, p.method) == ("table7", dataset, f"SSFER-{share}")]
    settings = [dict(p.setting) for p in rows]
    return {(s["region"], float(s["eps"])): p.value / 100 for s, p in zip(settings, rows, strict=True)}
