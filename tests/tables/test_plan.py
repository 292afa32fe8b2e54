"""From rows to experiments: shared ones are one, names and flags follow from the settings, mistakes are named."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssfer.cli.main import app
from ssfer.config.identity import label_rule, science
from ssfer.config.profiles import encode
from ssfer.config.schema import load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.tables.budget import parse_budget
from ssfer.tables.catalogue import catalogue
from ssfer.tables.plan import Study, present_dataset
from ssfer.tables.run import plan
from ssfer.tables.settings import PRETRAIN_SEED, SEEDS, defaults, label_difference, parse_settings, same
from tests.support.experiment_fakes import accuracies, cell_of, record_of, save

KNOWN = catalogue()
Capture = pytest.CaptureFixture[str]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def at(raw: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        raw = raw[key]
    return raw


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        app(["experiments", *words], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_rows_with_the_same_settings_are_one_experiment(project: Path) -> None:
    """FaceMix with the EMA teacher stands in tables 2, 10, 12, 13, 14, 15 and 16, and table 7 only measures it."""
    tables = ["table2", "table7", "table10", "table12", "table13", "table14", "table15", "table16"]
    jobs, _ = plan(Study(KNOWN, "demo"), tables, [2024])
    most = max(jobs, key=lambda job: len(job.rows))
    assert {row.partition(":")[0] for row in most.rows} == set(tables)
    assert most.stages == ["evaluate", "robustness"]
    assert len(jobs) == 1 + 1 + 1 + 1 + 3 + 3, "the others: no mixing, FixMatch, mixup, kappas, losses"
    assert all(job.stages == ["evaluate"] for job in jobs if job is not most)


def test_jobs_go_seed_by_seed(project: Path) -> None:
    """A table is complete for the first seed before the second begins."""
    jobs, _ = plan(Study(KNOWN, "demo"), ["table10"], [2024, 2025])
    assert [job.experiment.seed for job in jobs] == [2024, 2024, 2025, 2025]


def test_seeds_vary_together_and_pretraining_is_shared(project: Path) -> None:
    cell = cell_of(Study(KNOWN, "demo"), "table10", "Baseline")
    for every, varied in ((False, set(SEEDS)), (True, {*SEEDS, PRETRAIN_SEED})):
        study = Study(KNOWN, "demo", pretrain_seeds=every)
        one, two = (study.experiment(cell, seed).settings for seed in (2024, 2025))
        assert {key for key in one if one[key] != two[key]} == varied
        assert {two[key] for key in varied} == {2025}
    assert (
        Study(KNOWN, "demo").experiment(cell, 2024).name
        == Study(KNOWN, "demo", pretrain_seeds=True).experiment(cell, 2024).name
    ), "the first seed is the one that pretraining has anyway"


def test_names_differ_exactly_where_settings_differ(project: Path) -> None:
    study = Study(KNOWN, "demo")
    jobs, _ = plan(study, ["table5", "table8", "table10", "table12", "table14", "beyond"], [2024, 2025])
    rewritten, _ = plan(Study(KNOWN, "demo"), ["table14"], [2024])
    trained = [json.dumps(job.experiment.settings, sort_keys=True) for job in jobs]
    assert len(set(trained)) == len({job.experiment.name for job in jobs}) == len(jobs)
    assert {job.experiment.name for job in rewritten} <= {job.experiment.name for job in jobs}
    extra = Study(KNOWN, "demo", extra={"finetune.epochs": 6})
    same_value = Study(KNOWN, "demo", extra={"finetune.epochs": study.prepared.finetune.epochs})
    measured = Study(KNOWN, "demo", extra={"robustness.images": 20})
    cell = cell_of(study, "table10", "Baseline")
    name = study.experiment(cell, 2024).name
    assert same_value.experiment(cell, 2024).name == name
    assert len({name, extra.experiment(cell, 2024).name, measured.experiment(cell, 2024).name}) == 3
    assert name.startswith("demo-10pct-mode-none-") and name.endswith("-s2024")
    assert Study(KNOWN, "ferplus").experiment(cell, 2024).name != Study(KNOWN, "rafdb").experiment(cell, 2024).name


@pytest.mark.parametrize(
    ("dataset", "table"), [*product(("demo", "ferplus"), ("table10", "beyond")), ("adience_age", "table9")]
)
def test_flags_turn_params_into_the_experiments(project: Path, dataset: str, table: str) -> None:
    """What DVC is given, put into params.yaml with YAML's reading of it, is the experiment; nothing else is given."""
    study = Study(KNOWN, dataset, extra={"finetune.epochs": 6})
    for job in plan(study, [table], [2025])[0]:
        raw = YAML(typ="safe", pure=True).load((project / "params.yaml").read_text())
        for key, value in job.experiment.flags.items():
            section, _, last = key.rpartition(".")
            assert at(raw, key) != value, f"{key} has this value already"
            at(raw, section)[last] = value
            assert encode(value)
        params = parse_params(raw)
        assert params == job.experiment.params
        assert science(params) == job.experiment.settings
        assert params.finetune.epochs == 6


