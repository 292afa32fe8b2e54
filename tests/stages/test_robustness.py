"""Stage robustness on a small project: numbers against a slow oracle, what it reads, writes, shows and refuses."""

from __future__ import annotations

import csv
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.pixels import normalize
from ssfer.core.rng import counter_uniform
from ssfer.core.yaml import read_yaml
from ssfer.data.augmentations.eval import Eval
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.attack.batch import AttackedBatch
from ssfer.evaluation.attack.fgsm import ascent, perturb
from ssfer.evaluation.attack.forward import to_pixels
from ssfer.evaluation.attack.gradcam import grad_cam
from ssfer.evaluation.attack.masks import REGIONS
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import accuracy
from ssfer.formats.metrics import read_metrics
from ssfer.report.attack_page import paper_table7, robustness_pictures, robustness_section
from ssfer.report.results import Results
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier, split_dataset, stored_faces
from ssfer.stages.robustness import even_choice, images_at_once, one_per_class, run_robustness, weight_files
from ssfer.train.device import Machine
from tests.support import factory

TEACHER = Path("data/weights/semisup/teacher_last.safetensors")
EPSILONS = ["0", "0.02", "0.04", "0.06", "0.08", "0.1"]
SMALL = (0.0, 0.002, 0.004, 0.008)  # steps that the little networks here survive partly
FILES = ("metrics/robustness.json", "metrics/curves/robustness.csv")


def weights(path: Path, params: Params, seed: int) -> None:
    """Write a classifier that knows something: a random body, a head fitted to the labeled images by least squares."""
    model = seeded_classifier(params, len(factory.CLASSES), seed).eval()
    rng = np.random.RandomState(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.from_numpy(rng.standard_normal(weight.shape) * 0.2).float())
        known = split_dataset(load_split(), "labeled", params)
        pixels = torch.stack([Eval(16)(known.image(i), known.boxes[i], 0).image for i in range(len(known))])
        features = model.forward_features(normalize(pixels, params.model.mean, params.model.std))[:, 0]
        targets = 4 * torch.eye(len(factory.CLASSES))[known.labels.tolist()]
        model.head.weight.copy_((torch.linalg.pinv(features) @ targets).T)
    save_classifier(path, model.state_dict(), params, load_split())


def build(root: Path) -> None:
    """Write data and three models into `root`, the working directory."""
    params = factory.write_project(root)
    for seed, name in enumerate(("finetune/facemix_last", "semisup/student_last", "semisup/teacher_last"), start=1):
        weights(TEACHER.parents[1] / f"{name}.safetensors", params, seed)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A project on which the stage has run with params.yaml's settings, and what it returned."""
    root = tmp_path_factory.mktemp("robustness")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build(root)
        return root, run_robustness(factory.tiny_params())


