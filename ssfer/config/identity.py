"""What the result of a stage depends on: the one definition for DVC, snapshots, the records of tables and MLflow.

It has three parts: the settings that the stage reads, of chosen components only and with defaults filled in; the code
that it can reach, by `ssfer.core.source_code`; and files outside DVC. Stage `identify` writes it to
data/identity/<stage>.json, a dependency of the stage in dvc.yaml. Data that stages hand to each other are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssfer.config import components
from ssfer.config.components import Tree, dump
from ssfer.config.schema import Params, load_params
from ssfer.core.files import project_root, sha256_file, write_bytes, write_json
from ssfer.core.linked_files import linked_files
from ssfer.core.places import RAW
from ssfer.core.shipped import shipped
from ssfer.core.source_code import Names, code_of
from ssfer.core.yaml import flatten
from ssfer.datasets.base import SourceSettings
from ssfer.faces.detectors.registry import DETECTORS, detectors_of
from ssfer.faces.settings import CROP_SETTINGS
from ssfer.rendered.settings import SYNTHETIC

FOLDER = Path("data/identity")
# Modules that cannot change a result. Settings count by their values, so the classes that check them do not.
NEUTRAL = (
    "ssfer.config",
    "ssfer.core.cluster",
    "ssfer.core.cluster_node",
    "ssfer.core.cluster_start",
    "ssfer.core.errors",
    "ssfer.core.failures",
    "ssfer.core.files",
    "ssfer.core.own_code",
    "ssfer.core.process",
    "ssfer.core.process_pool",
    "ssfer.core.progress",
    "ssfer.core.provenance",
    "ssfer.core.registry",
    "ssfer.core.shared_bytes",
    "ssfer.core.source_code",
    "ssfer.core.stage_times",
    "ssfer.core.workers",
    "ssfer.evaluation.flops",
    "ssfer.evaluation.probe",
    "ssfer.formats.metrics",
    "ssfer.stages.watch",
    "ssfer.tracking",
    "ssfer.train.compute",
    "ssfer.train.failures",
    "ssfer.train.speed",
)
# Keys of a source by what they decide: which of its faces enter the corpus; where it lies and whether it is complete;
# its crops. The others of a labeled source decide its labels (`label_rule`).
_CORPUS = ("corpus", "corpus_max", "corpus_max_per_identity")
_IMPORT_CAPS = ("import_max", "import_max_per_identity")
_PLACES = ("path", "counts", "optional")
_CROPS = (*(key for key in SourceSettings.model_fields if key not in _PLACES), "images")
# Pages that a stage fills in.
_TEMPLATES = {"corpus": ("corpus.html",), "report": ("head.html", "report.html", "model_card.md")}
_PACKAGE = Path(__file__).resolve().parents[1]


def identity(stage: str, params: Params) -> Tree:
    """Return what a stage's result depends on.

    Returns:
        "settings" (dotted key -> value), "code" (module -> hash) and "files" (path -> sha256); for stage align also
        "linked", a hash of what links in the raw data lead to (null without links).
    """
    names = Names()
    linked = {"linked": linked_files(project_root() / RAW / params.data.raw)} if stage == "align" else {}
    return {
        **linked,
        "settings": settings(stage, params),
        "code": code_of([f"stages.{stage}", *components.modules(stage, params)], _neutral()),
        "files": {names.of(path, _name(path)): sha256_file(path) for path in _files(stage, params) if path.is_file()},
    }


@contextmanager
def refreshed(stage: str) -> Iterator[None]:
    """Write data/identity/<stage>.json around a stage that is run by hand, so that `dvc commit` records it with that.

    If the stage fails, the file is put back.

    Raises:
        SsferError: see `load_params`; outside of a project nothing is written.
    """
    params, path = load_params(), FOLDER / f"{stage}.json"
    if stage not in STAGES:
        yield
        return
    before = path.read_bytes() if path.exists() else None
    write_json(path, identity(stage, params))
    try:
        yield
    except BaseException:
        if before is not None:
            write_bytes(path, before)
        raise


def settings(stage: str, params: Params) -> Tree:
    """Return the settings that decide a stage's result, by dotted key, as JSON has them."""
    return dict(flatten(_SETTINGS[stage](params)))


def science(params: Params, every_method: bool = False) -> Tree:
    """Return every setting that can change a number of an experiment, by dotted key, as JSON has them.

    Of section `data`, only what decides the crops and the corpus is included. What decides the labels is in
    `label_rule`: runs that differ there must not be compared at all. `generate` is included if its faces are used.

    Args:
        every_method: also include the settings of methods that are not chosen, for comparisons.
    """
    chosen = components.chosen(params)
    raw = params.model_dump(mode="json", exclude={"machine", "tracking", "report", "data", *chosen})
    raw["semisup"] = components.semisup_settings(params)
    if params.data.raw != SYNTHETIC:
        del raw["generate"]
    if every_method:
        chosen["methods"] = {name: dump(section) for name, section in params.methods.items()}
    return {
        **dict(flatten({**raw, **chosen})),
        "data.sources": _sources(params, include=_CROPS),
    }