def test_presets_lie_between_data_set_and_rows(project: Path) -> None:
    (project / "profiles" / "short.yaml").write_text("finetune: {epochs: 7, facemix: {mode: mixup}}\n")
    study = Study(KNOWN, "ferplus", presets=["short"])
    settings = study.experiment(cell_of(study, "table10", "Baseline"), 2024).settings
    assert (settings["finetune.epochs"], settings["finetune.facemix.mode"]) == (7, "none")
    assert settings["model.embed_dim"] == 768


def test_labels_of_the_command_line_replace_the_tables(project: Path) -> None:
    jobs, _ = plan(Study(KNOWN, "ferplus"), ["table10"], [2024], [parse_budget("25/class"), parse_budget("1%")])
    splits = [job.experiment.params.split for job in jobs]
    budgets = {(split.labeled_per_class, split.labeled_fraction) for split in splits}
    assert (len(jobs), budgets) == (4, {(25, None), (None, 0.01)})


def test_only_the_rows_that_are_named(project: Path) -> None:
    """Names are looked for in all tables of the command: FixMatch stands in both, with other settings, UDA in one."""
    jobs, _ = plan(Study(KNOWN, "demo"), ["methods", "table12"], [2024], rows=["FixMatch", "UDA"])
    assert [job.rows for job in jobs] == [["methods: FixMatch"], ["methods: UDA"], ["table12: FixMatch"]]


@pytest.mark.parametrize("table", ["table3", "methods", "table12"])
def test_fixmatch_runs_as_published_but_in_table_12(project: Path, table: str) -> None:
    """Sohn et al. 2020: threshold .95, weight 1, 7 unlabeled images per labeled one; table 12: the EMA teacher's."""
    (job, *_), _ = plan(Study(KNOWN, "ferplus"), [table], [2024], rows=["FixMatch"])
    params = job.experiment.params
    own = params.methods["fixmatch"]
    found = (own.threshold, own.lambda_u, params.semisup.uratio)
    teacher = params.methods["ema_teacher"]
    assert found == ((teacher.threshold, teacher.lambda_u, 1) if table == "table12" else (0.95, 1.0, 7))


def test_rows_without_their_file_are_left_out_with_the_reason(project: Path) -> None:
    jobs, left_out = plan(Study(KNOWN, "demo"), ["table16"], [2024])
    assert (len(jobs), list(left_out)) == (1, ["table16, SSFER, found by `ssfer search lr`"])
    assert "metrics/search/lr.json is missing" in next(iter(left_out.values()))
    rates = load_params().finetune
    present = {key: getattr(rates, key) for key in ("lr_max", "lr_min", "lr_warm")}
    best = {"lr_max": 0.0007, "lr_min": 0.00002, "lr_warm": 0.00003}
    path = project / "metrics" / "search" / "lr.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"search": {"present": {"rates": present}, "best": {"rates": best}}}))
    jobs, left_out = plan(Study(KNOWN, "demo"), ["table16"], [2024])
    assert (len(jobs), left_out) == (2, {})
    assert jobs[1].experiment.params.finetune.lr_max == 0.0007
    jobs, left_out = plan(Study(KNOWN, "ferplus"), ["table16"], [2024])
    assert "around other learning rates" in next(iter(left_out.values()))