@pytest.fixture
def base(built: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return built[1]


@pytest.fixture
def project(built: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project as the working directory."""
    shutil.copytree(built[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def robust(**changes: Any) -> Params:
    """Return params with other settings of the stage, without pictures of faces."""
    return factory.tiny_params(robustness=changes, report={"gallery": False})


def test_accuracies_equal_a_slow_oracle(project: Path) -> None:
    """One image at a time, everything anew for each epsilon and region."""
    result, params, split = (
        run_robustness(robust(cam_threshold=0.7, epsilons=SMALL)),
        factory.tiny_params(),
        load_split(),
    )
    model = load_classifier(TEACHER, params, split).eval()
    test, mean, std = stored_faces(split, open_test_part(split), params), params.model.mean, params.model.std
    hits = {(region, e): 0 for region in REGIONS for e in ("0", "0.002", "0.004", "0.008")}
    shares = []
    for i, sample in enumerate(test[i] for i in range(12)):
        x = to_pixels(Eval(16)(sample.image, sample.box, 0).image[None])
        label = torch.tensor([sample.label])
        looks = (grad_cam(model, x, mean, std) > 0.7)[:, None]
        shares.append(float(looks.float().mean()))
        for region, e in hits:
            noise = counter_uniform(torch.tensor([i]), 256)[0].tolist()
            chosen = sorted(range(256), key=noise.__getitem__)[: int(looks.sum())]
            random = torch.zeros(256, dtype=torch.bool).index_fill(0, torch.tensor(chosen, dtype=torch.int64), True)
            mask = {"focused": looks, "unfocused": ~looks, "random": random.view_as(looks)}[region]
            attacked = perturb(x, ascent(model, x, label, mean, std), float(e), std, mask)
            logits = model((attacked - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
            hits[region, e] += int(logits.argmax() == sample.label)
    found = result["models"]["teacher"]
    assert {key: round(12 * found[key[0]][key[1]]["accuracy"]) for key in hits} == hits
    assert found["focused_share"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert found["without_focus"] == shares.count(0)
    assert hits["focused", "0.008"] > hits["unfocused", "0.008"], "the regions differ"
    assert len(set(hits.values())) > 3 and 0 < np.mean(shares) < 1, "the attack changes something"


def test_clean_accuracy_is_that_of_stage_evaluate(project: Path, base: dict[str, Any]) -> None:
    params, split, found = factory.tiny_params(), load_split(), base["models"]["teacher"]
    test = stored_faces(split, open_test_part(split), params)
    model = load_classifier(TEACHER, params, split)
    expected = accuracy(predict(model, test, machine=Machine(params.machine), model=params.model), test.labels)
    assert 0 < expected < 1
    for region in REGIONS:
        assert found[region]["0"]["accuracy"] == pytest.approx(expected, abs=1e-6)
        low, high = found[region]["0"]["accuracy_ci95"]
        assert low < expected < high


def test_stage_writes_what_dvc_yaml_declares_and_the_same_bytes_each_time(
    project: Path, built: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(Path("params.yaml"), factory.tiny_params().model_dump(mode="json"))
    pictures = [f"data/reports/robustness/{name}.png" for name in ("accuracy", "faces_teacher")]
    for name in (*FILES, *pictures):
        Path(name).unlink()
    runpy.run_module("stages.robustness", run_name="__main__")
    found = built[1]["models"]["teacher"]
    clean, focused = (100 * found["focused"][e]["accuracy"] for e in ("0", "0.1"))
    said = f"robustness: teacher {clean:.2f} % on 12 test faces; at epsilon 0.1 {focused:.2f} % (focused region"
    assert capsys.readouterr().out.startswith(said)
    for name in (*FILES, *pictures):
        assert Path(name).read_bytes() == (built[0] / name).read_bytes(), name
    stage = read_yaml(factory.ROOT / "dvc.yaml")["stages"]["robustness"]
    assert [next(iter(entry)) for kind in ("metrics", "plots") for entry in stage[kind]] == list(FILES)
    assert {str(path.parent) for path in Path("data/reports").rglob("*.*")} == set(stage["outs"][0])


def test_metrics_and_curve_say_the_same(project: Path) -> None:
    result = run_robustness(robust(models=["facemix", "auto"]))
    metrics = read_metrics("robustness")
    assert metrics == result
    assert metrics["split"] == load_split()["hash"]
    assert (metrics["test_images"], metrics["space"], metrics["cam_threshold"]) == (12, "pixel", 0.3)
    with open(FILES[1], newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(m, r, e) for m in ("facemix", "teacher") for r in REGIONS for e in EPSILONS]
    assert [(row["model"], row["region"], row["epsilon"]) for row in rows] == expected
    for row in rows:
        assert float(row["accuracy"]) == metrics["models"][row["model"]][row["region"]][row["epsilon"]]["accuracy"]


def test_no_face_leaves_the_data_unless_allowed_and_the_batch_size_does_not_matter(
    project: Path, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Path("data/reports/robustness")
    assert {p.name for p in pictures.iterdir()} == {"accuracy.png", "faces_teacher.png"}  # of the run before
    sizes: list[int] = []

    def batch(model: Any, images: torch.Tensor, *rest: Any) -> AttackedBatch:
        sizes.append(len(images))
        return AttackedBatch(model, images, *rest)

    monkeypatch.setattr("ssfer.stages.robustness.AttackedBatch", batch)
    found = run_robustness(factory.tiny_params(report={"gallery": False}, machine={"max_batch": 5}))
    assert sizes == [5, 5, 2]
    assert [p.name for p in pictures.iterdir()] == ["accuracy.png"]
    assert found == base


def test_attacks_never_use_tf32(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def noted(*args: Any) -> Any:
        seen.append(torch.backends.cudnn.allow_tf32)
        return AttackedBatch(*args)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    monkeypatch.setattr("ssfer.stages.robustness.AttackedBatch", noted)
    run_robustness(robust())
    assert seen and not any(seen)


def test_both_spaces_and_fewer_images(project: Path) -> None:
    assert run_robustness(robust(images=6))["test_images"] == 6
    pixel, normalized = (run_robustness(robust(epsilons=SMALL, space=space)) for space in ("pixel", "normalized"))
    assert (pixel["space"], normalized["space"]) == ("pixel", "normalized")
    ours, theirs = (found["models"]["teacher"]["unfocused"] for found in (pixel, normalized))
    assert ours["0"] == theirs["0"]
    assert sum(v["accuracy"] for v in ours.values()) < sum(
        v["accuracy"] for v in theirs.values()
    )  # std < 1: it goes less far


def test_images_are_chosen_evenly() -> None:
    assert even_choice(10, None).tolist() == even_choice(10, 99).tolist() == list(range(10))
    assert even_choice(10, 4).tolist() == [0, 2, 5, 7]
    assert even_choice(9, 3).tolist() == [0, 3, 6]


def test_shown_faces_are_the_first_of_each_class() -> None:
    assert one_per_class(np.array([2, 2, 0, 1, 0, 1]), np.array([1, 2, 4, 5])).tolist() == [2, 5, 1]


def test_memory_of_training_bounds_the_batch() -> None:
    machine = factory.tiny_params(machine={"eval_batch_size": 64}).machine
    assert images_at_once(machine) == 64
    assert images_at_once(machine.model_copy(update={"max_batch": 16})) == 16
    assert images_at_once(machine.model_copy(update={"max_batch": 128})) == 64


def test_auto_is_the_teacher_or_the_student_of_a_method_without_one(project: Path) -> None:
    assert list(weight_files(["auto", "student", "teacher"])) == ["teacher", "student"]
    TEACHER.unlink()
    assert weight_files(["auto"]) == {"student": TEACHER.with_name("student_last.safetensors")}


# Refusals


def test_models_that_were_not_trained_are_named(project: Path) -> None:
    with pytest.raises(SsferError, match=r"unknown model in robustness.models 'mixup'.*facemix, student, teacher"):
        run_robustness(robust(models=["mixup"]))


def test_weights_of_another_split_are_refused(project: Path) -> None:
    factory.change_split(params={"seed": 9})
    with pytest.raises(SsferError, match="was trained with another split"):
        run_robustness(robust())


def test_a_split_without_test_images_is_refused(project: Path) -> None:
    factory.change_split(test=[])
    with pytest.raises(SsferError, match="the split has no test image"):
        run_robustness(robust())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epsilons", [0.02, 0.04], "must begin with 0"),
        ("epsilons", [0, 0.04, 0.04], "must begin with 0 .* and grow"),
        ("models", ["teachers"], "robustness.models.*'teacher'.*found 'teachers'"),
    ],
)
def test_wrong_settings_are_refused(key: str, value: object, message: str) -> None:
    raw = factory.tiny_params().model_dump(mode="json")
    raw["robustness"][key] = value
    with pytest.raises(SsferError, match=message):
        parse_params(raw)


# The report's part


def results(params: Params, section: dict[str, Any], split: str) -> Results:
    counts = np.zeros((3, 3), dtype=np.int64)
    return Results(
        params,
        factory.CLASSES,
        {"models": section.get("models", {})},
        {"hash": split},
        {"robustness": section},
        {},
        counts,
    )


def test_report_shows_ours_beside_the_papers(base: dict[str, Any]) -> None:
    ours = base["models"]["teacher"]
    section = {**base, "models": {"facemix": ours, "teacher": ours}}
    ferplus = factory.tiny_params(data={"classes": "ferplus"}, split={"labeled_fraction": 0.25})
    shown = robustness_section(results(ferplus, section, section["split"]))
    assert shown is not None
    facemix, teacher = shown["models"]
    assert (facemix["name"], teacher["name"]) == ("+ FaceMix", "+ EMA teacher")
    assert [row["epsilon"] for row in teacher["rows"]] == EPSILONS
    assert teacher["has_paper"] and not facemix["has_paper"]
    assert teacher["rows"][1]["paper"] == {"focused": 0.3375, "unfocused": 0.4654, "random": None}
    assert teacher["rows"][5]["paper"]["focused"] == pytest.approx(0.2113)
    assert teacher["rows"][1]["ours"]["unfocused"] == ours["unfocused"]["0.02"]["accuracy"]
    assert teacher["focused_share"] == ours["focused_share"]


def test_paper_has_no_number_for_other_settings() -> None:
    ours = {"data": {"classes": "rafdb"}, "split": {"labeled_fraction": 0.25}}
    assert len(paper_table7(factory.tiny_params(**ours))) == 12
    for section, key, value in (
        ("data", "classes", "synthetic"), ("split", "labeled_fraction", 0.1), ("robustness", "cam_threshold", 0.5),
        ("finetune", "facemix", {"mode": "mixup"}), ("semisup", "method", "mean_teacher"),
    ):  # fmt: skip
        changed = {**ours, section: {**ours.get(section, {}), key: value}}
        assert paper_table7(factory.tiny_params(**changed)) == {}
    by_count = {"labeled_fraction": None, "labeled_per_class": 10}
    assert paper_table7(factory.tiny_params(**{**ours, "split": by_count})) == {}
    for key, other in (("fold", 0), ("label_noise", 0.1), ("redraw_for_semi", True)):
        assert paper_table7(factory.tiny_params(**{**ours, "split": {**ours["split"], key: other}})) == {}, key


def test_report_refuses_another_split_and_does_without_the_stage(base: dict[str, Any]) -> None:
    params = factory.tiny_params()
    with pytest.raises(SsferError, match="is of split .* run dvc repro robustness"):
        robustness_section(results(params, base, "f" * 64))
    assert robustness_section(results(params, {}, "x")) is None
    assert list(robustness_pictures(results(params, {}, "x"))) == []


def test_report_shows_faces_only_if_allowed(project: Path, base: dict[str, Any]) -> None:
    def shown(**sections: Any) -> dict[str, bytes]:
        return dict(robustness_pictures(results(factory.tiny_params(**sections), base, base["split"])))

    folder = Path("data/reports/robustness")
    assert shown()["robustness_faces"] == (folder / "faces_teacher.png").read_bytes()
    assert shown()["robustness"] == (folder / "accuracy.png").read_bytes()
    assert set(shown(report={"gallery": False})) == {"robustness"}
    tested = next(s for s in factory.tiny_params().data.sources if s.labeled).model_dump(mode="json")
    assert set(shown(data={"sources": [{**tested, "kind": "rafdb"}]})) == {"robustness"}, "licensed"
    shutil.rmtree(folder)  # a clone without data still has its report
    assert set(shown()) == {"robustness"}
