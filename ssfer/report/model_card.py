"""MODEL_CARD.md, made from the run's own numbers: intended use, training data, accuracy and limits of the model.

The same run gives the same text: it has no date, time or commit; git and MLflow have these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import SOURCES
from ssfer.datasets.settings import DataSettings
from ssfer.formats.weights import load_weights
from ssfer.models.classifier import KINDS
from ssfer.report import conclusions
from ssfer.report.html import environment
from ssfer.report.results import Results, load_results

# A licensed data set may also be imported as class folders or a table; the class set then tells which one it is.
_KIND_OF_CLASS_SET = {
    "rafdb": "rafdb",
    "ferplus": "ferplus",
    "ferplus7": "ferplus",
    "affectnet7": "affectnet",
    "affectnet8": "affectnet",
    "adience_age": "adience",
    "adience_gender": "adience",
}


def build_model_card(params: Params, metrics: Path = Path("metrics"), weights: Path = Path("data/weights")) -> str:
    """Return the card as Markdown.

    Raises:
        SsferError: a required result or the headline model's weights are missing.
    """
    results = load_results(params, metrics)
    folder = weights / ("finetune" if "trained_nothing" in results.evaluate else "semisup")
    headline = folder / f"{results.evaluate['headline_model']}.safetensors"
    state, meta = load_weights(headline, KINDS)
    if tuple(meta["classes"]) != results.classes:
        raise SsferError(
            f"{headline} knows the classes {', '.join(meta['classes'])}, evaluate.json {', '.join(results.classes)}; "
            "they are of different runs: run dvc repro"
        )
    files = [
        {"name": path.name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.glob("*.safetensors" if folder.name == "semisup" else headline.name))
    ]
    context = {
        "params": params,
        "results": results,
        "sentence": conclusions.headline_sentence(results),
        "findings": conclusions.find(results),
        "headline_name": conclusions.model_name(results, results.headline_name),
        "headline_file": headline.name,
        "meta": meta,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "files": files,
        "files_folder": folder.name,
        "rows": list(_rows(results)),
        "terms": list(_terms(params.data, bool(params.semisup.extra.faces), results.parts["corpus"].get("absent", ()))),
        "rendered_only": all(source.kind == "rendered" for source in params.data.sources),
    }
    return environment(autoescape=False).get_template("model_card.md.j2").render(context)


def _rows(results: Results) -> Iterable[dict[str, Any]]:
    for name, variants in results.models.items():
        for when, text in (("last", "last epoch"), ("best", "validation-selected")):
            if variants.get(when):
                yield {"name": results.title(name), "when": text, **variants[when]}


def _terms(data: DataSettings, extra_faces: bool, absent: Collection[str]) -> Iterable[dict[str, str]]:
    for source in data.sources:
        if source.name in absent:
            continue
        role = "labeled" if source.labeled else "unlabeled" if extra_faces else "unlabeled, pretraining only"
        yield {"name": source.name, "role": role, "terms": SOURCES[kind_of(source, data)].terms}


def kind_of(source: SourceSettings, data: DataSettings) -> str:
    """Return the kind of data set that a source is, whose terms hold."""
    unnamed = source.labeled and source.kind in ("class_folders", "csv")
    return _KIND_OF_CLASS_SET.get(str(data.classes), source.kind) if unnamed else source.kind