def test_done_is_what_has_a_record_with_all_it_needs(project: Path) -> None:
    study = Study(KNOWN, "demo")
    save(record_of(study, cell_of(study, "table10", "+ FaceMix"), 2024, accuracies(teacher=0.5)))
    jobs, _ = plan(study, ["table10"], [2024, 2025])
    assert [(job.experiment.seed, job.experiment.params.finetune.facemix.mode) for job in jobs if job.done] == [
        (2024, "facemix")
    ]
    (job,) = plan(study, ["table7"], [2024])[0]
    assert (job.done, job.stages) == (False, ["evaluate", "robustness"])
    metrics = {**accuracies(teacher=0.5), "robustness": {}}
    save(record_of(study, cell_of(study, "table10", "+ FaceMix"), 2024, metrics))
    (job,) = plan(study, ["table2"], [2024])[0]
    assert (job.done, job.stages) == (True, ["evaluate", "robustness"]), "running it again must not lose figures"
    assert plan(study, ["table7"], [2024])[0][0].done
    assert not plan(Study(KNOWN, "demo", extra={"robustness.images": 9}), ["table7"], [2024])[0][0].done
    assert plan(Study(KNOWN, "demo", extra={"robustness.images": 9}), ["table2"], [2024])[0][0].done


def test_a_record_of_other_settings_or_labels_does_not_count(project: Path) -> None:
    study = Study(KNOWN, "demo")
    cell = cell_of(study, "table2", "SSFER")
    save(record_of(study, cell, 2024, accuracies(teacher=0.5), name="other", label_rule={"class_set": "rafdb"}))
    assert not plan(study, ["table2"], [2024])[0][0].done
    save(record_of(study, cell, 2024, accuracies(teacher=0.5)))
    assert plan(study, ["table2"], [2024])[0][0].done
    edit(project / "params.yaml", "lr_max: 0.001 ", "lr_max: 0.002 ")
    assert not plan(Study(KNOWN, "demo"), ["table2"], [2024])[0][0].done


def test_settings_that_came_later_stand_for_their_default() -> None:
    default = {"a.x": 1, "a.new": 0}
    assert same({"a.x": 2, "a.new": 0}, {"a.x": 2}, default)
    assert not same({"a.x": 2, "a.new": 5}, {"a.x": 2}, default)
    assert not same({"a.x": 2}, {"a.x": 1}, default)
    assert not same({"a.unknown": 2}, {}, default)
    assert same({"a.x": 2}, {"a.x": 2, "a.gone": 7, "semisup.schedule": "constant"}, default)
    assert not same({"a.x": 2}, {"a.x": 2, "semisup.schedule": "multistep"}, default)
    assert same({"robustness.images": 1}, {"robustness.images": 2}, default)
    assert not same({"robustness.images": 1}, {"robustness.images": 2}, default, ["robustness"])


@pytest.mark.parametrize("epochs", [0, 3])
def test_settings_of_pretraining_count_where_it_trains(epochs: int) -> None:
    counted = {"pretrain.epochs": epochs, "pretrain.init_from": None, "pretrain.init_sha256": None, "pretrain.seed": 1}
    wanted = {**counted, "pretrain.lr": 0.1, "a.lr": 1}
    assert same(wanted, {**wanted, "pretrain.lr": 0.2}, {}) == (epochs == 0)
    for key, value in (("epochs", 5), ("init_from", "a"), ("init_sha256", "b"), ("seed", 2)):
        assert not same(wanted, {**wanted, f"pretrain.{key}": value}, {})
    assert not same(wanted, {**wanted, "a.lr": 2}, {})


