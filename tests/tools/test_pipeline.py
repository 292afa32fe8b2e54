"""dvc.yaml says what the stages do: scripts, code, params and files, so `dvc repro` reruns just what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tools import deps

ROOT = Path(__file__).resolve().parents[2]
YAML_SAFE = YAML(typ="safe", pure=True)
STAGES: dict[str, dict[str, Any]] = YAML_SAFE.load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = YAML_SAFE.load((ROOT / "params.yaml").read_text())
NAMES = ["generate", "align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate", "robustness", "report"]
# Sections a stage takes whole in code and of which only these keys matter to it.
NARROWED = {
    ("evaluate", "finetune"): {"finetune.baselines", "finetune.facemix.mode"},  # pipeline.finetune.arms
    ("semisup", "finetune.facemix"): {"finetune.facemix.mode"},
}
every_stage = pytest.mark.parametrize("stage", STAGES)


def paths(entries: list[Any]) -> list[str]:
    return [e if isinstance(e, str) else next(iter(e)) for e in entries]


def options(stage: str, kind: str) -> dict[str, dict[str, Any]]:
    return {k: v for e in STAGES[stage].get(kind, []) for k, v in ({e: {}} if isinstance(e, str) else e).items()}


def written(stage: str) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in options(stage, kind)]


def within(a: str, b: str, separator: str = "/") -> bool:
    return f"{a}{separator}".startswith(f"{b}{separator}")


def test_the_stages_are_the_ten() -> None:
    assert list(STAGES) == NAMES


def test_every_file_of_metrics_is_some_stages() -> None:
    """What no stage declares is neither removed before a stage runs nor restored from the cache, so it goes stale."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "metrics").rglob("*") if path.is_file()}
    kept = {name for name in files if name.startswith(("metrics/experiments/", "metrics/profiles/"))}
    assert files - kept <= {path for stage in STAGES for path in written(stage) if within(path, "metrics")}


@every_stage
def test_script_is_run_as_a_module(stage: str) -> None:
    """`python stages/x.py` would run another checkout's package inside a queued experiment."""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    lines = (ROOT / "stages" / f"{stage}.py").read_text().splitlines()
    assert f'    stage_main("{stage}", main)' in lines
    assert len(lines) < 60
    assert STAGES[stage]["desc"]


