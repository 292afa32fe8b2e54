"""Profiles: they validate, they mean what the specification says, and they survive every way of using them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ssfer.config import identity, pipeline
from ssfer.config import profiles as profile
from ssfer.config.schema import Params, load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.labels import class_set
from ssfer.core.yaml import flatten, parse_yaml

RECIPES = ["paper"]
DATA_SETS = ["ferplus", "rafdb", "affectnet7", "affectnet8", "adience_age", "adience_gender"]
OTHERS = ["ferplus-cpu", "ferplus-full", "ferplus-night", "ferplus-vit"]
BENCHMARKS = ["ferplus", "rafdb", "affectnet7", "affectnet8"]
CORPUS, TRIAL = "corpus-1.2m", "trial"  # come after a benchmark
QUICK = "quick"  # alone, for rendered faces
OVERLAYS = [
    "authors_code", "leaf", "leaf_authors_code", "resnet18", "sitfer", "sitfer_authors_code", "sitfer_descriptions",
    "ferplus7", "table3", "vit_tiny", "vit_small", "vit_large",
]  # of a recipe  # fmt: skip
ON_DATA = [list(pair) for pair in product(RECIPES, DATA_SETS)]
CHANGED = [[recipe, overlay, "rafdb"] for recipe, overlay in product(RECIPES, OVERLAYS)]
COMBINATIONS = [*([name] for name in (*RECIPES, *DATA_SETS, *OTHERS)), *ON_DATA, *CHANGED]
ON_CORPUS = [["paper", benchmark, CORPUS] for benchmark in BENCHMARKS]
TRIALS = [["paper", "ferplus", "vit_tiny", TRIAL], ["paper", "affectnet7", CORPUS, TRIAL], [QUICK]]
EVERY_PROFILE = [*ON_DATA, *CHANGED, *([name] for name in OTHERS), *TRIALS]

# SSFER specification: sections 3-6, 8-10 and the quick list of section 13.
PAPER = {
    "split.flagged": "keep",
    "split.bare_faces": "none",
    "align.size": 224,
    "align.box_min_score": 0.4,
    "semisup.weak_view": "weak",
    "semisup.strong_view": "strong",
    "split.seed": 2024,
    "split.rounding": "half_up",
    "split.val_fraction": 0.0,
    "split.label_noise": 0.0,
    "split.redraw_for_semi": False,
    "split.folds": 5,
    "split.fold_seed": 42,
    "model.backbone": "vit",
    "model.img_size": 224,
    "model.patch_size": 16,
    "model.embed_dim": 768,
    "model.depth": 12,
    "model.num_heads": 12,
    "model.mean": (0.588, 0.459, 0.402),
    "model.std": (0.228, 0.202, 0.19),
    "model.head_init": "small",
    "pretrain.init_from": None,
    "pretrain.init_sha256": None,
    "pretrain.seed": 2024,
    "pretrain.epochs": 600,
    "pretrain.stop_at": None,
    "pretrain.warmup_epochs": 50,
    "pretrain.batch_size": 256,
    "pretrain.lr": 3.4e-4,
    "pretrain.schedule": "mae_iter",
    "pretrain.weight_decay": 0.05,
    "pretrain.decay_all": False,
    "pretrain.mask_ratio": 0.75,
    "pretrain.norm_pix_loss": True,
    "pretrain.min_scale": 0.2,
    "pretrain.decoder_embed_dim": 512,
    "pretrain.decoder_depth": 8,
    "pretrain.decoder_num_heads": 16,
    "finetune.seed": 2024,
    "finetune.epochs": 100,
    "finetune.epochs_few_labels": 1000,
    "finetune.few_labels": 500,
    "finetune.warmup_epochs": 5,
    "finetune.batch_size": 32,
    "finetune.lr_max": 1e-4,
    "finetune.lr_min": 1e-5,
    "finetune.lr_warm": 5e-5,
    "finetune.cosine_fraction": 0.5,
    "finetune.lr_lag_one_step": False,
    "finetune.ema_decay": None,
    "finetune.optimizer": "adamw",
    "finetune.weight_decay": 0.05,
    "finetune.min_scale": 0.2,
    "finetune.view": "weak",
    "finetune.targets": "labels",
    "finetune.logit_adjustment": 0.0,
    "finetune.baselines": (),
    "finetune.facemix.mode": "facemix",
    "finetune.facemix.variant": "L4",
    "finetune.facemix.label_smoothing": 0.1,
    "finetune.facemix.kappa": "iou",
    "finetune.facemix.box_source": "cached",
    "finetune.facemix.box_input": "pixels",
    "finetune.facemix.fallback_frame": "source",
    "finetune.facemix.legacy_inplace": False,
    "semisup.seed": 2024,
    "semisup.method": "ema_teacher",
    "semisup.average": None,
    "semisup.epochs": 50,
    "semisup.batch_size": 64,
    "semisup.uratio": 1,
    "semisup.lr": 1.5e-4,
    "semisup.optimizer": "adamw",
    "semisup.weight_decay": 0.05,
    "semisup.beta2": 0.95,
    "semisup.min_scale": 0.2,
    "semisup.targets": "labels",
    "semisup.randaugment": "rand-m9-mstd0.5-inc1",
    "methods.ema_teacher.threshold": 0.7,
    "methods.ema_teacher.threshold_op": "gt",
    "methods.ema_teacher.lambda_u": 5.0,
    "methods.ema_teacher.ema_decay": 0.999,
    "methods.fixmatch.threshold": 0.7,
    "methods.fixmatch.lambda_u": 5.0,
    "methods.leaf.threshold": 0.8,
    "methods.leaf.threshold_views": "eval",
    "methods.leaf.lambda_x": 0.5,
    "methods.leaf.lambda_u": 1.0,
    "methods.leaf.lambda_s": 0.1,
    "methods.leaf.temperature": 0.07,
    "methods.leaf.ema_decay": 0.999,
    "methods.leaf.k_max": 3,
    "methods.leaf.coverage": 0.9,
    "methods.leaf.mask_mode": "per_sample",
    "methods.leaf.experts": 8,
    "methods.leaf.top_k": 2,
    "methods.leaf.shared_expert": False,
    "methods.leaf.gate_init": "normal",
    "methods.leaf.combine": "linear",
    "methods.leaf.instance_on": "scores",
    "methods.leaf.balance_coef": 0.01,
    "methods.leaf.dropout": 0.5,
    "methods.leaf.classifier": "keep",
    "methods.leaf.decay_buffers": 0.0,
    "semisup.leaf_parts.expert_head": False,
    "semisup.leaf_parts.ambiguous_loss": False,
    "semisup.imbalance.distribution_alignment": False,
    "semisup.imbalance.class_thresholds": False,
    "semisup.imbalance.forget_unsure": False,
    "semisup.imbalance.logit_adjustment": 0.0,
    "semisup.extra.faces": 0,
    "semisup.extra.threshold": 0.9,
    "semisup.extra.ensemble": (),
    "evaluate.headline": "auto",
    "report.gallery": False,
}

# SIT-FER's own specification, sections 3 to 6: its default and what its release does, by row of its section 7.
SITFER: dict[str, Any] = {
    "threshold": 0.75, "threshold_op": "gt", "lambda_s": 0.4, "lambda_t": 0.4, "lambda_u": 0.2, "lambda_c": 0.0,
    "lu_norm": "selected", "dropout": 0.5, "classifier_input": "unit", "pseudo_eval_mode": False,
    "fusion": "probabilities", "weights.before": (1, 1, 0), "weights.training": (1, 1, 1), "weights.test": (1, 1, 1),
    "text.encoder": "learned", "text.prompts": ("A face image of {expression}",), "text.tau": 0.1, "text.seed": 2024,
    "text.width": 512, "text.layers": 3, "text.heads": 8, "text.lr_scale": 1.0, "text.clip_model": "ViT-B-32",
    "text.clip_weights": None, "text.clip_sha256": None,
    "text.words": {
        "neutral": "neutral", "happiness": "happy", "surprise": "surprise", "sadness": "sad", "anger": "angry",
        "disgust": "disgust", "fear": "fear", "contempt": "contempt",
    },
    "text.descriptions": dict.fromkeys(
        ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"), ()
    ),
    "memory.rule": "softmax_knn", "memory.tau": 0.1, "memory.neighbors": None, "memory.start_epoch": 15,
    "memory.unlabeled_slots": 0, "memory.init": "pass", "memory.contrastive_tau": 0.07,
    "memory.refresh": True,
}  # fmt: skip
SITFER_RELEASE: dict[str, Any] = {
    "text.encoder": "frozen_random", "fusion": "scores", "weights.before": (0.6, 0.4, 0), "text.tau": 1.0,
    "weights.training": (0.3, 0.2, 0.5), "weights.test": (0.3, 0.2, 0.5), "memory.rule": "class_max",
    "memory.init": "lazy", "memory.refresh": False, "text.seed": 5,
}  # fmt: skip
PAPER |= {f"methods.sitfer.{key}": value for key, value in SITFER.items()}

# Table 14: row -> what the release does where it differs from the paper.
RELEASE: dict[str, dict[str, Any]] = {
    "1": {"split.redraw_for_semi": True},
    "2": {"finetune.facemix.legacy_inplace": True},
    "3": {"finetune.facemix.box_source": "detect", "finetune.facemix.box_input": "normalized"},
    "4": {"finetune.facemix.fallback_frame": "augmented"},
    "5": {"finetune.lr_max": 1.5e-4},
    "6": {"finetune.lr_lag_one_step": True},
    "13": {"methods.ema_teacher.threshold_op": "ge"},
    "18": {"pretrain.norm_pix_loss": False},
    "19": {"pretrain.epochs": 800, "pretrain.stop_at": 600},
    "20": {"pretrain.schedule": "authors_min"},
    "21": {"pretrain.decay_all": True},
    "29": {"model.head_init": "torch_default"},
    "30": {"split.rounding": "half_even"},
    "31": {"finetune.epochs_few_labels": 100},
    "section 9": {"finetune.ema_decay": 0.999},
    "docs/explanation/departures.md": {"split.per_class_shortage": "cap"},
}


@cache
def resolved(*names: str) -> Params:
    """Return the checked settings of some profiles; reading with comments takes a fifth of a second."""
    with contextlib.chdir(Path(__file__).resolve().parents[2]):
        return profile.resolve(names)[1]


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test project is in no git repository; experiments need one."""
    monkeypatch.setattr(pipeline, "git_commit", lambda: "abc")