def test_defaults_are_those_of_the_code(project: Path) -> None:
    """A key that an older record lacks never stands for what params.yaml says today."""
    before = defaults()
    assert (before["semisup.strong_view"], before["methods.vat.epsilon"]) == ("strong", 6.0)
    study = Study(KNOWN, "demo")
    experiment = study.experiment(cell_of(study, "table2", "SSFER"), 2024)
    assert {key for key in experiment.settings if key not in before} == {"data.sources"}
    edit(project / "params.yaml", "strong_view: strong ", "strong_view: eval ")
    assert Study(KNOWN, "demo").defaults == study.defaults == before


def test_label_rules_are_completed_by_defaults() -> None:
    rule = {"class_set": "ferplus", "f.kind": "ferplus", "f.rule": "plurality"}
    assert label_difference(rule, {"class_set": "ferplus", "f.kind": "ferplus"}) == ""
    assert label_difference({**rule, "f.rule": "x"}, {"f.kind": "ferplus"}) == "f.rule: x and plurality"
    assert label_difference({**rule, "f.gone": 1}, rule) == ""


def test_sources_are_completed_by_defaults() -> None:
    source = {"name": "f", "kind": "ferplus", "labeled": True, "corpus_max": None}
    older = {"name": "f", "kind": "ferplus", "labeled": True}
    assert same({"data.sources": [source]}, {"data.sources": [older]}, {})
    assert not same({"data.sources": [{**source, "corpus_max": 5}]}, {"data.sources": [older]}, {})
    assert not same({"data.sources": [source]}, {"data.sources": [older, older]}, {})


def test_label_rule_is_what_makes_labels_and_nothing_else(project: Path) -> None:
    params = Study(KNOWN, "ferplus").prepared
    assert label_rule(params) == {
        "class_set": "ferplus",
        "ferplus.kind": "ferplus",
        "ferplus.label_source": "label.csv",
        "ferplus.rule": "plurality",
        "ferplus.test": ["FER2013Valid", "FER2013Test"],
    }
    sources = science(params)["data.sources"]
    assert [s["name"] for s in sources] == ["ferplus", "casia-webface"]
    assert not {"rule", "path", "test"} & set(sources[0])
    assert "generate.seed" not in science(params) and "generate.seed" in science(load_params())
    assert not [k for k in science(params) if k.startswith(("machine.", "tracking.", "report."))]


