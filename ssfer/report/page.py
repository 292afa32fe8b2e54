"""One self-contained HTML page about a run: inline pictures, no script, nothing loaded; equal runs give equal bytes."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssfer.config.components import chosen
from ssfer.config.schema import Params
from ssfer.core.images import data_uri
from ssfer.report import conclusions, gallery, plots
from ssfer.report.attack_page import robustness_pictures, robustness_section
from ssfer.report.figures import TITLES
from ssfer.report.html import environment
from ssfer.report.licensed import licensed
from ssfer.report.mistakes import mistakes
from ssfer.report.plots import Panel, Step
from ssfer.report.results import AVERAGE, LADDER, SAME_RUN, Results, load_results, paper_numbers, points
from ssfer.report.setting_rows import breakable, setting_rows
from ssfer.report.terms import Terms


def build_report(params: Params, metrics: Path = Path("metrics"), data: Path = Path("data")) -> str:
    """Return the page.

    Args:
        params: the run's configuration.
        metrics: folder with the stages' results; see `ssfer.report.results` for what is required.
        data: folder with faces, split and weights, read only if params.report.gallery is true.

    Raises:
        SsferError: a required result is missing or contradicts another one.
    """
    results = load_results(params, metrics)
    evaluate = results.evaluate
    science = {**params.model_dump(mode="json", exclude={"machine", "tracking"}), **chosen(params)}
    pictures = dict((*_pictures(results), *robustness_pictures(results, data)))
    shown = _gallery(results, metrics, data)
    context = {
        "contents": [],  # the sections that the template writes
        "term": Terms(),
        "title": params.report.title,
        "params": params,
        "results": results,
        "sentence": conclusions.headline_sentence(results),
        "findings": conclusions.find(results),
        "headline": evaluate["headline"],
        "headline_name": conclusions.model_name(results, results.headline_name),
        "ladder": list(_ladder(results)),
        "recall": _recall_rows(results),
        "recall_models": [(name, results.title(name)) for name in results.steps],
        "confusions": conclusions.top_confusions(results, 5),
        "pictures": {name: {"uri": data_uri(png, "png"), "width": _page_width(png)} for name, png in pictures.items()},
        "pseudo_labels": conclusions.pseudo_label_table(results),
        "robustness": robustness_section(results),
        "gallery": shown,
        "figures": _figures(pictures, shown),
        "sources": _sources(results),
        "paper": _paper(results),
        "settings": {name: setting_rows(value) for name, value in science.items()},
        "breakable": breakable,
    }
    return environment(autoescape=True).get_template("report.html.j2").render(context)


def _ladder(results: Results) -> Iterator[dict[str, Any]]:
    for name, variants in results.models.items():
        part = (
            results.parts["semisup"]
            if name in SAME_RUN
            else results.parts["finetune"].get(name.removesuffix(AVERAGE), {})
        )
        yield {
            "name": results.title(name),
            "headline": name == results.headline_name,
            "last": variants["last"],
            "best": variants.get("best"),
            "best_epoch": part.get("best_epoch"),
            "gain": conclusions.gain(results, name),
        }


def _recall_rows(results: Results) -> list[dict[str, Any]]:
    rows = []
    for name in results.classes:
        counts = results.split["per_class"].get(name, {})
        recalls = {model: results.models[model]["last"]["recall"].get(name) for model in results.steps}
        rows.append({"class": name, "counts": counts, "recall": recalls})
    return rows


def _pictures(results: Results) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) of every picture whose numbers exist."""
    evaluate, models = results.evaluate, results.models
    steps = []
    for name in results.steps:
        last, best = models[name]["last"], models[name].get("best")
        low, high = last["accuracy_ci95"]
        steps.append(Step(results.title(name), last["accuracy"], (low, high), best and best["accuracy"]))
    yield "ladder", plots.ladder_png(steps, evaluate["chance"], evaluate["majority_rate"])
    yield "confusion", plots.confusion_png(results.confusion, results.classes)
    judged = "teacher" if "teacher" in models else "student"
    pretrain, finetune, semisup = (results.curves[name] for name in ("pretrain", "finetune", "semisup"))
    arms = {row["arm"]: [r for r in finetune if r["arm"] == row["arm"]] for row in finetune}
    ordered = [*(arm for arm in LADDER if arm in arms), *sorted(arm for arm in arms if arm not in LADDER)]
    named = {LADDER.get(arm, arm): arms[arm] for arm in ordered}
    groups = {
        "pretrain": [Panel("MAE loss", {"loss": points(pretrain, "loss")})],
        "finetune": [
            Panel("Training loss", {name: points(rows, "loss") for name, rows in named.items()}),
            Panel("Validation accuracy", {n: points(rows, "val_accuracy") for n, rows in named.items()}, rate=True),
        ],
        "semisup": [
            Panel("Losses", {t: points(semisup, f"{t}_loss") for t in ("labeled", "unlabeled")}),
            Panel(
                "Pseudo-labels",
                {"share used": points(semisup, "util_ratio"), "right among those": points(semisup, "pseudo_acc")},
                rate=True,
            ),
            Panel("Validation accuracy", {judged: points(semisup, "val_accuracy")}, rate=True),
        ],
    }
    for name, panels in groups.items():
        drawn = [p for p in panels if any(x for x, _ in p.series.values())]
        if drawn:
            yield name, plots.curves_png(drawn)
    by_class = {name: [r for r in results.curves["pseudo_labels"] if r["class"] == name] for name in results.classes}
    panels = [
        Panel(name, {"share used": points(rows, "coverage"), "right among those": points(rows, "accuracy")}, rate=True)
        for name, rows in by_class.items()
        if rows
    ]
    if panels:
        yield "pseudo_labels", plots.small_multiples_png(panels)


