"""The report page and the model card from a small made-up run: right numbers, nothing loaded, faces only on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssfer.config.schema import parse_params
from ssfer.core.errors import SsferError
from ssfer.report import conclusions, plots, results
from ssfer.report.model_card import build_model_card
from ssfer.report.page import build_report
from tests.support.report_runs import (
    ARMS,
    CLASSES,
    PER_CLASS,
    K,
    Page,
    edit,
    fake_faces,
    fake_metrics,
    fake_model,
    fake_weights,
    make_params,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def standard_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the made-up run with its real pictures, drawn once."""
    folder = tmp_path_factory.mktemp("standard")
    fake_metrics(folder)
    return build_report(make_params(), folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the drawing, the slow part, where pictures are not the point."""
    buffer = BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    for name in ("ladder_png", "confusion_png", "curves_png", "small_multiples_png"):
        monkeypatch.setattr(plots, name, lambda *_: buffer.getvalue())


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    fake_metrics(tmp_path / "metrics")
    return tmp_path / "metrics"


# The page --------------------------------------------------------------------------------------------------------


def test_page_tells_the_headline_and_what_to_compare_it_with(metrics: Path, standard_page: str) -> None:
    page = Page(standard_page)
    evaluate = json.loads((metrics / "evaluate.json").read_text())["evaluate"]
    probs, labels = fake_model(4, ARMS["teacher"])
    accuracy = f"{(probs.argmax(axis=1) == labels).mean() * 100:.1f}%"
    scratch = f"{evaluate['models']['scratch']['last']['accuracy'] * 100:.1f}%"
    assert (
        "Trained with 602 labels (10% of each class; 63 of them only choose a checkpoint), the model “EMA teacher” "
        f"names the expression class of {accuracy} of 1,050 unseen test faces correctly; guessing or always answering "
        f"“anger” gives 14.3%, the same network trained from scratch on the same labels {scratch}."
    ) in page.text
    low, high = evaluate["headline"]["accuracy_ci95"]
    assert f"95% interval {low * 100:.1f}% to {high * 100:.1f}%" in page.text
    for name in ("from scratch", "+ MAE pretraining", "+ FaceMix", "+ EMA teacher", "EMA teacher's student"):
        assert name in page.text
    for model in evaluate["models"].values():
        assert f"{model['best']['mean_recall'] * 100:.1f}%" in page.text
    assert [page.text.count(f"validation-selected, epoch {e}") for e in (84, 17)] == [3, 2]
    assert "ab" * 32 in page.text
    assert "near duplicate 18" in page.text and "several faces 6" in page.text
    assert "not a felt emotion" in page.text and "employment" not in page.text


def test_page_loads_nothing_and_is_small_valid_html(standard_page: str) -> None:
    text, page = standard_page, Page(standard_page)
    assert all(source.startswith("data:image/") for source in page.sources) and len(page.sources) == 6
    assert not {"script", "iframe", "link", "object", "form"} & page.tags
    assert re.search(r"https?:|url\(|@import", text) is None
    assert page.links and {link.removeprefix("#") for link in page.links} <= {*page.ids}
    assert len(page.ids) == len({*page.ids})
    assert "default-src 'none'" in text
    assert len(text) < 1_500_000


def test_pictures_are_readable_pngs(standard_page: str) -> None:
    for source in Page(standard_page).sources:
        picture = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
        picture.load()
        assert picture.format == "PNG" and picture.width > 500
        assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_same_run_gives_the_same_bytes(metrics: Path, standard_page: str) -> None:
    assert build_report(make_params(), metrics) == standard_page


@pytest.mark.usefixtures("undrawn")
def test_title_is_escaped(metrics: Path) -> None:
    title = "<script>alert(1)</script> & 'co'"
    text = build_report(make_params(report__title=title), metrics)
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in text
    assert title in Page(text).text


@pytest.mark.usefixtures("undrawn")
def test_faces_are_shown_only_if_the_gallery_is_on(metrics: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    fake_faces(data, make_params())
    shut, shown = (
        build_report(make_params(report__gallery=on, report__mistakes=0), metrics, data) for on in (False, True)
    )
    assert "image/jpeg" not in shut and "report.gallery is false" in Page(shut).text
    jpegs = [s for s in Page(shown).sources if s.startswith("data:image/jpeg")]
    assert len(jpegs) == 1 + K
    sizes = [Image.open(BytesIO(base64.b64decode(s.partition(",")[2]))).size for s in jpegs]
    assert sizes[0] == (672, 224)  # 96 x 32 enlarged seven times
    assert set(sizes[1:]) == {(2 * 72 + 4, 72)}


def test_contents_list_every_section_and_terms_are_explained_once(standard_page: str) -> None:
    page = Page(standard_page)
    sections = re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', standard_page)
    contents = standard_page.partition("<nav")[2].partition("</nav>")[0]
    assert re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents) == sections and len(sections) >= 10
    terms = [name for name in page.ids if name.startswith("term-")]
    assert {*terms} == {link.removeprefix("#") for link in page.links if link.startswith("#term-")}
    assert page.text.count("the mean gap between confidence and accuracy") == 1  # ECE, in the glossary's words


def test_plots_follow_the_color_scheme(standard_page: str) -> None:
    dark = re.findall(r"@media screen and \(prefers-color-scheme: dark\) \{ ([^}]+)", standard_page)
    assert any(rule.startswith(".plot img") and "invert(1)" in rule for rule in dark)
    assert standard_page.count('<figure class="plot">') == 6 and "<figure>" not in standard_page


@pytest.mark.usefixtures("undrawn")
def test_settings_are_those_of_the_chosen_method_only(metrics: Path) -> None:
    text = build_report(make_params(), metrics)
    assert "ema_<wbr>teacher.<wbr>ema_<wbr>decay" in text and "vat.<wbr>" not in text


@pytest.mark.usefixtures("undrawn")
def test_figures_of_the_paper_are_linked_or_their_command_is_named(metrics: Path, tmp_path: Path) -> None:
    from ssfer.report.figures import TITLES as named
    from ssfer.stages.figures import FIGURES as drawn

    assert {*named} == {*drawn}
    text = build_report(make_params(), metrics)
    assert all(f"ssfer figure {name}" in text for name in named)
    fake_faces(tmp_path / "data", make_params())
    shown = build_report(make_params(report__gallery=True), metrics, tmp_path / "data")
    assert "ssfer figure reconstructions" not in shown and '<a href="#reconstruction">on this page' in shown


@pytest.mark.usefixtures("undrawn")
def test_gallery_without_data_says_so(metrics: Path, tmp_path: Path) -> None:
    page = Page(build_report(make_params(report__gallery=True), metrics, tmp_path / "nowhere"))
    assert "The pictures are not here" in page.text


# What may be missing ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_optional_results_may_be_missing(metrics: Path) -> None:
    for name in ("align", "corpus", "pretrain", "finetune", "semisup"):
        (metrics / f"{name}.json").unlink()
    for path in (metrics / "curves").iterdir():
        path.unlink()

    def shrink(content: dict[str, Any]) -> None:
        content["models"] = {"facemix": content["models"]["facemix"], "teacher": content["models"]["teacher"]}
        for model in content["models"].values():
            del model["best"]

    edit(metrics / "evaluate.json", shrink)
    page = Page(build_report(make_params(), metrics))
    assert "No curves" in page.text and "No validation part" in page.text
    assert "trained from scratch on" not in page.text and len(page.sources) == 2


def test_absent_class_and_header_only_curves_are_survived(metrics: Path) -> None:
    (metrics / "curves/semisup.csv").write_text(
        "epoch,labeled_loss,unlabeled_loss,util_ratio,pseudo_acc,val_accuracy\n"
    )

    def drop(content: dict[str, Any]) -> None:
        for m in (content["headline"], *(v for model in content["models"].values() for v in model.values())):
            m["recall"]["fear"] = None

    edit(metrics / "evaluate.json", drop)
    assert "semisup" not in build_report(make_params(), metrics).partition('<h2 id="settings">')[0]


@pytest.mark.parametrize("name", ["evaluate.json", "split.json", "confusion.csv"])
def test_missing_required_result_is_told(metrics: Path, name: str) -> None:
    (metrics / name).unlink()
    with pytest.raises(SsferError, match=f"{name} is missing; run"):
        build_report(make_params(), metrics)


def test_contradicting_or_incomplete_results_are_told(metrics: Path) -> None:
    rows = (metrics / "confusion.csv").read_text().splitlines()
    (metrics / "confusion.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(SsferError, match=r"1049 rows, evaluate.json counts 1050"):
        build_report(make_params(), metrics)
    (metrics / "confusion.csv").write_text("\n".join([*rows, "joy,anger"]))
    with pytest.raises(SsferError, match=r"\['joy'\]"):
        build_report(make_params(), metrics)
    edit(metrics / "evaluate.json", lambda content: content.pop("headline"))
    with pytest.raises(SsferError, match="lacks headline; run dvc repro evaluate"):
        build_report(make_params(), metrics)


# What the numbers mean -------------------------------------------------------------------------------------------


def set_accuracy(content: dict[str, Any], name: str, value: float, half: float) -> None:
    content["models"][name]["last"] |= {"accuracy": value, "accuracy_ci95": [value - half, value + half]}
    if name == "teacher":
        content["headline"] = content["models"]["teacher"]["last"]


@pytest.mark.parametrize(
    ("teacher", "gain", "level", "words"),
    [
        (0.90, 0.10, "good", "EMA teacher: +10.0 points, beyond the uncertainty"),
        (0.82, 0.02, "note", "EMA teacher: +2.0 points, within the uncertainty of 1,050 test images"),
        (0.70, -0.10, "bad", "EMA teacher: \N{MINUS SIGN}10.0 points, beyond the uncertainty"),
    ],
)
def test_gain_is_judged_by_the_intervals(metrics: Path, teacher: float, gain: float, level: str, words: str) -> None:
    def change(content: dict[str, Any]) -> None:
        set_accuracy(content, "facemix", 0.80, 0.02)
        set_accuracy(content, "teacher", teacher, 0.02)

    edit(metrics / "evaluate.json", change)
    run = results.load_results(make_params(), metrics)
    step = conclusions.gain(run, "teacher")
    assert step is not None and step[0] == pytest.approx(gain) and step[1] is (level != "note")
    (found,) = [f for f in conclusions.find(run) if f.text.startswith("EMA teacher:")]
    assert found.level == level and words in found.text
    assert conclusions.gain(run, "scratch") is None and conclusions.gain(run, "student") is None


def test_the_hyphen_of_a_name_stays_and_the_minus_of_a_loss_is_one(metrics: Path) -> None:
    edit(metrics / "evaluate.json", lambda content: set_accuracy(content, "teacher", 0.5, 0.02))
    run = results.load_results(make_params(semisup__method="ada_cm"), metrics)
    (found,) = [f.text for f in conclusions.find(run) if f.text.startswith("Ada-CM: \N{MINUS SIGN}")]
    assert "-" not in found.removeprefix("Ada-CM")


def test_most_frequent_class_is_named_beside_chance_where_they_differ(metrics: Path) -> None:
    edit(metrics / "evaluate.json", lambda content: content.update(majority_rate=0.25))
    sentence = conclusions.headline_sentence(results.load_results(make_params(), metrics))
    assert "guessing gives 14.3%, always answering “anger” 25.0%, the same network" in sentence


def test_finetune_curves_hold_the_main_arm_and_the_baselines(metrics: Path) -> None:
    rows = results.load_results(make_params(), metrics).curves["finetune"]
    assert {row["arm"] for row in rows} == {"facemix", "scratch", "plain"} and len(rows) == 300
    assert results.points(rows, "val_accuracy")[0][:3] == [4, 9, 14]


def test_result_near_the_majority_rate_is_called_out(metrics: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        set_accuracy(content, "teacher", 0.42, 0.03)
        content["majority_rate"] = 0.40

    edit(metrics / "evaluate.json", change)
    first = conclusions.find(results.load_results(make_params(), metrics))[0]
    assert first.level == "bad" and "not distinguishable" in first.text and "40.0%" in first.text
    edit(metrics / "evaluate.json", lambda content: content.update(majority_rate=0.46))
    first = conclusions.find(results.load_results(make_params(), metrics))[0]
    assert first.level == "bad" and first.text == "The result is worse than an answer without looking (46.0%)."


def test_classes_that_are_found_equally_often_have_no_weakest(metrics: Path) -> None:
    edit(metrics / "evaluate.json", lambda content: content["headline"].update(recall=dict.fromkeys(CLASSES, 0.5)))
    said = [finding.text for finding in conclusions.find(results.load_results(make_params(), metrics))]
    assert "Every class is found equally often (50.0%)." in said and not [t for t in said if "Weakest" in t]


def test_no_pseudo_label_at_all_is_said(metrics: Path) -> None:
    path = metrics / "curves/pseudo_labels.csv"
    table = pd.read_csv(path)
    table.assign(coverage=0.0, accuracy=np.nan).to_csv(path, index=False)
    said = [finding.text for finding in conclusions.find(results.load_results(make_params(), metrics))]
    assert [t for t in said if t.startswith("Pseudo-labels")] == [
        "Pseudo-labels: none was used in the last epoch; no prediction was confident enough."
    ]


def test_top_confusion_is_the_planted_one(metrics: Path) -> None:
    run = results.load_results(make_params(), metrics)
    true, told, share = conclusions.top_confusions(run)[0]
    fear, surprise = CLASSES.index("fear"), CLASSES.index("surprise")
    assert (true, told) == ("fear", "surprise")
    assert share == pytest.approx(run.confusion[fear, surprise] / PER_CLASS)


def test_a_class_without_unlabeled_faces_is_not_the_least_used(metrics: Path) -> None:
    path = metrics / "curves/pseudo_labels.csv"
    lines = path.read_text().splitlines()
    header = lines[0].split(",")
    fear = [line.split(",") for line in lines[1:] if line.split(",")[header.index("class")] == "fear"]
    kept = [header.index(name) for name in header if name not in ("coverage", "accuracy")]
    blank = {",".join(row): ",".join(v if i in kept else "" for i, v in enumerate(row)) for row in fear}
    path.write_text("\n".join(blank.get(line, line) for line in lines))
    said = [finding.text for finding in conclusions.find(results.load_results(make_params(), metrics))]
    least = next(text for text in said if text.startswith("Pseudo-labels: least used for"))
    assert "for fear" not in least and "–" not in least


def test_a_class_called_null_keeps_its_curve(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("epoch,class,coverage\n1,null,0.5\n2,null,\n")
    assert results.read_curve(tmp_path / "curve.csv") == [
        {"epoch": 1.0, "class": "null", "coverage": 0.5},
        {"epoch": 2.0, "class": "null", "coverage": None},
    ]


def test_pseudo_label_table_takes_first_and_last_epoch(metrics: Path) -> None:
    table = {row["class"]: row for row in conclusions.pseudo_label_table(results.load_results(make_params(), metrics))}
    assert list(table) == list(CLASSES)
    assert table["anger"]["coverage_first"] == pytest.approx(0.6)
    assert table["anger"]["coverage"] == pytest.approx(0.9 - 0.3 * 0.8**19)
    assert table["fear"]["accuracy_first"] is None  # nothing passed the threshold yet


@pytest.mark.parametrize(
    ("classes", "split", "mode", "expected"),
    [
        ("synthetic", {"labeled_fraction": 0.1}, "facemix", None),
        ("rafdb", {"labeled_fraction": 0.05}, "facemix", {"plain": 0.7988, "facemix": 0.8057, "teacher": 0.8096}),
        ("rafdb", {"labeled_fraction": 0.05}, "none", {"plain": 0.7988, "facemix": 0.8057, "teacher": 0.8018}),
        ("affectnet8", {"labeled_fraction": 0.01}, "facemix", {"facemix": 0.5362, "teacher": 0.5385}),
        ("ferplus", {"labeled_fraction": 0.07}, "facemix", {}),
        ("affectnet8", {"labeled_fraction": 0.01, "fold": 0}, "facemix", {}),
        ("affectnet8", {"labeled_fraction": 0.01, "label_noise": 0.1}, "facemix", {}),
        ("affectnet8", {"labeled_fraction": 0.01, "redraw_for_semi": True}, "facemix", {}),
        ("ferplus", {"labeled_fraction": None, "labeled_total": 400}, "facemix", {}),
    ],
)
def test_paper_numbers_are_those_of_the_same_data_and_label_share(
    classes: str, split: dict[str, Any], mode: str, expected: dict[str, float] | None
) -> None:
    raw = make_params(data__classes=classes).model_dump(mode="json")
    raw["split"] |= split
    raw["finetune"]["facemix"]["mode"] = mode
    numbers = results.paper_numbers(parse_params(raw))
    assert numbers is None if expected is None else numbers is not None
    for name, value in (expected or {}).items():
        assert numbers is not None and numbers[name] == pytest.approx(value)
    assert bool(numbers) == bool(expected)


@pytest.mark.usefixtures("undrawn")
def test_paper_numbers_stand_beside_ours(metrics: Path) -> None:
    page = Page(build_report(make_params(data__classes="rafdb", split__labeled_fraction=0.05), metrics))
    assert "80.96%" in page.text and "ViT-B/16 at 224 px" in page.text
    assert "None exist for this data set (synthetic)" in Page(build_report(make_params(), metrics)).text


# Plots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fonts", "sentences"), [((), 1), (("Last Resort High-Efficiency",), 0)])
def test_letters_without_a_font_are_one_sentence_and_no_warnings(
    fonts: tuple[str, ...], sentences: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else matplotlib warns of each letter; a font of matplotlib's that has all letters stands for an installed one."""
    monkeypatch.setattr(plots, "FALLBACK_FONTS", fonts)
    plots._say_missing_font.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            plots.confusion_png(np.array([[2, 0], [1, 3]]), ["\U00012000", "怒り"])
    assert capsys.readouterr().err.count("no font that is installed here") == sentences


def test_plots_take_the_smallest_and_odd_inputs() -> None:
    one = plots.Step("only", 1.0, (0.9, 1.0))
    for png in (
        plots.ladder_png([one], 0.5, 0.5),
        plots.confusion_png(np.array([[0, 0], [3, 1]]), ["a", "b"]),  # a class without images
        plots.curves_png([plots.Panel("p", {"empty": ([], []), "x": ([1], [0.5])}, rate=True)]),
        plots.small_multiples_png([plots.Panel(str(i), {"x": ([1, 2], [0.5, 0.6])}, rate=True) for i in range(5)]),
    ):
        assert Image.open(BytesIO(png)).format == "PNG"


# The model card --------------------------------------------------------------------------------------------------


def test_model_card_tells_use_data_results_and_hashes(metrics: Path, tmp_path: Path) -> None:
    params = make_params()
    fake_weights(tmp_path / "weights", params)
    card = build_model_card(params, metrics, tmp_path / "weights")
    evaluate = json.loads((metrics / "evaluate.json").read_text())["evaluate"]
    assert f"| + EMA teacher | last epoch | {evaluate['headline']['accuracy'] * 100:.2f}% |" in card
    assert f"| fear | 86 | 150 | {evaluate['headline']['recall']['fear'] * 100:.1f}% |" in card
    for text in (
        "Apache-2.0", "CC0", "rendered faces only", "as of 2026-11", "Art. 5(1)(f)", "mtcnn-similarity5-v2-64",
        "color order RGB", "anger, disgust, fear", "0.588, 0.459, 0.402", "ab" * 32, "not felt emotions",
    ):  # fmt: skip
        assert text in card, text
    file = tmp_path / "weights/semisup/teacher_last.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"| teacher_last.safetensors (headline) | {file.stat().st_size} | `{digest}` |" in card
    assert card.count(".safetensors") == 3 and "; 6 parameters." in card
    assert "c0ffee" not in card  # the commit would change the card at every commit
    assert card == build_model_card(params, metrics, tmp_path / "weights")


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({"split__redraw_for_semi": True}, "bad", "LABEL LEAK, asked for by split.redraw_for_semi"),
        ({"split__label_noise": 0.2}, "note", "20.0% of the labels are wrong on purpose"),
        ({"split__fold": 3}, "note", "The test faces are fold 3 of 5 of the training images"),
    ],
)
def test_an_unusual_split_is_told_before_any_number(
    change: dict[str, Any], level: str, text: str, metrics: Path
) -> None:
    first, second = (conclusions.find(results.load_results(make_params(**c), metrics))[0] for c in (change, {}))
    assert (first.level, first.text[: len(text)]) == (level, text)
    assert text not in second.text