def test_set_reads_values_as_params_do() -> None:
    assert parse_settings(
        ["finetune.epochs=2", "semisup.lr=1e-3", "finetune.baselines=[plain]", "split.fold=null"]
    ) == {
        "finetune.epochs": 2,
        "semisup.lr": 0.001,
        "finetune.baselines": ["plain"],
        "split.fold": None,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("run", "tabel10"),
            "run: error: unknown table 'tabel10'; did you mean 'table10'? (known: beyond, leaf_parts, methods",
        ),
        (("table", "tabel10"), "table: error: unknown table 'tabel10'; did you mean 'table10'?"),
        (("list", "tabel10"), "list: error: unknown table 'tabel10'; did you mean 'table10'?"),
        (
            ("run", "table10", "--dataset", "ferpluss"),
            "unknown data set 'ferpluss'; did you mean 'ferplus'?",
        ),
        (("table", "table10", "--dataset", "mnist"), "unknown data set 'mnist' (known: adience_age"),
        (("run", "table10", "--preset", "papr"), "unknown profile 'papr'; did you mean 'paper'?"),
        (("run", "table10", "--set", "finetune.epochz=3"), "'finetune.epochz'; did you mean 'finetune.epochs'?"),
        (("run", "table10", "--set", "finetune.epochs=many"), "'finetune.epochs': Input should be a valid integer"),
        (("run", "table10", "--set", "epochs"), "--set expects section.key=value, such as finetune.epochs=2"),
        (("run", "table10", "--set", "split.seed=3"), "--set split.seed: seeds are chosen by --first-seed"),
        (("run", "table10", "--set", "split.labeled_total=3"), "budgets by --labels"),
        (("run", "table10", "--labels", "tenth"), "'tenth' is no label budget"),
        (
            ("run", "methods", "--row", "Fixmatch"),
            "unknown row 'Fixmatch'; did you mean 'FixMatch'? (known: Ada-CM, CCSSL",
        ),
        (("run", "table9"), "table9 (Age and gender, over the five official folds) is about adience_age"),
        (("table", "table10", "--json", "--markdown"), "give one of them"),
    ],
)
def test_mistakes_are_one_sentence(project: Path, capsys: Capture, words: tuple[str, ...], message: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_unknown_options_are_named(project: Path, capsys: Capture) -> None:
    status, _, err = run(capsys, "run", "table10", "--seds", "3")
    assert status == 2
    assert "--seds" in err and "--seeds" in err


def test_the_demo_needs_the_demos_params(project: Path) -> None:
    """Otherwise runs on another data set would be filed as the demo's."""
    edit(project / "params.yaml", "raw: synthetic ", "raw: ferplus ")
    with pytest.raises(SsferError, match="holds the data set 'ferplus', but 'demo' is params.yaml as it comes"):
        Study(KNOWN, "demo")
    assert Study(KNOWN, "rafdb").prepared.data.raw == "rafdb"


def test_without_a_name_the_data_set_is_the_one_that_params_yaml_holds(project: Path) -> None:
    file = project / "params.yaml"
    assert present_dataset(KNOWN) == "demo"
    demo = file.read_text()
    assert app(["profile", "paper", "rafdb", "--write"], standalone_mode=False) is None
    assert present_dataset(KNOWN) == "rafdb"
    edit(file, "  precision: auto", "  precision: bf16")
    assert present_dataset(KNOWN) == "rafdb"
    file.write_text(demo)
    edit(file, "raw: synthetic ", "raw: photos ")
    assert present_dataset(KNOWN) == "own"


def test_own_data_is_an_experiment_of_its_own(project: Path, capsys: Capture) -> None:
    edit(project / "params.yaml", "raw: synthetic ", "raw: photos ")
    status, out, _ = run(capsys, "run", "table10", "--labels", "20%", "--row", "Baseline", "--dry-run")
    assert status == 0 and "to do own-20pct-mode-none-" in out
    status, _, err = run(capsys, "run", "table10", "--dataset", "demo", "--dry-run")
    assert status == 2 and "--dataset own runs yours" in err


def test_list_shows_tables_data_sets_and_rows(project: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "list")
    assert status == 0
    lines = [line for line in out.splitlines() if line]
    assert [line.split()[0] for line in lines[:-1]] == [*KNOWN.tables, *KNOWN.datasets]
    assert lines[-1].startswith("tables 2 to 16: 924 of 924 printed results accounted for")
    status, out, _ = run(capsys, "list", "table5")
    assert "SSFER: as the data set; evaluate/models/teacher/last/accuracy" in out
    assert "fold: 1; 2; 3; 4; 5; average\n" in out
    assert out.endswith("96 of 96 printed results accounted for: 96 beside a row, 0 cited\n")
    status, out, _ = run(capsys, "list", "table11")
    assert "from data/weights/imported/mae_pretrain_vit_base.safetensors (ssfer fetch mae_pretrain_vit_base);" in out
    status, out, _ = run(capsys, "list", "own_training")
    assert "LEAF, its release: profile leaf, profile leaf_authors_code; evaluate/headline/accuracy" in out
    assert "printed results" not in out


def test_dry_run_says_what_is_done_and_runs_nothing(project: Path, capsys: Capture) -> None:
    study = Study(KNOWN, "demo")
    save(record_of(study, cell_of(study, "table10", "+ FaceMix"), 2024, accuracies(teacher=0.5)))
    before = sorted(project.rglob("*"))
    status, out, _ = run(capsys, "run", "table10", "--dry-run", "--seeds", "2")
    assert (status, sorted(project.rglob("*"))) == (0, before)
    lines = out.splitlines()
    assert lines[0] == "4 experiments, 1 of them done"
    assert [line.split()[0] for line in lines[1:]] == ["to", "done", "to", "to"]
    assert "(table10: + FaceMix; table10: + FaceMix + EMA-Teacher)" in lines[2]