def at(node: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        node = node[key] if isinstance(node, dict) else getattr(node, key)
    return node


def leaves(params: Any, dotted: str) -> list[str]:
    """Dotted names of all values below a section."""
    node = at(params, dotted)
    fields = getattr(type(node), "model_fields", None)
    return [k for f in fields for k in leaves(params, f"{dotted}.{f}")] if fields else [dotted]


def plain(node: Any) -> Any:
    """What a parser returned as ordinary dicts, lists and numbers."""
    if isinstance(node, dict):
        return {str(k): plain(v) for k, v in node.items()}
    if isinstance(node, list):
        return [plain(v) for v in node]
    return float(node) if isinstance(node, float) else node


def test_all_profiles_are_covered_here(root: Path) -> None:
    assert {p.stem for p in (root / "profiles").glob("*.yaml")} == {
        *RECIPES,
        *DATA_SETS,
        *OTHERS,
        *OVERLAYS,
        CORPUS,
        TRIAL,
        QUICK,
    }


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_profile_validates(names: list[str]) -> None:
    params = resolved(*names)
    if names[0] in OTHERS:
        labels = 1.0 if names == ["ferplus-full"] else 0.1
        assert (params.data.raw, params.split.labeled_fraction, params.report.gallery) == ("ferplus-cpu", labels, False)
    elif names != ["paper"]:
        assert params.data.classes == names[-1]
        assert params.data.raw == names[-1].partition("_")[0]  # both labels of Adience are of the same photos
        assert not params.report.gallery, "galleries of real faces stay off"
        assert params.split.labeled_fraction == 0.1
        assert [s.labeled for s in params.data.sources] == [True, False]
        sizes = {"rafdb": 7, "affectnet7": 7, "adience_gender": 2}
        assert len(class_set(params.data.classes)) == sizes.get(names[-1], 8)


def test_benchmarks_on_one_corpus_differ_in_labels_and_classes_only() -> None:
    """What aligning, the corpus and the encoder depend on is the same, so DVC makes each of them once."""
    found = {names[1]: resolved(*names) for names in ON_CORPUS}
    first = next(iter(found.values()))
    for name, params in found.items():
        assert [s.name for s in params.data.sources if s.labeled] == [name.rstrip("78")]
        assert (params.data.raw, params.data.classes) == (CORPUS, name)
        for stage in ("align", "corpus", "pretrain"):
            assert identity.settings(stage, params) == identity.settings(stage, first), (name, stage)
        assert identity.settings("split", params) != identity.settings("split", first) or params is first
    assert len(first.data.sources) == 7
    assert all(s.optional for s in first.data.sources)


@pytest.mark.parametrize("attribute", ["age", "gender"])
def test_adience_tests_on_official_folds_that_pretraining_never_sees(attribute: str) -> None:
    _, params = profile.resolve(["paper", f"adience_{attribute}"])
    adience = params.data.sources[0]
    assert (adience.kind, adience.attribute, adience.corpus) == ("adience", attribute, False)
    assert (params.split.fold, params.split.folds, params.split.fold_by) == (0, 5, "official")


@pytest.mark.parametrize(
    "names", [n for n in COMBINATIONS + ON_CORPUS if "paper" in n and not {*n} & {*OVERLAYS}], ids="+".join
)
def test_paper_is_what_the_specification_calls_default(names: list[str]) -> None:
    """A difference is a demo value that leaks into the paper's recipe: set the key in profiles/paper.yaml."""
    params = resolved(*names)
    assert {key: at(params, key) for key in PAPER} == PAPER


def test_paper_fixes_every_training_setting() -> None:
    """All keys of these sections are compared above, but those that only steer looks at a validation part."""
    params = resolved("paper")
    idle = {"finetune.eval_every", "semisup.eval_every"}
    budget = {"split.labeled_fraction", "split.labeled_per_class", "split.labeled_total", "split.per_class_shortage"}
    budget |= {"split.fold", "split.fold_by"}  # the data set's profile knows
    keys = [k for name in ("split", "model", "pretrain", "finetune", "semisup") for k in leaves(params, name)]
    assert params.methods["mean_teacher"].ema_decay == 0.999
    assert params.methods["freematch"].decay == params.methods["softmatch"].decay == 0.999
    assert params.methods["cgmatch"].decay == 0.999
    assert params.methods["vat"].epsilon == 42
    assert params.methods["ada_cm"].ema_decay == 0.999
    assert set(keys) - set(PAPER) - idle - budget == set()


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_authors_code_is_the_paper_but_for_the_rows_of_table_14(data_set: str) -> None:
    release = {key: value for row in RELEASE.values() for key, value in row.items()}
    params = resolved("paper", "authors_code", data_set)
    assert {key: at(params, key) for key in PAPER} == PAPER | {k: v for k, v in release.items() if k in PAPER}
    assert {key: at(params, key) for key in release} == release


def test_authors_code_sets_nothing_else() -> None:
    keys = {key for key, _ in flatten(profile.read_profile("authors_code"))}
    assert keys == {key for row in RELEASE.values() for key in row}


def test_table3_has_the_settings_of_the_printed_baselines() -> None:
    """Those of their benchmark's configuration files (Roy and Etemad 2022), a few of them this project's names."""
    params = resolved("paper", "table3", "rafdb")
    common, methods = params.semisup, params.methods
    assert (params.model.backbone, common.optimizer, common.lr, common.weight_decay) == (
        "resnet18",
        "sgd",
        0.03,
        0.0005,
    )
    assert (common.batch_size, common.average) == (64, 0.999)
    printed = {
        "pi_model": {"lambda_u": 10, "rampup": 0.4, "ramp": "linear"},
        "pseudo_label": {"lambda_u": 1, "threshold": 0.95, "rampup": 0.4},
        "mean_teacher": {"lambda_u": 50, "rampup": 0.4, "ramp": "linear", "ema_decay": 0.999},
        "vat": {"lambda_u": 0.3, "epsilon": 6, "entropy_weight": 0.06, "rampup": 0.4, "labeled": False},
        "uda": {"temperature": 0.4, "threshold": 0.8, "lambda_u": 1, "annealing": "none"},
        "mixmatch": {"alpha": 0.5, "temperature": 0.5, "lambda_u": 100, "rampup": 0.4},
        "remixmatch": {
            "alpha": 0.75, "temperature": 0.5, "lambda_s": 0.5, "lambda_u": 1.5, "lambda_r": 0.5, "rampup": 1 / 64,
        },
        "fixmatch": {"threshold": 0.95, "lambda_u": 1},
    }  # fmt: skip
    assert {name: {key: at(methods[name], key) for key in values} for name, values in printed.items()} == printed


def test_sitfer_and_its_release_are_what_their_specification_says() -> None:
    """SIT-FER specification, section 5 and the rows of section 7."""
    for name, differences in (("sitfer", {}), ("sitfer_authors_code", SITFER_RELEASE)):
        whole = resolved("paper", name, "rafdb")
        params = whole.semisup
        assert (params.method, params.epochs, params.batch_size, params.uratio) == ("sitfer", 80, 16, 1)
        assert (params.lr, params.weight_decay) == (1e-4, 0.0)
        assert params.beta2 == 0.999  # the release's Adam has its defaults
        assert {key: at(whole.methods["sitfer"], key) for key in SITFER} == SITFER | differences


SOURCE = {"name": "a", "kind": "rendered", "path": "a", "labeled": True, "align": "resize"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([SOURCE], [{"name": "b", "path": "x"}], [SOURCE, {"name": "b", "path": "x"}]),
        ([SOURCE], [{"name": "a", "path": "x"}], [{**SOURCE, "path": "x"}]),
        ([SOURCE, {"name": "b"}], [{"name": "b", "k": 1}, {"name": "a"}], [{"name": "b", "k": 1}, SOURCE]),
        (["scratch"], ["plain", "scratch"], ["plain", "scratch"]),
        (["scratch"], [], ["scratch"]),
    ],
)
def test_plus_adds_to_a_list_and_changes_entries_of_the_same_name(old: list, new: list, expected: list) -> None:
    base = {"data": {"list": list(old)}}
    profile.merge(base, {"data": {"list+": new}}, "odd.yaml")
    assert base == {"data": {"list": expected}}
    assert SOURCE["path"] == "a", "the entry that was there is not changed in place"


