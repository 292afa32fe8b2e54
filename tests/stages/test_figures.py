"""`ssfer figure` on a small project: what is drawn, where it lies, and that no face is drawn unless allowed."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.cli.main import app
from ssfer.core.errors import SsferError
from ssfer.data.split import load_split
from ssfer.formats.weights import save_weights
from ssfer.models.classifier import metadata
from ssfer.models.vit import build_mae
from ssfer.report import figures as pictures
from ssfer.stages import figures
from ssfer.stages.common import save_classifier, seeded_classifier
from ssfer.stages.figures import FIGURES, FOLDER, write_figure
from ssfer.stages.robustness import run_robustness
from ssfer.tables.catalogue import catalogue
from ssfer.tables.plan import Study
from ssfer.tables.run import plan
from tests.support import factory
from tests.support.experiment_fakes import accuracies, cell_of, record_of, save


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with faces, split, masked autoencoder, teacher and the result of stage robustness."""
    root = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        params = factory.write_project(root)
        torch.manual_seed(1)
        mae = build_mae(params.model, params.pretrain)
        save_weights(
            root / "data/weights/pretrain/mae.safetensors", mae.state_dict(), metadata("mae", params.model, "", "")
        )
        teacher = seeded_classifier(params, len(factory.CLASSES), 1)
        save_classifier(root / "data/weights/semisup/teacher_last.safetensors", teacher, params, load_split())
        run_robustness(factory.tiny_params(robustness={"epsilons": [0, 0.1]}))
    return root


@pytest.fixture
def drawn(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(built, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize("name", ["reconstructions", "gradcam", "fgsm", "embedding"])
def test_figure_is_drawn_and_equal_each_time(drawn: Path, name: str) -> None:
    params = factory.tiny_params(report={"gallery": True})
    path = write_figure(name, params)
    first = path.read_bytes()
    assert path == FOLDER / f"{name}.png" and first.startswith(b"\x89PNG")
    assert write_figure(name, params).read_bytes() == first


def test_no_face_is_drawn_unless_allowed(drawn: Path) -> None:
    hidden = factory.tiny_params(report={"gallery": False})
    for name, content in FIGURES.items():
        if not content.faces:
            continue
        with pytest.raises(SsferError, match=f"^figure {name} shows faces, but report.gallery is false") as refusal:
            write_figure(name, hidden)
        assert "\n" not in str(refusal.value)
    assert not FOLDER.exists()
    assert write_figure("embedding", hidden).is_file(), "points are no faces"
    assert {name for name, content in FIGURES.items() if content.faces} == {"reconstructions", "gradcam"}


def test_git_ignores_the_folder(root: Path) -> None:
    ran = subprocess.run(["git", "check-ignore", "--no-index", "-q", FOLDER / "gradcam.png"], cwd=root)
    assert ran.returncode == 0


def test_reconstructions_show_every_mask_ratio(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(pictures, "faces_png", seen.extend)
    figures.reconstructions(factory.tiny_params(), "demo")
    faces = dict(seen)
    assert [title for title, _ in seen][:3] == ["face", "25% masked", "reconstructed"] and len(seen) == 9
    assert all(len(row) == 8 and row[0].shape == (16, 16, 3) for _, row in seen)
    kept = [np.isclose(faces[f"{r:.0%} masked"], faces["face"], atol=1e-6).all(axis=-1).mean() for r in figures.RATIOS]
    assert kept == sorted(kept, reverse=True) and kept[0] > 0.7 > 0.3 > kept[-1]


def test_confusion_matrices_of_all_budgets_are_summed_over_seeds(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(catalogue(), "rafdb")
    counts = {("5%", 2024): [[3, 1], [0, 4]], ("5%", 2025): [[2, 2], [1, 3]], ("25%", 2024): [[4, 0], [0, 4]]}
    for (labels, seed), table in counts.items():
        confusion = {"model": "teacher_last", "classes": ["joy", "anger"], "counts": table}
        record = record_of(study, cell_of(study, "table2", "SSFER", labels=labels), seed, accuracies(teacher=0.8))
        save(replace(record, confusion=confusion))
    plain = record_of(study, cell_of(study, "table2", "SSFER", labels="10%"), 2024, accuracies(teacher=0.8))
    save(plain)
    seen: dict[str, Any] = {}

    def keep(panels: Any, classes: Any) -> bytes:
        seen.update({title: table.tolist() for title, table in panels}, classes=classes)
        return b"png"

    monkeypatch.setattr(pictures, "confusions_png", keep)
    write_figure("confusions", factory.tiny_params(), "rafdb")
    panels = {"5% labels": [[5, 3], [1, 7]], "25% labels": [[4, 0], [0, 4]]}
    assert seen == {**panels, "classes": ["joy", "anger"]} and list(seen)[:2] == list(panels)


def test_records_without_confusion_matrices_must_be_made_again(project: Path) -> None:
    """Such a record counts as done; without --again the command that is named would do nothing."""
    study = Study(catalogue(), "demo")
    save(record_of(study, cell_of(study, "table2", "SSFER"), 2024, accuracies(teacher=0.8)))
    (job, *_), _ = plan(study, ["table2"], [2024], rows=["SSFER"])
    assert job.done
    with pytest.raises(SsferError, match="table2 --dataset demo --row SSFER --again makes them$"):
        write_figure("confusions", factory.tiny_params(), "demo")


def test_confusion_matrices_have_equal_bytes_and_follow_the_counts() -> None:
    counts = [np.array([[3, 1], [0, 0]]), np.array([[3, 1], [1, 1]])]
    first, again, other = (
        pictures.confusions_png([("5%", a), ("10%", counts[1])], ["joy", "anger"]) for a in (counts[0], *counts)
    )
    assert first == again != other and first.startswith(b"\x89PNG")


def test_what_is_missing_is_said_in_one_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = factory.tiny_params()
    for name, message in (
        ("confusions", "^no record .*; ssfer experiments run table2 --dataset demo --row SSFER makes them$"),
        ("fgsm", "^metrics/robustness.json is missing; dvc repro robustness writes it$"),
        ("reconstructions", "^no data/weights/pretrain/mae.safetensors"),
        ("gradcan", "^unknown figure 'gradcan'; did you mean 'gradcam'"),
    ):
        with pytest.raises(SsferError, match=message) as refusal:
            write_figure(name, params)
        assert "\n" not in str(refusal.value)
    (project / "params.yaml").write_text(
        project.joinpath("params.yaml").read_text().replace("raw: synthetic", "raw: own")
    )
    with pytest.raises(SystemExit):
        app(["figure", "confusions"], prog_name="ssfer")
    assert "--dataset own" in capsys.readouterr().err, "the data set that params.yaml holds, not the demo"
    with pytest.raises(SystemExit) as end:
        app(["figure"], prog_name="ssfer")
    assert not end.value.code
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)
