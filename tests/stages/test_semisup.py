"""Stages semisup and evaluate: each setting does what it says, and what is not switched on leaves no trace."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.pixels import normalize
from ssfer.data.augmentations.eval import Eval
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split, open_test_part
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights
from ssfer.methods.registry import METHODS
from ssfer.report.model_card import build_model_card
from ssfer.report.page import build_report
from ssfer.report.results import paper_numbers
from ssfer.stages import semisup
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier, stored_faces
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.robustness import run_robustness, weight_files
from tests.support import factory

WEIGHTS = Path("data/weights/semisup")
THRESHOLD = ("ema_teacher", "fixmatch", "pseudo_label", "uda", "ccssl")  # methods with one threshold for all classes


def settings(**values: Any) -> Params:
    sections = {k: values.pop(k) for k in ("evaluate", "finetune", "split", "methods") if k in values}
    finetune = {"baselines": []} | sections.pop("finetune", {})
    methods = {name: {"threshold": 0.3} for name in THRESHOLD} | sections.pop("methods", {})
    return factory.tiny_params(semisup={"lr": 0.01} | values, finetune=finetune, methods=methods, **sections)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fine-tuned model."""
    root = tmp_path_factory.mktemp("stage") / "project"
    with pytest.MonkeyPatch.context() as patch:
        root.mkdir()
        patch.chdir(root)
        factory.write_project(root)
        for folder in ("faces/people", "corpus"):
            factory.write_faces(root / "data" / folder, "people", [-1] * 12, seed=5)
        state = seeded_classifier(settings(), 3, 0).state_dict()
        save_classifier(root / "data/weights/finetune/facemix_last.safetensors", state, settings(), load_split())
    return root


@pytest.fixture
def project(finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, also the working folder."""
    shutil.copytree(finetuned, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


def run(**values: Any) -> dict[str, Any]:
    """Run the stage; return its metrics."""
    result = semisup.run_semisup(settings(**values))
    assert result is not None
    return result


def curve(name: str = "semisup") -> list[dict[str, str]]:
    with open(f"metrics/curves/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def exported() -> dict[str, torch.Tensor]:
    return {f"{p.stem}.{k}": v for p in sorted(WEIGHTS.glob("*")) for k, v in load_weights(p)[0].items()}


# --- SSFER specification, section 14: settings of stage 3 ---


def test_the_batch_ratio_is_a_setting_of_its_own(project: Path) -> None:
    """Row 14: the release calls the ratio mu, which is the paper's name of the weight."""
    steps = {}
    for ratio in (1, 3):
        params = settings(uratio=ratio)
        streams = _streams(params)
        steps[ratio] = [(s.name, s.batch_size, s.steps_per_epoch) for s in streams]
    assert steps == {1: [("ulb", 4, 6), ("lb", 4, 4)], 3: [("ulb", 12, 2), ("lb", 4, 4)]}


def test_batches_shrink_to_what_there_is(project: Path) -> None:
    """Row 32: with 18 labels and batches of 64 the release trains on nothing and divides by zero."""
    streams = _streams(settings(batch_size=64))
    assert [(s.name, s.batch_size, s.steps_per_epoch) for s in streams] == [("ulb", 24, 1), ("lb", 18, 1)]
    assert run(batch_size=64, epochs=2)["epochs"] == 2


def _streams(params: Params) -> list[semisup.Stream]:
    split = load_split()
    parts = (semisup.split_dataset(split, part, params) for part in ("labeled", "unlabeled"))
    return semisup.build_streams(METHODS[params.semisup.method], *parts, params)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FaceDataset, FaceDataset]]:
    """The labeled and unlabeled faces of each run."""
    seen: list[tuple[FaceDataset, FaceDataset]] = []
    build = semisup.build_streams
    monkeypatch.setattr(semisup, "build_streams", lambda m, *d: seen.append(d[:2]) or build(m, *d))
    return seen


def change_split(**parts: list[str]) -> None:
    """Replace parts of the split; the fine-tuned model becomes one of the new split."""
    factory.change_split(**parts)
    path = Path("data/weights/finetune/facemix_last.safetensors")
    save_classifier(path, load_weights(path)[0], settings(), load_split())