@every_stage
def test_code_deps_are_what_the_script_reaches(stage: str) -> None:
    """Mend with: python tools/deps.py --write"""
    declared = [dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")]
    assert declared == deps.code_deps(stage)


def test_neutral_modules_exist_and_are_in_no_stage() -> None:
    for module in deps.NEUTRAL:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
        assert not [s for s in STAGES if path.with_suffix(".py").relative_to(ROOT).as_posix() in STAGES[s]["deps"]]


def test_files_that_are_no_code_are_deps_too() -> None:
    """Templates and tables inside the package are read by some stage."""
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ssfer").rglob("*") if p.is_file()}
    data = {f for f in files if not f.endswith((".py", ".pyc"))}
    data -= {"ssfer/tables/catalogue.yaml"}  # which settings to run, for people; what it changes are params
    assert data <= {dep for stage in STAGES.values() for dep in stage["deps"]}
    # git checks text out with LF: other line ends would give a clone another hash, and a stale stage
    assert not [f for f in data if b"\r\n" in (ROOT / f).read_bytes()]


@every_stage
def test_params_exist(stage: str) -> None:
    for key in STAGES[stage]["params"]:
        node: Any = PARAMS
        for part in key.split("."):
            assert part in node, f"{stage} lists {key}, which params.yaml lacks"
            node = node[part]


@every_stage
def test_params_are_those_the_code_reads(stage: str) -> None:
    declared = set(STAGES[stage]["params"])
    assert not [key for key in declared if key.split(".")[0] in deps.NEUTRAL_PARAMS]
    if stage == "report":  # it shows them all
        assert {key.split(".")[0] for key in declared} == set(PARAMS) - set(deps.NEUTRAL_PARAMS)
        return
    read = deps.params_read(stage, set(PARAMS))
    for key in read:
        narrowed = NARROWED.get((stage, key))
        if narrowed is not None:
            assert narrowed <= declared
        else:
            assert any(within(key, d, ".") for d in declared), f"{stage} reads {key}, dvc.yaml does not list it"
    for key in declared:
        assert any(within(key, r, ".") or within(r, key, ".") for r in read), f"{stage} does not read {key}"


def test_outputs_are_unique_and_not_nested() -> None:
    outs = [path for stage in STAGES for path in written(stage)]
    assert len(set(outs)) == len(outs)
    assert not [(a, b) for a in outs for b in outs if a != b and within(a, b)]


@every_stage
def test_keywords_that_bite_are_not_used(stage: str) -> None:
    """persist passes stale models off as new; the others are explained in CONTRIBUTING or break experiments."""
    assert set(STAGES[stage]) <= {"desc", "cmd", "deps", "params", "outs", "metrics", "plots"}
    for kind in ("outs", "metrics", "plots"):
        assert all("persist" not in opts for opts in options(stage, kind).values())


@every_stage
def test_metrics_and_plots_live_in_git_and_data_stays_here(stage: str) -> None:
    for kind in ("metrics", "plots"):
        for path, opts in options(stage, kind).items():
            assert path.startswith("metrics/")
            assert opts["cache"] is False
    for opts in options(stage, "plots").values():
        assert isinstance(opts["x"], str)
        assert isinstance(opts["y"], str), "DVC takes one y per stage-level plot"
        assert opts["title"]
    for path, opts in options(stage, "outs").items():
        assert opts == ({"push": False} if path.startswith("data/") else {"cache": False})


@every_stage
def test_custom_plot_templates_exist(stage: str) -> None:
    for opts in options(stage, "plots").values():
        if opts.get("template", "").startswith("by_"):
            assert (ROOT / ".dvc/plots" / f"{opts['template']}.json").is_file()


def upstream(stage: str, raw: str) -> set[str]:
    """Return the stages whose outputs a stage needs, directly or not, when data.raw is `raw`."""
    needed = [dep.replace("${data.raw}", raw) for dep in STAGES[stage]["deps"]]
    direct = {s for s in STAGES if any(within(dep, out) or within(out, dep) for dep in needed for out in written(s))}
    return direct | {s for d in direct for s in upstream(d, raw)}


def rerun_by(key: str, raw: str = "synthetic") -> set[str]:
    """Return the stages that a change of one param can make stale."""
    direct = {s for s in STAGES if any(within(key, p, ".") for p in STAGES[s]["params"])}
    return direct | {s for s in STAGES if direct & upstream(s, raw)}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("split.labeled_fraction", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("split.val_fraction", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("pretrain.epochs", {"pretrain", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("corpus.min_score", {"corpus", "pretrain", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("finetune.lr_max", {"finetune", "semisup", "evaluate", "robustness", "report"}),
        ("methods.ema_teacher.threshold", {"semisup", "evaluate", "robustness", "report"}),
        ("evaluate.ece_bins", {"evaluate", "report"}),
        ("robustness.epsilons", {"robustness", "report"}),
        ("report.title", {"report"}),
        ("report.gallery", {"robustness", "report"}),
        ("data.class_set", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("align.size", set(NAMES) - {"generate"}),
        ("generate.seed", set(NAMES)),
        ("machine.device", set()),
        ("machine.num_workers", set()),
        ("tracking.enabled", set()),
    ],
)
def test_a_param_reruns_only_what_it_changes(key: str, expected: set[str]) -> None:
    assert rerun_by(key) == expected


def test_real_data_needs_no_rendered_faces() -> None:
    """`dvc repro report` on a real data set leaves `generate` alone; on the demo it runs all stages."""
    assert upstream("report", "ferplus") == set(NAMES) - {"generate", "report"}
    assert upstream("report", "synthetic") == set(NAMES) - {"report"}


# tools/deps.py itself, on a small project


@pytest.fixture
def small(tmp_path: Path) -> Path:
    files = {
        "stages/one.py": "from ssfer.run import main\n\nmain(load_params())\n",
        "ssfer/__init__.py": "VERSION = 1\n",
        "ssfer/run.py": (
            "from __future__ import annotations\n"
            "from ssfer import tools\n"
            "from ssfer.core.errors import Oops\n"
            "from ssfer.methods.mae import MAE\n"
            "from ssfer.only_typed import Typed\n"
            "def main(params: Typed):\n"
            "    from ssfer.lazy import late\n"
            "    p = params.split\n"
            "    late(params.data.raw, params.machine.device)\n"
            "    return MAE(), tools.used(), 'ssfer.table:Entry'\n"
            "def other(params):\n"
            "    from ssfer.unused import never\n"
            "    return never(params.report)\n"
        ),
        "ssfer/tools.py": "from ssfer.deep import x\nfrom .near import y\ndef used():\n    return x + y\n",
        "ssfer/deep.py": "x = 1\n",
        "ssfer/near.py": "y = 1\n",
        "ssfer/core/errors.py": "from ssfer.behind_neutral import z\nclass Oops(Exception): ...\n",
        "ssfer/behind_neutral.py": "z = 1\n",
        "ssfer/methods/__init__.py": "from ssfer.methods.leaf import LEAF\nMETHODS = {'leaf': LEAF}\n",
        "ssfer/methods/mae.py": "class MAE: ...\n",
        "ssfer/methods/leaf.py": "class LEAF: ...\n",
        "ssfer/lazy.py": "def late(*_): ...\n",
        "ssfer/table.py": "class Entry: ...\n",
        "ssfer/only_typed.py": "class Typed: ...\n",
        "ssfer/unused.py": "def never(_): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_deps_follow_names_through_every_kind_of_import(small: Path) -> None:
    assert deps.code_deps("one", small) == [
        "stages/one.py",
        "ssfer/deep.py",  # constant used by a module reached as an attribute
        "ssfer/lazy.py",  # import inside a function
        "ssfer/methods/mae.py",  # not the package, which imports every method
        "ssfer/near.py",  # relative import
        "ssfer/run.py",
        "ssfer/table.py",  # named in a string
        "ssfer/tools.py",
    ]


def test_code_that_runs_at_import_counts(small: Path) -> None:
    (small / "ssfer/methods/__init__.py").write_text("from ssfer.methods.leaf import LEAF\nLEAF()\n")
    found = deps.code_deps("one", small)
    assert "ssfer/methods/__init__.py" in found
    assert "ssfer/methods/leaf.py" in found


def test_params_are_found_in_reached_code_only(small: Path) -> None:
    assert deps.params_read("one", {"split", "data", "machine", "report"}, small) == {"split", "data.raw"}


def test_import_of_a_name_that_does_not_exist_is_an_error(small: Path) -> None:
    (small / "ssfer/deep.py").write_text("w = 1\n")
    with pytest.raises(ValueError, match=r"deep\.py does not define 'x'"):
        deps.code_deps("one", small)