def _page_width(png: bytes) -> int:
    """Return the width in CSS pixels at which a picture's text has the size of the page's text."""
    return round(int.from_bytes(png[16:20]) * plots.PAGE_SCALE)  # PNG header: width at byte 16, big-endian


def _figures(pictures: Container[str], shown: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Return (title, command that draws it, place on this page or None) of the paper's figures."""
    places = {
        "reconstructions": "reconstruction" if shown["reconstruction"] else None,
        "gradcam": "attack" if "robustness_faces" in pictures else None,
        "fgsm": "attack" if "robustness" in pictures else None,
    }
    return [(title, f"ssfer figure {name}", places.get(name)) for name, title in TITLES.items()]


def _gallery(results: Results, metrics: Path, data: Path) -> dict[str, Any]:
    params = results.params
    if not params.report.gallery:
        return {"shown": False, "reconstruction": None, "faces": {}, "mistakes": []}
    tested, everything = licensed(params), licensed(params, unlabeled=True)
    picture = data / "weights" / "pretrain" / "reconstruction.png"  # of faces of the corpus
    return {
        "shown": True,
        "reconstruction": None if everything else gallery.reconstruction(picture),
        "faces": {} if tested else gallery.sample_faces(params, data),
        "mistakes": mistakes(results, metrics, data),
        "licensed": everything,
        "tested_licensed": tested,
        "wrong": int(results.confusion.sum() - results.confusion.trace()),
    }


def _sources(results: Results) -> list[dict[str, Any]]:
    known = {source.name: source for source in results.params.data.sources}
    rows = []
    for name, counts in results.parts["align"].items():
        source = known.get(name)
        rows.append(
            {"name": name, "labeled": source.labeled if source else None, "kept": None, "landmark_flag": {}, **counts}
        )
        rows[-1]["corpus"] = results.parts["corpus"].get("kept_by_source", {}).get(name)
    return rows


def _paper(results: Results) -> dict[str, Any] | None:
    """Return the paper's numbers together with ours; None for data sets that the paper does not have."""
    numbers = paper_numbers(results.params)
    if numbers is None:
        return None
    ours = {name: results.models[name]["last"]["accuracy"] for name in numbers if name in results.models}
    rows = [(results.title(name), ours.get(name), numbers[name]) for name in LADDER if name in numbers]
    return {"rows": [{"name": name, "ours": mine, "paper": paper} for name, mine, paper in rows]}