def label_rule(params: Params) -> Tree:
    """Return what decides which class a labeled image has: class set, and per labeled source the keys of its own."""
    exclude = {*_CROPS, *_PLACES} - {"kind"}
    sources = {s.name: s.model_dump(mode="json", exclude=exclude) for s in params.data.sources if s.labeled}
    return {"class_set": params.data.classes, **dict(flatten(sources))}


def _sources(params: Params, **only: Any) -> list[Tree]:
    only = {key: set(value) for key, value in only.items()}
    dumped = [dump(source, **only) for source in params.data.sources]
    return [{k: v for k, v in tree.items() if v is not None or k not in _IMPORT_CAPS} for tree in dumped]


def _near(params: Params) -> Tree:
    return dump(params.corpus, include={"near_duplicate_bits", "near_duplicate_correlation"})


def _align(p: Params) -> Tree:
    return {
        "align": dump(p.align),
        **components.detectors(p),
        "data": {"raw": p.data.raw, "sources": _sources(p, exclude=("labeled", *_CORPUS, "counts", "optional"))},
    }


def _corpus(p: Params) -> Tree:
    return {
        "corpus": dump(p.corpus),
        "align": {"shard_size": p.align.shard_size},
        "data": {"sources": _sources(p, include=("name", *_CORPUS))},
    }


def _split(p: Params) -> Tree:
    return {
        "split": dump(p.split),
        "corpus": _near(p),
        "data": {"classes": p.data.classes, "sources": _sources(p, include=("name", "labeled", "corpus"))},
    }


def _finetune(p: Params) -> Tree:
    own = {
        "model": dump(p.model),
        "finetune": dump(p.finetune),
        **components.augmentations(p, "finetune"),
    }
    return {**own, "align": dump(p.align), **components.detectors(p)} if components.detects_in_finetune(p) else own


def _semisup(p: Params) -> Tree:
    own = {
        "model": dump(p.model),
        "semisup": components.semisup_settings(p),
        "methods": components.methods(p),
        **components.augmentations(p, "semisup"),
        "finetune": {"facemix": {"mode": p.finetune.facemix.mode}},
    }
    return {**own, "corpus": _near(p)} if p.semisup.extra.faces else own


def _evaluate(p: Params) -> Tree:
    return {
        "align": dump(p.align, include=set(CROP_SETTINGS)),  # they go into the model's file
        **components.detectors(p),
        "model": dump(p.model),
        "evaluate": dump(p.evaluate),
        "metrics": components.metrics(p),
        "finetune": {"baselines": list(p.finetune.baselines), "facemix": {"mode": p.finetune.facemix.mode}},
        "semisup": {key: components.semisup_settings(p)[key] for key in ("method", "average")},
    }


_SETTINGS: Mapping[str, Callable[[Params], Tree]] = {
    "generate": lambda p: {"generate": dump(p.generate)} | ({} if p.data.raw == SYNTHETIC else {"rendered": False}),
    "align": _align,
    "corpus": _corpus,
    "split": _split,
    "pretrain": lambda p: {"model": dump(p.model), "pretrain": dump(p.pretrain)},
    "finetune": _finetune,
    "semisup": _semisup,
    "evaluate": _evaluate,
    "robustness": lambda p: dump(p, include={"model": True, "robustness": True, "report": {"gallery"}}),
    "report": lambda p: {**dump(p, exclude={"machine", "tracking"}), **components.chosen(p)},
}
STAGES = tuple(_SETTINGS)


def _files(stage: str, p: Params) -> list[Path]:
    """Return files outside DVC whose content decides the result."""
    if stage == "align" or (stage == "finetune" and components.detects_in_finetune(p)):
        return [f for n in detectors_of(p.align) for f in DETECTORS[n].files(DETECTORS.settings(n, p.detectors))]
    found = [_PACKAGE / f"report/templates/{name}.j2" for name in _TEMPLATES.get(stage, ())]
    texts = [_PACKAGE / "tables/paper_tables.csv", shipped("docs/reference/glossary.md")]
    return [*found, *texts] if stage == "report" else found


def _name(path: Path) -> str:
    """Return a file's name in an identity: relative to the package, else its last part; folders carry user names."""
    return path.relative_to(_PACKAGE).as_posix() if path.is_relative_to(_PACKAGE) else path.name


def _neutral() -> tuple[str, ...]:
    """Return the modules that do not count, the classes of settings included."""
    found = sorted(path.relative_to(_PACKAGE.parent).with_suffix("") for path in _PACKAGE.rglob("settings.py"))
    return (*NEUTRAL, *(".".join(path.parts) for path in found))