def test_a_split_redrawn_for_this_stage_is_the_one_it_trains_on(project: Path, streams: list[Any]) -> None:
    """Row 1: the label leak of the release, in its own option of stage split."""
    run(epochs=1)
    old = load_split()
    change_split(semi_labeled=old["unlabeled"][:9], semi_unlabeled=old["labeled"])
    run(epochs=1)
    expected = [(old["labeled"], old["unlabeled"]), (old["unlabeled"][:9], old["labeled"])]
    assert [(labeled.ids, unlabeled.ids) for labeled, unlabeled in streams] == expected


# --- methods and their networks ---


def test_exports_are_the_methods_networks_after_the_last_and_at_the_best_epoch(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    fit = semisup.fit

    def spy(plan: Any, *args: Any) -> Any:
        progression = fit(plan, *args)
        kept.append(({k: v.clone() for k, v in plan.method.state_dict().items()}, progression.best["state"]))
        return progression

    monkeypatch.setattr(semisup, "fit", spy)
    run(epochs=4)
    (last, best), found = kept[0], exported()
    assert not torch.equal(last["student.head.weight"], best["student.head.weight"])  # the best epoch is another one
    for when, state in (("last", last), ("best", best)):
        for name, prefix in (("student", "student."), ("teacher", "teacher.module.")):
            expected = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            assert load_weights(WEIGHTS / f"{name}_{when}.safetensors")[0].keys() == expected.keys()
            assert all(torch.equal(found[f"{name}_{when}.{k}"], v) for k, v in expected.items())


def test_sitfer_is_evaluated_fused_from_its_weights_alone(project: Path) -> None:
    """What is saved holds sentences and memory; it is tested, attacked and described as any classifier is."""
    own = {"threshold": 0.3, "weights": {"before": [1, 1, 0], "training": [1, 1, 1], "test": [0.3, 0.2, 0.5]}}
    own |= {"text": settings().methods["sitfer"].text.model_dump() | {"width": 24, "layers": 1}}
    run(method="sitfer", methods={"sitfer": own})
    state, meta = load_weights(WEIGHTS / "student_last.safetensors", "fused")
    assert meta["fused"] == {
        "levels": {"tau_text": 0.1, "tau_instance": 0.1, "rule": "softmax_knn", "neighbors": None},
        "weights": [0.3, 0.2, 0.5], "scaled": True, "text_dim": 24, "slots": 18,
    }  # fmt: skip
    assert meta["classes"] == list(factory.CLASSES) and meta["arch"]["embed_dim"] == 16
    assert state["bank"].shape == (18, 16) and state["targets"].sum(dim=0).tolist() == [6, 6, 6]
    assert not any("transformer" in name for name in state)  # the encoder has done its work
    torch.testing.assert_close(state["bank"].norm(dim=1), torch.ones(18))
    weights = {"before": [1, 1, 0], "training": [1, 1, 1], "test": [1, 0, 0]}
    other = settings(method="sitfer", methods={"sitfer": {"weights": weights}})
    result = run_evaluate(other)  # the file decides, not params
    tested = result["models"]["student"]["last"]
    assert set(tested["levels"]) == {"semantic", "text", "instance"} and result["headline"] == tested
    assert "levels" not in result["models"]["facemix"]["last"]
    split = load_split()
    test = stored_faces(split, open_test_part(split), other)
    model = load_classifier(WEIGHTS / "student_last.safetensors", other, split)
    images = torch.stack([Eval(16)(test.image(i), test.boxes[i], 0).image for i in range(len(test))])
    with torch.no_grad():
        probs = model.eval()(normalize(images, other.model.mean, other.model.std)).softmax(dim=1)
    right = (probs.argmax(dim=1).numpy() == test.labels).mean()
    assert tested["accuracy"] == pytest.approx(right, abs=1e-6)
    attacked = run_robustness(other.model_copy(update={"report": other.report.model_copy(update={"gallery": False})}))
    assert attacked["models"]["student"]["focused"]["0"]["accuracy"] == tested["accuracy"]
    assert 0 < attacked["models"]["student"]["focused_share"] < 1
    counts = {name: {"labeled": 6, "valid": 2, "unlabeled": 8, "test": 4} for name in factory.CLASSES}
    numbers = {"hash": "ab", "labeled": 18, "valid": 6, "unlabeled": 24, "test": 12, "per_class": counts}
    write_json(Path("metrics/split.json"), {"split": numbers})
    assert "pseudo-labels of SIT-FER (threshold 0.75)" in build_model_card(other)


def test_the_same_seed_gives_the_same_metrics(project: Path) -> None:
    """SIT-FER specification, invariant 17."""
    files = ("metrics/semisup.json", "metrics/curves/semisup.csv")
    written = []
    for _ in range(2):
        torch.manual_seed(len(written))  # what was drawn before does not matter
        run(method="sitfer")
        written.append(
            [Path(name).read_bytes() for name in files] + [p.read_bytes() for p in sorted(WEIGHTS.glob("*"))]
        )
    assert written[0] == written[1]


def test_what_sitfer_cannot_say_is_refused_before_training(project: Path) -> None:
    text = settings().methods["sitfer"].text.model_dump()
    del text["words"]["fear"], text["words"]["surprise"]
    clip = {"encoder": "open_clip", "clip_weights": "data/weights/clip.pt", "clip_sha256": "0" * 64}
    for changes, message in (
        (text, "words has no word for surprise; expected one for each of the 3 classes"),
        (text | {"prompts": ["A face"]}, "lacks {expression}"),
        (settings().methods["sitfer"].text.model_dump() | clip, "no file at .*data/weights/clip.pt"),
    ):
        with pytest.raises(SsferError, match=message):
            run(method="sitfer", methods={"sitfer": {"text": changes}})
    assert not WEIGHTS.exists() and not list(Path(".scratch").rglob("*.pt"))


def test_headline_is_the_methods_own_or_the_one_asked_for(project: Path) -> None:
    run()
    written = {}
    for headline in ("auto", "teacher", "student"):
        run_evaluate(settings(evaluate={"headline": headline}))
        written[headline] = [Path(f"metrics/{name}").read_bytes() for name in ("evaluate.json", "confusion.csv")]
    assert written["auto"] == written["teacher"] != written["student"]
    assert read_metrics("evaluate")["headline_model"] == "student_last"


def test_a_headline_that_the_method_does_not_train_is_refused(project: Path) -> None:
    run(method="fixmatch")
    with pytest.raises(SsferError, match="is teacher, but semisup.method fixmatch trains student only; set it"):
        run_evaluate(settings(method="fixmatch", evaluate={"headline": "teacher"}))
    assert not Path("metrics/evaluate.json").exists()


def test_report_and_model_card_do_without_a_teacher(project: Path) -> None:
    params = settings(method="fixmatch", extra={"faces": 4, "threshold": 0.0})
    run(method="fixmatch", extra={"faces": 4, "threshold": 0.0})
    run_evaluate(params)
    counts = {name: {"labeled": 6, "valid": 2, "unlabeled": 8, "test": 4} for name in factory.CLASSES}
    numbers = {"hash": "ab", "labeled": 18, "valid": 6, "unlabeled": 24, "test": 12, "per_class": counts}
    write_json(Path("metrics/split.json"), {"split": numbers})
    params = params.model_copy(update={"report": params.report.model_copy(update={"gallery": False})})
    page, card = build_report(params), build_model_card(params)
    assert "the model “FixMatch” names the expression class" in page and "+ FixMatch</td>" in page
    assert "pseudo-labels of FixMatch (threshold 0.3)" in card and "student_last.safetensors (headline)" in card
    assert "4 of the corpus, chosen by 1 models" in card and "pretraining only" not in card
    assert "teacher" not in card.lower()


@pytest.mark.parametrize(
    ("method", "epochs"),
    [("ema_teacher", 1), ("fixmatch", 1), ("fixmatch", 0)],
)
def test_without_unlabeled_images_or_epochs_the_fine_tuned_weights_are_passed_on(
    method: str, epochs: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path("data/weights/finetune/facemix_last.safetensors")
    split = load_split()
    if epochs:
        change_split(labeled=[*split["labeled"], *split["unlabeled"]], unlabeled=[])
    params = settings(method=method, epochs=epochs, evaluate={"headline": "auto"})
    result = run(method=method, epochs=epochs)
    why = "no unlabeled image" if epochs else "semisup.epochs is 0"
    assert f"semisup: {why}, the fine-tuned weights are passed on" in capsys.readouterr().err
    assert result["epochs"] == 0 and result["util_ratio"] is None
    fine_tuned = load_weights(start)[0]
    assert {p.name for p in WEIGHTS.iterdir()} == {f"{name}_last.safetensors" for name in METHODS[method].exports}
    for path in WEIGHTS.iterdir():
        state = load_weights(path)[0]
        assert state.keys() == fine_tuned.keys() and all(torch.equal(state[k], fine_tuned[k]) for k in state)
    found = run_evaluate(params)
    assert (found["headline_model"], found["trained_nothing"]) == ("facemix_last", method)
    assert (
        not {"teacher", "student"} & found["models"].keys() and found["headline"] == found["models"]["facemix"]["last"]
    )
    assert "trained nothing, so the result is that of facemix" in capsys.readouterr().err
    assert list(weight_files(["auto"])) == ["facemix"]
    counts = {name: {"labeled": 14, "valid": 2, "unlabeled": 0, "test": 4} for name in factory.CLASSES}
    numbers = {"hash": "ab", "labeled": 42, "valid": 6, "unlabeled": 0, "test": 12, "per_class": counts}
    write_json(Path("metrics/split.json"), {"split": numbers})
    params = params.model_copy(update={"report": params.report.model_copy(update={"gallery": False})})
    title = METHODS[method].title
    said = f"{title} had no unlabeled face and trained nothing" if epochs else "Only the labels were used, as semisup"
    page = re.sub(r"<[^>]+>", "", build_report(params))  # terms are links
    assert said in page
    card = build_model_card(params)
    assert "facemix_last.safetensors (headline)" in card and said in card
    assert f"with pseudo-labels of {title}" not in card


def test_the_papers_number_beside_a_method_is_that_methods() -> None:
    """RAF-DB, 5 % labels: tables 2, 10 and 12."""
    for method, expected in (("ema_teacher", {"teacher": 0.8096}), ("fixmatch", {"student": 0.7017})):
        params = settings(method=method, split={"labeled_fraction": 0.05})
        params = params.model_copy(update={"data": params.data.model_copy(update={"classes": "rafdb"})})
        assert paper_numbers(params) == pytest.approx({"plain": 0.7988, "facemix": 0.8057} | expected)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_through_the_stage_evaluation_report_and_model_card(project: Path, method: str) -> None:
    result = run(method=method, epochs=1, average=0.5)
    assert 0 <= result["util_ratio"] <= 1
    row = curve()[0]
    own = {"ccssl": ["contrastive_loss"], "leaf": ["balance_loss", "contrastive_loss"], "sitfer": ["text_loss"]}
    assert list(row)[: len(semisup.COLUMNS)] == list(semisup.COLUMNS)
    if method in ("ema_teacher", *own):
        assert list(row)[len(semisup.COLUMNS) :] == own.get(method, [])
        assert all(float(row[name]) >= 0 for name in own.get(method, ()))
    assert all(row[k] for k in ("loss", "labeled_loss", "unlabeled_loss", "grad_norm", "val_accuracy"))
    params = settings(method=method, average=0.5)
    exports, result = METHODS[method].exported(0.5), run_evaluate(params)
    assert {"student", METHODS[method].running_average} <= set(exports)
    assert {p.stem for p in WEIGHTS.glob("*")} == {f"{n}_{when}" for n in exports for when in ("last", "best")}
    assert set(result["models"]) == {"facemix", *exports}
    assert result["headline"] == result["models"][METHODS[method].evaluated]["last"]
    counts = {name: {"labeled": 6, "valid": 2, "unlabeled": 8, "test": 4} for name in factory.CLASSES}
    numbers = {"hash": "ab", "labeled": 18, "valid": 6, "unlabeled": 24, "test": 12, "per_class": counts}
    write_json(Path("metrics/split.json"), {"split": numbers})
    params = params.model_copy(update={"report": params.report.model_copy(update={"gallery": False})})
    title = METHODS[method].title
    assert f"+ {title}</td>" in build_report(params)
    assert ("an EMA teacher" if method == "ema_teacher" else title) in build_model_card(params)


def test_methods_know_how_long_the_run_is(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Any] = []
    build = semisup.build_method
    monkeypatch.setattr(semisup, "build_method", lambda *a: known.append(a[3]) or build(*a))
    run(epochs=3)  # 24 unlabeled images, 4 a step
    assert (known[0].steps, known[0].unlabeled, list(known[0].labeled)) == (18, 24, [6, 6, 6])


# --- views ---


def test_views_of_one_kind_are_independent_draws_and_the_letter_says_the_kind(project: Path) -> None:
    for method in METHODS:
        unlabeled, labeled = _streams(settings(method=method))
        views = {suffix: type(transform) for suffix, transform in unlabeled.views.items()}
        assert views == {v: {"w": Weak, "s": Strong}[v[0]] for v in METHODS[method].views}
        assert [type(t) for t in labeled.views.values()] == [{"w": Weak, "s": Strong}[METHODS[method].labeled_view]]
    batch = StepBatches(_streams(settings(method="remixmatch")), 1)[0]
    first, second, weak = (batch[f"x_ulb_{v}"] for v in ("s", "s2", "w"))
    assert not torch.equal(first, second) and not torch.equal(first, weak) and first.shape == second.shape


def test_a_view_that_the_data_cannot_give_is_refused_before_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS["fixmatch"], "views", ("w", "audio2"))
    with pytest.raises(SsferError, match=r"unknown view that method fixmatch needs 'audio2' \(known: s, w\)"):
        semisup.run_semisup(settings(method="fixmatch"))
    assert not WEIGHTS.exists()


# --- beyond the paper ---


@pytest.mark.parametrize(("method", "at"), [("ema_teacher", 0.36), ("fixmatch", 0.5)])
def test_each_correction_of_imbalance_changes_the_run_and_nothing_else_does(
    project: Path, method: str, at: float
) -> None:
    labeled = load_split()["labeled"]
    change_split(labeled=[*labeled[:6], *labeled[6::3]])  # more of the first class than of the others
    results = {}
    for switch, value in (
        ("none", None), ("distribution_alignment", True), ("class_thresholds", True), ("logit_adjustment", 1.0),
    ):  # fmt: skip
        run(method=method, epochs=3, imbalance={switch: value} if value else {}, methods={method: {"threshold": at}})
        results[switch] = exported()
    plain = results.pop("none")
    for switch, state in results.items():
        assert state.keys() == plain.keys()  # weights files hold the network alone
        assert any(not torch.equal(state[k], plain[k]) for k in plain), switch


def test_extra_faces_join_the_unlabeled_stream_and_are_counted(project: Path, streams: list[Any]) -> None:
    without, plain = run(epochs=1), exported()
    found = run(epochs=1, extra={"faces": 8, "threshold": 0.0})
    assert "extra" not in without
    assert found["extra"]["faces"] == 8 and found["extra"]["candidates"] == 12
    assert read_metrics("semisup")["extra"] == found["extra"]
    (labeled, before), (labeled_too, after) = streams
    assert labeled.ids == labeled_too.ids and after.ids[:24] == before.ids and len(after) == 32
    assert after.labels.tolist() == [*before.labels.tolist(), *[-1] * 8]
    assert any(not torch.equal(v, plain[k]) for k, v in exported().items())
    assert not list(Path(".scratch").rglob("faces.json"))  # the choice goes with the snapshots


def test_without_extra_faces_the_corpus_is_not_needed(project: Path) -> None:
    before = run()
    shutil.rmtree("data/corpus")
    assert run() == before