def test_profile_of_the_users_own_adds_a_source(project: Path) -> None:
    own = "data:\n  sources+:\n    - {name: mine, kind: identities, path: mine, align: similarity}\n"
    (project / "profiles/mine.yaml").write_text(own)
    names = [s.name for s in profile.resolve(["rafdb", "mine"])[1].data.sources]
    assert names == ["rafdb", "casia-webface", "mine"]
    (flag,) = [f for f in profile.overrides(["rafdb", "mine"]) if f.startswith("data.sources")]
    assert "{name:mine,kind:identities,path:mine,align:similarity}" in flag


def test_later_profile_wins(project: Path) -> None:
    assert profile.resolve(["paper", "ferplus"])[1].report.title == "FERPlus"
    assert profile.resolve(["ferplus", "paper"])[1].report.title == "SSFER"


@pytest.mark.parametrize("names", EVERY_PROFILE, ids="+".join)
def test_flags_and_the_written_file_say_the_same_as_the_merge_and_comments_stay(
    project: Path, names: list[str]
) -> None:
    """The flags are read back with the parser that DVC uses for -S."""
    hydra = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    before = (project / "params.yaml").read_text()
    rebuilt = parse_yaml(before, "before")
    for override in hydra.OverridesParser.create().parse_overrides(profile.overrides(names)):
        *parents, last = override.key_or_group.split(".")
        (at(rebuilt, ".".join(parents)) if parents else rebuilt)[last] = plain(override.value())
    profile.main([*names, "--write"])
    after = (project / "params.yaml").read_text()
    written = parse_yaml(after, "after")
    assert rebuilt == plain(written)
    assert parse_params(written) == resolved(*names)
    sources = before[before.index("  sources:") : before.index("generate:")]
    lost = set(comments(before)) - set(comments(after)) - set(comments(sources))  # a replaced list takes its own along
    assert not lost
    assert list(written) == list(parse_yaml(before, "before"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (400, "400"),
        (0.00001, "0.00001"),
        (5.0, "5.0"),
        ([], "[]"),
        ([0.1, 0.25], "[0.1,0.25]"),
        ("faces-in-the-wild.zip", "faces-in-the-wild.zip"),
        ("null", '"null"'),
        ("7", '"7"'),
        ("two words", '"two words"'),
        ([{"name": "a", "labeled": True}], "[{name:a,labeled:true}]"),
        ({"0": "joy", "sad-2": None}, "{0:joy,sad-2:null}"),
    ],
)
def test_encode_writes_what_dvc_reads(value: Any, text: str) -> None:
    assert profile.encode(value) == text
    hydra = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    (override,) = hydra.OverridesParser.create().parse_overrides([f"key={text}"])
    read = override.value()
    assert (plain(read) if isinstance(read, dict | list) else str(read) if isinstance(value, str) else read) == value


