"""dvc.yaml says what the stages do: scripts, code, params and files, so `dvc repro` reruns just what changed."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssfer.config.identity import NEUTRAL, _files, settings
from ssfer.config.identity import STAGES as IDENTIFIED
from ssfer.config.schema import load_params
from ssfer.core import places

ROOT = Path(__file__).resolve().parents[2]
YAML_SAFE = YAML(typ="safe", pure=True)
STAGES: dict[str, dict[str, Any]] = YAML_SAFE.load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = YAML_SAFE.load((ROOT / "params.yaml").read_text())
NAMES = list(places.STAGES)
every_stage = pytest.mark.parametrize("stage", STAGES)


def paths(entries: list[Any]) -> list[str]:
    return [e if isinstance(e, str) else next(iter(e)) for e in entries]


def options(stage: str, kind: str) -> dict[str, dict[str, Any]]:
    return {k: v for e in STAGES[stage].get(kind, []) for k, v in ({e: {}} if isinstance(e, str) else e).items()}


def written(stage: str) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in options(stage, kind)]


def within(a: str, b: str, separator: str = "/") -> bool:
    return f"{a}{separator}".startswith(f"{b}{separator}")


def test_the_stages_are_the_twelve() -> None:
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


def test_every_stage_depends_on_its_identity() -> None:
    assert list(IDENTIFIED) == NAMES[1:-1]
    for stage in IDENTIFIED:
        assert f"data/identity/{stage}.json" in STAGES[stage]["deps"]
        assert f"data/identity/{stage}.json" in written("identify")
    assert set(STAGES["identify"]["params"]) == set(PARAMS) - {"machine", "tracking"}
    assert not [stage for stage in IDENTIFIED if "params" in STAGES[stage]]


def test_neutral_modules_exist() -> None:
    for module in NEUTRAL:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_files_that_are_no_code_count_too() -> None:
    """Templates and tables inside the package are read by some stage."""
    files = {p.relative_to(ROOT / "ssfer").as_posix() for p in (ROOT / "ssfer").rglob("*") if p.is_file()}
    data = {f for f in files if not f.endswith((".py", ".pyc", "py.typed"))}
    data = {f for f in data if not f.startswith(("project/", "app/"))}  # a new project's files, the app's page
    data -= {"tables/catalogue.yaml"}  # which settings to run, for people; what it changes are params
    data -= {"report/templates/comparison.html.j2"}  # of ssfer compare, no stage
    package, params = ROOT / "ssfer", load_params(ROOT / "params.yaml")
    read = {path for stage in IDENTIFIED for path in _files(stage, params)}
    assert data == {path.relative_to(package).as_posix() for path in read if path.is_relative_to(package)}
    assert ROOT / "docs/reference/glossary.md" in read
    # git checks text out with LF: other line ends would give a clone another hash, and a stale stage
    assert not [f for f in data if b"\r\n" in (ROOT / "ssfer" / f).read_bytes()]


def test_outputs_are_unique_and_not_nested() -> None:
    outs = [path for stage in STAGES for path in written(stage)]
    assert len(set(outs)) == len(outs)
    assert not [(a, b) for a in outs for b in outs if a != b and within(a, b)]


@every_stage
def test_keywords_that_bite_are_not_used(stage: str) -> None:
    """persist passes stale models off as new; the others are explained in CONTRIBUTING or break experiments."""
    assert set(STAGES[stage]) <= {"desc", "cmd", "deps", "outs", "metrics", "plots"} | (
        {"identify": {"params", "always_changed"}, "log": {"always_changed"}}.get(stage, set())
    )
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


def test_dvcs_page_of_plots_loads_nothing_from_the_web() -> None:
    """DVC's own page takes its scripts from a server; `dvc plots diff` must also work without network."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    page = (ROOT / ".dvc" / config["plots"]["html_template"]).read_text()
    scripts = re.findall(r'src="([^"]+)"', page)
    assert scripts == ["../.dvc/plots/vega.js"] and "{scripts}" not in page and "{plot_divs}" in page
    assert "window.vegaEmbed=" in (ROOT / scripts[0].removeprefix("../")).read_text()


def upstream(stage: str, raw: str) -> set[str]:
    """Return the stages whose outputs a stage needs, directly or not, when data.raw is `raw`."""
    needed = [dep.replace("${data.raw}", raw) for dep in STAGES[stage].get("deps", []) if "identity" not in dep]
    direct = {s for s in STAGES if any(within(dep, out) or within(out, dep) for dep in needed for out in written(s))}
    return direct | {s for d in direct for s in upstream(d, raw)}


def rerun_by(key: str, raw: str = "synthetic") -> set[str]:
    """Return the stages that a change of one param can make stale."""
    params = load_params(ROOT / "params.yaml")
    direct = {s for s in IDENTIFIED if any(within(k, key, ".") for k in settings(s, params))}
    return direct | {s for s in IDENTIFIED if direct & upstream(s, raw)}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("split.labeled_fraction", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("split.val_fraction", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("pretrain.epochs", {"pretrain", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("corpus.min_score", {"corpus", "pretrain", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("finetune.lr_max", {"finetune", "semisup", "evaluate", "robustness", "report"}),
        ("methods.ema_teacher.threshold", {"semisup", "evaluate", "robustness", "report"}),
        ("methods.vat.epsilon", set()),
        ("evaluate.headline", {"evaluate", "report"}),
        ("robustness.epsilons", {"robustness", "report"}),
        ("report.title", {"report"}),
        ("report.gallery", {"robustness", "report"}),
        ("data.classes", {"split", "finetune", "semisup", "evaluate", "robustness", "report"}),
        ("align.size", set(IDENTIFIED) - {"generate"}),
        ("generate.seed", set(IDENTIFIED)),
        ("machine.device", set()),
        ("machine.num_workers", set()),
        ("tracking.enabled", set()),
    ],
)
def test_a_param_reruns_only_what_it_changes(key: str, expected: set[str]) -> None:
    assert rerun_by(key) == expected


def test_real_data_needs_no_rendered_faces() -> None:
    """`dvc repro log` on a real data set leaves `generate` alone; on the demo it runs all stages."""
    assert upstream("log", "ferplus") == set(IDENTIFIED) - {"generate"}
    assert upstream("log", "synthetic") == set(IDENTIFIED)