def test_model_card_of_licensed_data_passes_the_terms_on(metrics: Path, tmp_path: Path) -> None:
    raw = make_params().model_dump(mode="json")
    raw["data"]["sources"][0]["kind"] = "ferplus"
    fake_weights(tmp_path / "weights", make_params())
    card = build_model_card(parse_params(raw), metrics, tmp_path / "weights")
    assert "weights inherit the terms" in card and "FER2013" in card and "rendered faces only" not in card


def test_model_card_leaves_out_sources_that_were_absent(metrics: Path, tmp_path: Path) -> None:
    raw = make_params().model_dump(mode="json")
    gone = {"name": "gone", "kind": "celeba", "path": "gone", "align": "resize", "optional": True}
    raw["data"]["sources"].append(gone)
    fake_weights(tmp_path / "weights", make_params())
    assert "| gone | unlabeled, pretraining only | CelebA" in build_model_card(
        parse_params(raw), metrics, tmp_path / "weights"
    )
    corpus = json.loads((metrics / "corpus.json").read_text())
    corpus["corpus"]["absent"] = ["gone"]
    (metrics / "corpus.json").write_text(json.dumps(corpus))
    assert "gone" not in build_model_card(parse_params(raw), metrics, tmp_path / "weights")


def test_model_card_tells_whose_weights_training_began_with(metrics: Path, tmp_path: Path) -> None:
    fake_weights(tmp_path / "weights", make_params())
    raw = make_params().model_dump(mode="json")
    assert f"masked autoencoder ({raw['pretrain']['epochs']} epochs, 75%" in build_model_card(
        parse_params(raw), metrics, tmp_path / "weights"
    )
    raw["pretrain"] |= {"init_from": "theirs.safetensors", "init_sha256": "ab12" * 16}
    card = build_model_card(parse_params(raw), metrics, tmp_path / "weights")
    assert "epochs on from other weights, 75%" in card and "sha256 begins with ab12ab12ab12; their terms hold" in card
    raw["pretrain"]["epochs"] = 0
    card = build_model_card(parse_params(raw), metrics, tmp_path / "weights")
    assert "an encoder taken over from other weights" in card and "75%" not in card


def test_model_card_needs_the_headline_weights_of_the_same_classes(metrics: Path, tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"no weights at .*teacher_last.safetensors"):
        build_model_card(make_params(), metrics, tmp_path / "weights")
    fake_weights(tmp_path / "weights", make_params())

    def turn(content: dict[str, Any]) -> None:
        content["classes"] = content["classes"][::-1]

    edit(metrics / "evaluate.json", turn)
    with pytest.raises(SsferError, match="different runs"):
        build_model_card(make_params(), metrics, tmp_path / "weights")


# The stage -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_stage_writes_both_files_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages.report import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSFER_MLFLOW", "0")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    fake_metrics(tmp_path / "metrics")
    with pytest.raises(SsferError, match="no weights"):
        main()
    assert not (tmp_path / "metrics/report.html").exists()
    fake_weights(tmp_path / "data/weights", make_params())
    main()
    assert (tmp_path / "metrics/report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "MODEL_CARD.md").read_text().startswith("# Model card: ")
    assert capsys.readouterr().out.count("\n") == 1
