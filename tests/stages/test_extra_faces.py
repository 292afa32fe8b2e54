"""ssfer.stages.extra_faces: which faces of the corpus join the unlabeled ones, and which never may."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.core.workers import Here
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.evaluation.inference import predict
from ssfer.formats.manifest import read_manifest, write_manifest
from ssfer.formats.weights import load_weights, save_weights
from ssfer.stages import extra_faces
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier, split_dataset
from ssfer.stages.extra_faces import add_extra_faces, candidates, find_ensemble, most_confident
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.other_workers import Scattered

PEOPLE = 20


def settings(**extra: Any) -> Params:
    return factory.tiny_params(semisup={"extra": {"faces": 6, "threshold": 0.0} | extra})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a corpus of labeled and unlabeled sources and three fine-tuned models, also the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    factory.write_project(tmp_path)
    labels = [i % 3 for i in range(PEOPLE)]  # the source has labels of its own, which nobody may use
    for folder in ("faces/people", "corpus"):
        factory.write_faces(tmp_path / "data" / folder, "people", labels, seed=5)
    change_manifest(tmp_path / "data/corpus", lambda rows: rows + read_manifest(Path("data/faces/faces")).to_pylist())
    for seed, name in enumerate(("facemix_last", "plain_best", "scratch_last")):
        model = seeded_classifier(settings(), 3, seed)
        with torch.no_grad():
            model.head.weight.mul_(1e5)  # of size 2e-5 at the start: without opinion
        save_classifier(
            tmp_path / f"data/weights/finetune/{name}.safetensors", model.state_dict(), settings(), load_split()
        )
    return tmp_path


def change_manifest(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    write_manifest(change(read_manifest(folder).to_pylist()), folder / "manifest.parquet")


# --- the choice ---


def test_classes_take_turns_and_the_most_confident_go_first() -> None:
    probs = np.array([[0.9, 0.1], [0.95, 0.05], [0.3, 0.7], [0.8, 0.2], [0.45, 0.55], [0.85, 0.15]])
    assert most_confident(probs, 2, 0.6).tolist() == [1, 2]
    assert most_confident(probs, 3, 0.6).tolist() == [0, 1, 2]
    assert most_confident(probs, 4, 0.6).tolist() == [0, 1, 2, 5]  # class 1 has no other face above the threshold
    assert most_confident(probs, 9, 0.6).tolist() == [0, 1, 2, 3, 5]
    assert most_confident(probs, 9, 0.85).tolist() == [0, 1]  # above, not at
    assert most_confident(probs, 9, 0.95).tolist() == []


def test_choice_agrees_with_picking_one_face_at_a_time() -> None:
    g = np.random.default_rng(0)
    for trial in range(20):
        logits = g.normal(0, 2, (40, 4)) + np.array([2, 0, 0, -1])
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        left = [i for i in range(40) if probs[i].max() > 0.6]
        picked: list[int] = []
        while left and len(picked) < 15:
            has = [sum(probs[i].argmax() == k for i in picked) for k in range(4)]
            fewest = min(has[probs[i].argmax()] for i in left)
            best = max((i for i in left if has[probs[i].argmax()] == fewest), key=lambda i: probs[i].max())
            picked.append(best)
            left.remove(best)
        assert most_confident(probs, 15, 0.6).tolist() == sorted(picked), trial


# --- the candidates ---


def test_candidates_are_the_faces_of_unlabeled_sources(root: Path) -> None:
    table, copies = candidates(settings(), load_split(), Here())
    assert table["sample_id"].to_pylist() == [f"people/train{i:06d}" for i in range(PEOPLE)]
    assert copies == 0


def test_a_copy_of_a_test_image_is_left_out(root: Path) -> None:
    """As happens when a fold of the training set is the test part: stage corpus could not know."""
    of_a_test_image = {"people/train000004": "3-test-2", "people/train000007": "2-train-20"}
    change_manifest(
        root / "data/faces/people",
        lambda rows: [r | {"pixel_sha256": of_a_test_image.get(r["sample_id"], r["pixel_sha256"])} for r in rows],
    )
    assert "faces/train000020" in load_split()["valid"]
    table, copies = candidates(settings(), load_split(), Here())
    assert copies == 2
    assert not set(of_a_test_image) & set(table["sample_id"].to_pylist())


@pytest.mark.parametrize("change", [{"usage": "test"}, {"usage": "valid"}, {"sample_id": "exam/test000003"}])
def test_an_evaluation_image_in_the_corpus_is_refused(root: Path, change: dict[str, str]) -> None:
    change_manifest(root / "data/corpus", lambda rows: [rows[0] | change, *rows[1:]])
    with pytest.raises(SsferError, match=r"holds 1 images that are evaluated on .*run dvc repro corpus"):
        candidates(settings(), load_split(), Here())


def test_a_corpus_of_labeled_sources_alone_is_refused(root: Path) -> None:
    change_manifest(root / "data/corpus", lambda rows: rows[PEOPLE:])
    with pytest.raises(SsferError, match="has faces of labeled sources only"):
        candidates(settings(), load_split(), Here())


# --- the models ---


def test_switched_off_the_corpus_is_not_read(root: Path) -> None:
    shutil.rmtree(root / "data/corpus")
    assert find_ensemble(settings(faces=0)) is None


def test_without_a_list_the_models_are_those_of_finetune_but_for_scratch(root: Path) -> None:
    ensemble = find_ensemble(settings())
    assert ensemble is not None
    assert list(ensemble.models) == ["facemix_last", "plain_best"]
    assert ensemble.identity()["models"]["plain_best"] == sha256_file(ensemble.models["plain_best"][0])
    before = ensemble.identity()
    change_manifest(root / "data/corpus", lambda rows: rows[1:])
    after = find_ensemble(settings())
    assert after is not None and after.identity() != before  # unfinished work of another corpus is not continued


def test_listed_files_are_checked(root: Path) -> None:
    name = "data/weights/finetune/scratch_last.safetensors"
    digest = sha256_file(root / name)
    ensemble = find_ensemble(settings(ensemble=[{"file": name, "sha256": digest[:12]}]))
    assert ensemble is not None
    assert {k: path.resolve() for k, (path, _) in ensemble.models.items()} == {name: (root / name).resolve()}
    with pytest.raises(SsferError, match="has sha256 .*, expected 000000000000"):
        find_ensemble(settings(ensemble=[{"file": name, "sha256": "0" * 12}]))
    with pytest.raises(SsferError, match="no file at data/other.safetensors"):
        find_ensemble(settings(ensemble=[{"file": "data/other.safetensors", "sha256": digest}]))
    own = "data/weights/semisup/teacher_last.safetensors"
    with pytest.raises(SsferError, match="which the pipeline deletes and writes anew"):
        find_ensemble(settings(ensemble=[{"file": own, "sha256": digest}]))
    with pytest.raises(SsferError, match="sha256"):
        settings(ensemble=[{"file": name, "sha256": "short"}])


def test_a_model_of_another_split_is_refused(root: Path) -> None:
    """It may have been trained on what is a test image here."""
    path = root / "data/weights/finetune/plain_best.safetensors"
    state, meta = load_weights(path)
    save_weights(path, state, {**meta, "data_fingerprint": "other"})
    with pytest.raises(SsferError, match="was trained with another split"):
        chosen(root, settings())


# --- together ---


def chosen(root: Path, params: Params, folder: str = ".scratch/extra") -> tuple[FaceDataset, dict[str, Any]]:
    split, ensemble = load_split(), find_ensemble(params)
    assert ensemble is not None
    unlabeled = split_dataset(split, "unlabeled", params)
    return add_extra_faces(unlabeled, ensemble, params, split, Machine(params.machine), root / folder)


def mean_prediction(params: Params) -> np.ndarray[Any, np.dtype[np.float64]]:
    faces = FaceDataset([Path("data/faces/people")])
    paths = [Path(f"data/weights/finetune/{name}.safetensors") for name in ("facemix_last", "plain_best")]
    models = [load_classifier(path, params, load_split()) for path in paths]
    return np.mean([predict(m, faces, machine=Machine(params.machine), model=params.model) for m in models], axis=0)


@pytest.mark.parametrize("faces", [6, PEOPLE])
def test_the_models_mean_prediction_chooses(root: Path, faces: int) -> None:
    probs = mean_prediction(settings())
    params = settings(faces=faces, threshold=float(np.median(probs.max(axis=1))))
    expected = most_confident(probs, faces, params.semisup.extra.threshold)
    confident = int((probs.max(axis=1) > params.semisup.extra.threshold).sum())
    assert confident == PEOPLE // 2
    both, counts = chosen(root, params)
    before = load_split()["unlabeled"]
    assert both.ids == [*before, *(f"people/train{i:06d}" for i in expected)]
    assert (both.labels[: len(before)] >= 0).all()
    assert (both.labels[len(before) :] == -1).all()  # though the source has labels
    predicted = np.bincount(probs[expected].argmax(axis=1), minlength=3).tolist()
    assert counts == {
        "candidates": PEOPLE,
        "copies_of_test_images": 0,
        "confident": confident,
        "faces": len(expected),
        "predicted": dict(zip(factory.CLASSES, predicted, strict=True)),
        "models": ["facemix_last", "plain_best"],
    }
    assert torch.equal(both.image(len(before)), FaceDataset([Path("data/faces/people")]).image(int(expected[0])))


def test_a_continued_run_keeps_the_choice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, counts = chosen(root, settings())
    monkeypatch.setattr(extra_faces, "predict", None)  # nobody looks again
    again, counts_again = chosen(root, settings())
    assert again.ids == first.ids and counts_again == counts


def test_processes_share_the_work_and_agree(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, split = settings(), load_split()
    ensemble = find_ensemble(params)
    assert ensemble is not None
    alone = extra_faces._choose(ensemble, params, split, Machine(params.machine))
    given: dict[int, list[Any]] = {rank: [] for rank in range(3)}  # to each call of gather_object
    for rank in (0, 1, 2, 0):
        machine = Machine(params.machine)
        machine.rank, machine.world = rank, 3
        calls: list[Any] = []

        def gather(part: list[Any], rank: int = rank, calls: list[Any] = calls) -> list[Any]:
            calls.append(part[0])
            others = [given[other][len(calls) - 1 : len(calls)] for other in range(3) if other != rank]
            return [*chain(*others[:rank]), *part, *chain(*others[rank:])]

        monkeypatch.setattr(extra_faces, "gather_object", gather)
        chosen = extra_faces._choose(ensemble, params, split, machine)
        given[rank] = calls
    assert [given[rank][0] is None for rank in range(3)] == [False, True, True], "the first one looks for copies"
    parts = [given[rank][1] for rank in range(3)]
    assert [int(p.any(axis=1).sum()) for p in parts] == [7, 7, 6]
    assert chosen == alone
    np.testing.assert_allclose(np.sum(parts, axis=0), mean_prediction(params), rtol=1e-5)  # sums of other batches


def test_workers_of_a_cluster_choose_the_same_faces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, split, workers = settings(), load_split(), Scattered()
    params = params.model_copy(update={"machine": params.machine.model_copy(update={"eval_batch_size": 3})})
    ensemble = find_ensemble(params)
    assert ensemble is not None
    alone = extra_faces._choose(ensemble, params, split, Machine(params.machine))
    monkeypatch.setattr(extra_faces, "workers_of", lambda *_: nullcontext(workers))
    monkeypatch.setattr(extra_faces, "_BATCHES", 1)
    assert extra_faces._choose(ensemble, params, split, Machine(params.machine)) == alone
    assert workers.done >= PEOPLE // 3


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra cluster")
def test_a_real_cluster_chooses_the_same_faces(root: Path) -> None:
    params, split = settings(), load_split()
    ensemble = find_ensemble(params)
    assert ensemble is not None
    alone = extra_faces._choose(ensemble, params, split, Machine(params.machine))
    machine = params.machine.model_copy(update={"cluster": "ray", "num_workers": 2})
    params = params.model_copy(update={"machine": machine})
    assert extra_faces._choose(ensemble, params, split, Machine(params.machine)) == alone


def test_models_that_are_sure_of_nothing_are_told_so(root: Path) -> None:
    with pytest.raises(SsferError, match=r"sure of none of the 20 faces .* is 0\.\d+.*lower it"):
        chosen(root, settings(threshold=1.0))