def test_flags_need_no_quoting(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["paper", "ferplus"])
    out = capsys.readouterr().out
    assert out.split()[::2] == ["-S"] * (len(out.split()) // 2)
    Path("flags").write_text(out)
    shell = subprocess.run(["bash", "-c", "printf '%s\\n' $(cat flags)"], capture_output=True, text=True, check=True)
    assert shell.stdout.split("\n")[:-1] == out.split()


MINE = """
from ssfer.core.settings import Weight
from ssfer.methods.fixmatch import FixMatch

class Mine(FixMatch):
    class Settings(FixMatch.Settings):
        power: Weight = 2.0
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("split.lable_fraction=0.1", "has no key 'split.lable_fraction'; did you mean 'split.labeled_fraction'?"),
        ("smisup={}", "has no key 'smisup'; did you mean 'semisup'?"),
        ("split.seed", "-S takes key=value, such as .*, found 'split.seed'"),
    ],
)
def test_misspelled_setting_is_refused_before_dvc_starts(project: Path, given: str, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        profile.main(["ferplus-cpu", "-S", given])
    with pytest.raises(SsferError, match=message):
        pipeline.run_pipeline([given])


def test_settings_of_a_run_may_be_sections_and_items_of_lists(project: Path) -> None:
    pipeline.check_overrides(["split.seed=1", "split={seed:1}", "data.sources[0].align=resize", "+methods.mine.x=1"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("semisup.epochs=two", r"-S: 'semisup.epochs': .* \(found 'two'\)"),
        ("robustness.images=-5", "-S: 'robustness.images': "),
        ("split={seed:one}", "-S: 'split"),
    ],
)
def test_a_wrong_value_is_refused_before_dvc_writes_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: pytest.fail("DVC has begun"))
    with pytest.raises(SsferError, match=message):
        pipeline.run_pipeline(["split.fold=null", "semisup.method='a", given])


@pytest.mark.parametrize(
    "given", ["data.sources[0].align=resize", "evaluate.metrics=[]", "finetune.lr_max=0.1,0.2", 'report.title="a b"']
)
def test_what_dvc_alone_understands_is_left_to_it(project: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: 0)
    assert pipeline.run_pipeline([given, "+pretrain.decoder_depth=1"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["methods.mine.power=1"], r"has no key 'methods.mine.power' yet; \+ adds it: -S \+methods.mine.power=1"),
        (["+methods.mine.power=many"], r"-S: 'methods.mine.power': .* \(found 'many'\)"),
        (["+semisup.noise=1"], "unknown key 'semisup.noise'"),
    ],
)
def test_settings_of_own_components_are_added_with_a_plus(
    project: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    (project / "mine.py").write_text(MINE)
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: 0)
    own = "semisup.method=./mine.py:Mine"
    with pytest.raises(SsferError, match=message):
        pipeline.run_pipeline([own, *given])
    assert pipeline.run_pipeline([own, "+methods.mine.power=1"]) == 0


def test_a_run_says_that_params_yaml_has_changed_and_needs_git(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: 255)
    pipeline.run_pipeline(["split.seed=1"])
    assert "now holds" not in capsys.readouterr().err, "DVC refused, so the file is as before"
    params = project / "params.yaml"
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: 0 * params.write_text(params.read_text() + "#"))
    pipeline.run_pipeline(["split.seed=1"])
    assert "params.yaml now holds split.seed=1; git checkout params.yaml takes it back" in capsys.readouterr().err
    monkeypatch.setattr(pipeline, "git_commit", lambda: "unknown")
    with pytest.raises(SsferError, match=r"experiments \(-S\) need git and a commit .*: git add -A && git commit"):
        pipeline.run_pipeline(["split.seed=1"])
    Path(".dvc").mkdir(exist_ok=True)
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(SsferError, match=r"experiments \(-S\) need git, .*: git init && dvc config --unset"):
        pipeline.run_pipeline(["split.seed=1"])
    pipeline.run_pipeline([])


@pytest.mark.parametrize(
    ("extra", "rest", "expected"),
    [
        ([], [], ["dvc", "repro", "log"]),
        (["split.seed=1"], ["--temp"], ["dvc", "exp", "run", "log", "-S", "split.seed=1", "--temp"]),
    ],
)
def test_pipeline_is_dvcs(
    project: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], rest: list[str], expected: list[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: ran.append(command) or 3)
    assert pipeline.run_pipeline(extra, rest) == 3 and ran == [[sys.executable, "-m", *expected]]


def test_value_that_a_shell_would_break_is_refused_as_flag(project: Path) -> None:
    (project / "profiles/odd.yaml").write_text("report:\n  title: two words\n")
    with pytest.raises(SsferError, match="use --run, or --write without -S"):
        profile.main(["odd"])


def test_unknown_profile_names_the_nearest(project: Path) -> None:
    with pytest.raises(SsferError, match="unknown profile 'ferplsu'; did you mean 'ferplus'"):
        profile.main(["ferplsu", "--show"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split:\n  lable_fraction: 0.1\n", r"odd.yaml: 'split.lable_fraction'; did you mean 'split.labeled_fraction'"),
        ("spilt:\n  seed: 1\n", r"odd.yaml: 'spilt'; did you mean 'split'"),
        ("split:\n  labeled_fraction: 7\n", r"params.yaml \+ odd: 'split.labeled_fraction'.*found 7"),
        ("split+: [1]\n", r"odd.yaml: 'split\+' adds to a list, so both sides must be lists"),
        ("data:\n  sources+: 3\n", r"odd.yaml: 'data.sources\+' adds to a list"),
        ("data:\n  surces+: []\n", r"odd.yaml: 'data.surces'; did you mean 'data.sources'"),
        ("finetune: 3\n", r"params.yaml \+ odd: 'finetune'"),
        ("- 3\n", "must hold sections of params.yaml"),
        ("split: [\n", "odd.yaml is not valid YAML"),
    ],
)
def test_mistake_in_a_profile_is_named(project: Path, text: str, message: str) -> None:
    (project / "profiles/odd.yaml").write_text(text)
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(SsferError, match=message):
        profile.main(["odd", "--write"])
    assert (project / "params.yaml").read_bytes() == before


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)


def test_write_without_a_change_keeps_every_byte(project: Path) -> None:
    (project / "profiles/same.yaml").write_text("split:\n  seed: 2024\n")
    before = (project / "params.yaml").read_text()
    profile.main(["same", "--write"])
    assert (project / "params.yaml").read_text() == before


def test_show_prints_what_write_writes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["paper", "rafdb", "--show"])
    shown = capsys.readouterr().out
    profile.main(["paper", "rafdb", "--write"])
    assert (project / "params.yaml").read_text() == shown
    assert parse_params(parse_yaml(shown, "shown")).model.embed_dim == 768


def test_list_names_all(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--list"])
    assert capsys.readouterr().out.split() == sorted([*RECIPES, *DATA_SETS, *OTHERS, *OVERLAYS, CORPUS, TRIAL, QUICK])


def test_missing_raw_data_stops_a_run_and_warns_otherwise(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SsferError, match=r"data/raw/ferplus-cpu/ferplus, data/raw/ferplus-cpu/faces-in-the-wild\.zip"):
        profile.main(["ferplus-vit", "--run"])
    profile.main(["ferplus-vit"])
    assert "raw data is missing" in capsys.readouterr().err
    (project / "data/raw/ferplus-cpu/ferplus").mkdir(parents=True)
    (project / "data/raw/ferplus-cpu/faces-in-the-wild.zip").touch()
    profile.main(["ferplus-vit"])
    assert capsys.readouterr().err == ""


def test_absent_optional_sources_are_said_and_a_labeled_one_is_never_optional(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data/raw" / CORPUS / "rafdb").mkdir(parents=True)
    profile.main(["rafdb", CORPUS])
    told = capsys.readouterr().err
    assert "absent: ferplus, affectnet, affectnet-automatic, casia-webface, celeba, vggface2 (optional)" in told
    assert "1 of 7 sources left" in told
    assert "missing" not in told
    with pytest.raises(SsferError, match=r"raw data is missing: data/raw/corpus-1.2m/ferplus; put or link it there"):
        profile.main(["ferplus", CORPUS, "--run"])


@pytest.mark.parametrize("name", ["rafdb", "ferplus", "affectnet7", "affectnet8", "adience_age", "adience_gender"])
def test_other_faces_than_the_benchmarks_own_are_optional(name: str) -> None:
    params = resolved(name)
    assert {source.labeled: source.optional for source in params.data.sources} == {True: False, False: True}


def test_run_hands_every_value_to_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(pipeline, "run_to_end", lambda command, env: calls.append(command) or 3)
    with pytest.raises(SystemExit) as stop:
        budget = ("-S", "split.labeled_fraction=null", "-S", "split.labeled_total=400")
        profile.main(["paper", "--run", *budget, "--", "-n", "mine"])
    assert stop.value.code == 3, "DVC's exit status is passed on"
    assert calls[0][:6] == [sys.executable, "-m", "dvc", "exp", "run", "log"]
    assert calls[0][-4:] == ["-S", "split.labeled_total=400", "-n", "mine"]
    assert "pretrain.lr=0.00034" in calls[0]


@pytest.mark.parametrize("arguments", [[], ["paper", "--show", "-S", "split.seed=1"], ["paper", "--", "-n", "x"]])
def test_unclear_command_line_is_refused(project: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        profile.main(arguments)
    assert stop.value.code == 2


DVC_YAML = """
stages:
  report:
    cmd: cp params.yaml seen.yaml
    params: [data.sources, model, finetune.baselines, pretrain.lr, report.title, split]
    outs:
      - seen.yaml:
          cache: false
"""


@pytest.mark.slow
def test_real_dvc_runs_with_the_flags(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc exp run report $(ssfer profile ...)` in a real repository: the stage sees the merged params."""
    pytest.importorskip("dvc")
    (project / "dvc.yaml").write_text(DVC_YAML)
    commands = (
        "git init -q && dvc init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm t && "
        "dvc exp run report $(ssfer profile paper ferplus 2>/dev/null)"
    )
    root = Path(__file__).resolve().parents[2]
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ran = subprocess.run(["bash", "-c", commands], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    seen = load_params(project / "seen.yaml")
    (project / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    assert seen == profile.resolve(["paper", "ferplus"])[1]


@pytest.mark.parametrize("key", ["fröhlich", "a,b", "it's", "smile (big)", "Null", "1e3"])
def test_a_key_that_dvc_would_read_as_another_is_refused(key: str) -> None:
    with pytest.raises(SsferError, match=rf"-S cannot hold the key '{re.escape(key)}'; use --write, then `ssfer run`"):
        profile.encode([{"labels": {key: "joy"}}])
