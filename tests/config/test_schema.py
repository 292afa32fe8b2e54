"""params.yaml and its typed view: shipped values parse, mistakes are named, no knob is dead."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ssfer.config.schema import Params, load_params, parse_params, read_params_file
from ssfer.core.errors import SsferError
from ssfer.core.settings import Section
from ssfer.data.augmentations.registry import AUGMENTATIONS
from tests.support.factory import shipped_params


@pytest.fixture
def raw() -> dict[str, Any]:
    return shipped_params()


def put(raw: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    *parents, last = dotted.split(".")
    node: Any = changed
    for key in parents:
        node = node[int(key)] if key.isdigit() else node[key]
    node[last] = value
    return changed


def test_shipped_params_parse(root: Path) -> None:
    params = load_params(root / "params.yaml")
    assert params.data.raw == "synthetic"
    assert params.model.img_size % params.model.patch_size == 0


def test_params_are_immutable(root: Path) -> None:
    params = load_params(root / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.split.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("splitt", "did you mean 'split'"),
        ("split.lable_fraction", "unknown key 'split.lable_fraction'; did you mean 'labeled_fraction'"),
        ("finetune.facemix.mod", "unknown key 'finetune.facemix.mod'; did you mean 'mode'"),
        ("methods.ema_teacher.treshold", "unknown key 'methods.ema_teacher.treshold'; did you mean 'threshold'"),
        ("data.sources.0.allign", "unknown key 'data.sources.0.allign'; did you mean 'align'"),
        ("model.zzz", "unknown key 'model.zzz'; known are backbone, img_size"),
    ],
)
def test_misspelled_key_is_refused_and_the_nearest_named(raw: dict[str, Any], key: str, hint: str) -> None:
    with pytest.raises(SsferError, match=re.escape(hint)):
        parse_params(put(raw, key, 1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("split.labeled_fraction", 0, "split.labeled_fraction.*greater than 0"),
        ("split.labeled_fraction", 1.5, "split.labeled_fraction.*less than or equal to 1"),
        ("split.labeled_total", 100, "exactly one of labeled_fraction"),
        ("align.border", "sometimes", "align.border.*'never', 'edge' or 'always'"),
        ("align.outside", "white", "align.outside.*'black', 'reflect' or 'blur'"),
        ("align.second_detector", "mtcnn", "second_detector must be another than detector, which is mtcnn"),
        ("align.second_detector", "retina", "unknown detector 'retina'; did you mean 'retinaface'"),
        ("pretrain.mask_ratio", 1, "pretrain.mask_ratio"),
        ("pretrain.lr", "fast", "pretrain.lr.*found 'fast'"),
        ("pretrain.epochs", 2.5, "pretrain.epochs"),
        ("finetune.batch_size", 7, "finetune.batch_size.*multiple of 2"),
        ("finetune.facemix.variant", "L5", "finetune.facemix.variant"),
        ("pretrain.epochs", 0, "epochs: 0 takes weights over as they are, so it needs init_from"),
        ("model.backbone", "", "model.backbone"),
        (
            "model.backbone",
            "resnet81",
            "unknown backbone 'resnet81'; did you mean resnet18 or .* \\(known: vit, ",
        ),
        ("model.backbone", "resnet18", "pretrain.epochs must be 0 with model.backbone resnet18, found 30; the masked"),
        ("model.patch_size", 5, "not a multiple of patch_size 5"),
        ("model.num_heads", 7, "multiple of num_heads 7"),
        ("model.std", [0.2, 0.0, 0.2], "std in 0..1 and be positive"),
        ("model.mean", [58, 45, 40], r"mean must lie in 0\.\.1 .*divided by 255"),
        ("model.std", [57.0, 51.0, 50.0], r"std in 0\.\.1"),
        ("pretrain.warmup_epochs", 31, "warmup_epochs 31 must not be more than the 30 epochs"),
        ("finetune.lr_min", 0.01, "lr_max 0.001 must be at least lr_min 0.01"),
        ("finetune.lr_warm", 0.01, "lr_max 0.001 must be at least .* lr_warm 0.01"),
        *(("semisup.randaugment", bad, "semisup.randaugment") for bad in ("rand", "rand-xyz", "rand-m9-x3", "m9")),
        ("model.mean", [0.5, 0.5], "model.mean"),
        ("data.classes", "rafbd", "did you mean 'rafdb'"),
        (
            "data.classes",
            [1, 2],
            "'data.classes': expected class names, found 1, which is no text .* in quotation marks",
        ),
        ("data.classes", 3, "'data.classes': expected a list of class names, a benchmark's name or auto, found 3$"),
        ("data.classes", ["happiness"], r"'data.classes': expected at least two class names, found \['happiness'\]$"),
        ("data.sources", [], "data.sources"),
        (
            "data.sources.0.kind",
            "ferplsu",
            "'data.sources.0.kind': unknown kind of data set 'ferplsu'; did you mean 'ferplus'",
        ),
        ("machine.device", "gpu", "machine.device"),
    ],
)
def test_value_out_of_range_is_refused_and_named(raw: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        parse_params(put(raw, key, value))


@pytest.mark.parametrize("key", ["report", "data.classes", "data.sources.1.kind"])
def test_missing_key_is_named(raw: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    del node[last]
    with pytest.raises(SsferError, match=f"key '{re.escape(key)}' is missing"):
        parse_params(raw)


def test_two_sources_of_one_name_are_refused(raw: dict[str, Any]) -> None:
    twice = put(raw, "data.sources.1.name", raw["data"]["sources"][0]["name"])
    with pytest.raises(SsferError, match="source names must differ"):
        parse_params(twice)


def test_exponent_floats_are_numbers(root: Path, tmp_path: Path) -> None:
    """DVC's YAML reader takes 1e-3 as a number, other readers as text."""
    text, n = re.subn(r"(?m)^(pretrain:(?:.*\n)+?  lr: )\S+", r"\g<1>1e-3", (root / "params.yaml").read_text(), count=1)
    assert n == 1
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert load_params(path).pretrain.lr == pytest.approx(0.001, rel=1e-12)


def test_missing_and_broken_files_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="is missing; run this in the project's root"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("data: [1, 2\n")
    with pytest.raises(SsferError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed"),
        ("a: 1\nb:\n\tc: 1\n", "line 3, column 1: .*; a tab indents this line, so replace it by spaces"),
        ("a: 1\nb: 'x\nc: 1\n", "line 2, column 4: while scanning .*; close what begins there"),
        (
            "a: 1\nb:\n  c: 1\n  c: 2\n",
            "(key 'c' stands twice in the section that begins in line 3|line 4, column 3: .*)",
        ),
    ],
)
@pytest.mark.parametrize("keep_comments", [False, True])
def test_a_mistake_in_yaml_is_located(tmp_path: Path, text: str, message: str, keep_comments: bool) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SsferError, match=f"params.yaml is not valid YAML: .*{message}"):
        read_params_file(tmp_path / "params.yaml", keep_comments)


def sections(kind: type[Section] = Section) -> list[type[Section]]:
    """Return the classes of all sections that have keys of their own."""
    found = [c for own in kind.__subclasses__() for c in (own, *sections(own))]
    return list(dict.fromkeys(c for c in found if c.__module__.startswith("ssfer.")))


@cache
def names_used(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return (attributes read, all other names and strings) of a source file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return frozenset(attributes), frozenset(names | strings)


def fields_read(section: type[Section], root: Path) -> set[str]:
    """Return names read as attributes in files that handle this section: by a class, or by its key in params.

    Where a file picks fields by name (getattr), its strings count, too. A kind of source is handled where sources are.
    """
    family = [c for c in sections() if issubclass(section, c) or issubclass(c, section)]
    names = {c.__name__ for c in family}
    fields = [(k, str(field.annotation)) for c in sections() for k, field in c.model_fields.items()]
    keys = {k for k, kind in fields if any(re.search(rf"\b{name}\b", kind) for name in names)}
    read = {key for kind in AUGMENTATIONS.values() for key in kind.Settings.model_fields}  # by name
    for path in [*(root / "ssfer").rglob("*.py"), *(root / "stages").rglob("*.py")]:
        if path.name in ("schema.py", "settings.py"):
            continue
        attributes, others = names_used(path)
        if path.name == "tracker.py":  # its table of section names is no reader
            others = frozenset()
        if section is Params or keys & {name.lstrip("_") for name in attributes | others} or names & others:
            read |= attributes | (others if "getattr" in others else set())
    return read


@pytest.mark.parametrize("section", sections(), ids=lambda c: c.__name__)
def test_no_knob_is_dead(section: type[Section], root: Path) -> None:
    """Every key is read by code that handles its section; a setting that does nothing would mislead."""
    dead = set(section.model_fields) - fields_read(section, root)
    assert not dead, f"{section.__name__} has keys nobody reads: {sorted(dead)}"


def differing(section: BaseModel, place: str = "params") -> Iterator[str]:
    """Yield what is wrong with the fields of a section and those below: values, and descriptions."""
    for key, field in type(section).model_fields.items():
        value, here = getattr(section, key), f"{place}.{key}"
        below = value if isinstance(value, dict) else {"": value}
        if below and all(isinstance(part, BaseModel) for part in below.values()):
            for name, part in below.items():
                yield from differing(part, f"{here}.{name}".rstrip("."))
        elif not field.description:
            yield f"{here} has no description"
        elif not field.is_required() and field.get_default(call_default_factory=True) != value:
            yield f"{here} is {value!r}, its default is {field.get_default(call_default_factory=True)!r}"


def test_params_yaml_has_the_defaults_and_every_field_is_described(root: Path) -> None:
    raw = load_params(root / "params.yaml")
    assert list(differing(raw.model_copy(update={"data": raw.data.model_copy(update={"sources": ()})}))) == []


# Keys whose name says it all, keys explained by their neighbour above, and sections (their keys are explained singly).
OBVIOUS = {
    *Params.model_fields, "sources", "name", "kind", "path", "labeled", "title", "experiment",
    "seed", "epochs", "batch_size", "lr", "weight_decay", "std", "people_identities",
    "labeled_per_class", "labeled_total",
}  # fmt: skip


def test_every_key_is_explained(root: Path) -> None:
    """A key in params.yaml has a comment on its line or just above, or a section around it has."""
    bare: list[str] = []
    around: list[tuple[int, str, bool]] = []  # indent, key, explained
    above = ""
    for line in (root / "params.yaml").read_text().splitlines():
        if match := re.match(r"^(\s*(?:- )?)(\w+):", line):
            around = [entry for entry in around if entry[0] < len(match[1])]
            explained = "#" in line or above.lstrip().startswith("#")
            if not explained and match[2] not in OBVIOUS and not any(entry[2] for entry in around):
                bare.append(".".join([*(entry[1] for entry in around), match[2]]))
            around.append((len(match[1]), match[2], explained))
        above = line
    assert not bare, f"keys without a comment: {bare}"


def test_a_misspelled_key_needs_no_other_section(raw: dict[str, Any]) -> None:
    changed = copy.deepcopy(raw)
    del changed["semisup"]["method"], changed["align"]["detector"]
    for section, name, key, hint in (
        ("methods", "vat", "epsilo", "epsilon"),
        ("detectors", "retinaface", "max_sid", "max_side"),
        ("semisup", "extra", "face", "faces"),
    ):
        found = copy.deepcopy(changed)
        found.setdefault(section, {}).setdefault(name, {})[key] = 1
        with pytest.raises(SsferError, match=f"unknown key '{section}.{name}.{key}'; did you mean '{hint}'"):
            parse_params(found)


def test_a_misspelled_key_in_a_list_is_named(raw: dict[str, Any]) -> None:
    members = [{"file": "x", "sha256": "0" * 12, "fiel": 1}]
    with pytest.raises(SsferError, match=r"unknown key 'semisup.extra.ensemble.0.fiel'; did you mean 'file'"):
        parse_params(put(raw, "semisup.extra.ensemble", members))
