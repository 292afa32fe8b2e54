"""ssfer.load and Recognizer.predict: the right crops, the right probabilities, a row for everything."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssfer
from ssfer.core.errors import SsferError
from ssfer.core.images import encode_jpeg
from ssfer.datasets.base import RawRecord
from ssfer.faces.crops import FaceProcessor
from ssfer.faces.detectors.base import Detection
from ssfer.faces.settings import AlignSettings
from ssfer.models import classifier
from ssfer.models.backbone import params_of
from ssfer.predict.frames import Frame, windows
from ssfer.predict.runtimes import torch as torch_runtime
from tests.support.factory import CLASSES
from tests.support.rendered_photos import BrightDetector, bright_photo
from tests.support.small_model import RECIPE, small_recognizer, write_model


def test_an_unused_gpu_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch_runtime, "hidden_gpu", lambda device: "this machine has an NVIDIA GPU, but")
    assert torch_runtime.inference_device("cpu") == "cpu", "as it was asked for"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_runtime.inference_device("auto") == "cpu"
    assert capsys.readouterr().err == "WARNING: this machine has an NVIDIA GPU, but\n"
    monkeypatch.setattr(torch_runtime, "parent_process", lambda: "a parent")
    assert torch_runtime.inference_device("auto") == "cpu"
    assert capsys.readouterr().err == ""


PHOTOS = [bright_photo((20, 20, 60, 60), seed=i) for i in range(3)]


def test_importing_ssfer_imports_nothing_else_and_changes_nothing() -> None:
    code = (
        "import os, sys; env = dict(os.environ); before = set(sys.modules); import ssfer; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "assert not new & {'torch', 'numpy', 'pandas', 'PIL'}, new; assert dict(os.environ) == env; "
        "assert {'load', 'Recognizer', '__version__'} <= set(dir(ssfer))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_crops_are_those_that_align_stores_byte_for_byte(tmp_path: Path) -> None:
    photos = {f"{i}.png": bright_photo((20, 10 + i, 60, 50 + i), seed=i, size=(300, 200)) for i in range(4)}
    for name, photo in photos.items():
        photo.save(tmp_path / name)
    processor = FaceProcessor("x", "similarity", AlignSettings(size=24, quality=80), BrightDetector())  # type: ignore[arg-type]
    stored = processor.process(map(RawRecord, photos), lambda record: (tmp_path / record.path).read_bytes())
    expected = [face.jpeg for face in stored]
    recipe = {"size": 24, "quality": 80}
    found = small_recognizer(tmp_path, crop=recipe).faces_in(list(photos.values()))
    assert [[face.jpeg for face in faces] for faces in found] == [[jpeg] for jpeg in expected]


def test_probabilities_are_those_of_the_network_on_the_decoded_crop(tmp_path: Path) -> None:
    recognizer = small_recognizer(tmp_path, temperature=2.0)
    table = recognizer.predict(PHOTOS)
    network, meta = classifier.load(tmp_path / "small.safetensors")
    assert params_of(meta["arch"]).img_size == 16
    for row, (face,) in zip(table.itertuples(), recognizer.faces_in(PHOTOS), strict=True):
        crop = torch.from_numpy(face.pixels()).permute(2, 0, 1)
        view = torch.nn.functional.interpolate(crop[None].float(), (16, 16), mode="bilinear", antialias=True).round()
        mean, std = (torch.tensor(meta[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            probs = (network.eval()((view / 255 - mean) / std) / 2.0).softmax(dim=1)[0]
        assert [row.p_anger, row.p_happiness, row.p_surprise] == pytest.approx(probs.tolist(), abs=5e-3)
        assert row.expression == CLASSES[int(probs.argmax())]
        assert row.confidence == pytest.approx(float(probs.max()), abs=5e-3)


def test_every_kind_of_input_gives_the_same_row(tmp_path: Path) -> None:
    photo = PHOTOS[0]
    photo.save(tmp_path / "a.png")
    recognizer = small_recognizer(tmp_path)
    kinds = [str(tmp_path / "a.png"), tmp_path / "a.png", photo, np.asarray(photo), [photo], np.asarray(photo)[None]]
    tables = [recognizer.predict(kind).drop(columns="input") for kind in kinds]
    assert all(len(table) == 1 and table.equals(tables[0]) for table in tables)
    assert tables[0].loc[0, ["x1", "y1", "x2", "y2"]].tolist() == [20, 20, 60, 60]
    assert tables[0].loc[0, "left_eye_x"] == pytest.approx(20 + 0.3 * 40)


def test_rows_have_a_status_for_each_picture_without_a_face_and_the_order_of_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.jpg").write_text("no picture")
    inputs = [PHOTOS[0], tmp_path / "b.jpg", tmp_path / "c.jpg", tmp_path / "d.jpg", bright_photo(), PHOTOS[1]]
    table = small_recognizer(tmp_path).predict(inputs, batch=2)
    assert table["status"].tolist() == ["ok", "empty", "unreadable", "missing", "no_face", "ok"]
    assert table["input"].tolist() == ["0", *map(str, inputs[1:4]), "4", "5"]
    assert table["expression"].isna().tolist() == [False, True, True, True, True, False]
    assert table["face"].dtype == "Int64"


def test_all_faces_or_the_largest_or_the_whole_picture(tmp_path: Path) -> None:
    photo = bright_photo((5, 5, 25, 25), (40, 20, 90, 70))
    recognizer = small_recognizer(tmp_path)
    assert recognizer.predict(photo)[["face", "x1"]].values.tolist() == [[0, 40], [1, 5]]
    assert recognizer.predict(photo, faces="largest")[["face", "x1"]].values.tolist() == [[0, 40]]
    (row,) = recognizer.predict(photo, faces="whole").to_dict("records")
    assert [row["x1"], row["y1"], row["x2"], row["y2"]] == [0, 0, 100, 80]
    resized = photo.resize((24, 24), Image.Resampling.BICUBIC)
    ((face,),) = recognizer.faces_in([photo], "whole")
    assert face.jpeg == encode_jpeg(resized, 95)


def test_a_face_below_the_threshold_is_uncertain_and_keeps_its_probabilities(tmp_path: Path) -> None:
    recognizer = small_recognizer(tmp_path)
    sure = recognizer.predict(PHOTOS[0]).loc[0, "confidence"]
    below, above = (recognizer.predict(PHOTOS[0], abstain=sure + d).iloc[0] for d in (1e-4, -1e-4))
    assert (below["status"], above["status"]) == ("uncertain", "ok")
    assert str(below["expression"]) == "<NA>" and below["confidence"] == sure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mae"}, "holds weights of kind 'mae', expected 'classifier'"),
        ({"crop_recipe": "pattern-24"}, "does not say how its faces were cropped"),
        ({"crop": {"size": "big"}}, "in a way that is not known here"),
        ({"crop": {"size": 24, "settings": {"new_key": 1}}}, "in a way that is not known here"),
        ({"crop": {"size": 24, "detector": "./mine.py:Mine"}}, "which is not part of ssfer"),
        ({"crop": {"size": 24, "detector": "mtcn"}}, "did you mean 'mtcnn'"),
    ],
)
def test_weights_that_cannot_predict_are_one_sentence(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_model(tmp_path / "w.safetensors", **change)
    with pytest.raises(SsferError, match=message):
        ssfer.load(path, device="cpu")


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    path = write_model(tmp_path / "w.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for arguments, message in (
        ((tmp_path / "absent.safetensors",), "there are no weights at"),
        ((tmp_path / "text.safetensors",), "not a readable safetensors file"),
        ((path, "tpu"), "expected device auto, cpu, cuda, cuda:N or mps, found 'tpu'"),
        ((path, "cpu", "tensorflow"), "unknown runtime 'tensorflow'"),
        (("ferplus-smal",), "ships with this version|unknown model"),
    ):
        with pytest.raises(SsferError, match=message):
            ssfer.load(*arguments)


def test_detection_of_small_and_turned_faces_can_be_chosen(tmp_path: Path) -> None:
    path = write_model(tmp_path / "w.safetensors", crop_recipe="mtcnn-min0.2-similarity5-v2-24")
    made = []
    for options in ({}, {"turned": True}, {"min_face": 0.05}):
        recognizer = ssfer.load(path, "cpu", **options)
        made.append((recognizer.recipe.turned, recognizer.recipe.min_face, recognizer.recipe.size))
    assert made == [(False, 0.2, 24), (True, 0.2, 24), (False, 0.05, 24)]
    with pytest.raises(SsferError, match=r"expected a smallest face of 0\.005 to 1 .* found 2"):
        ssfer.load(path, "cpu", min_face=2)


def test_a_photo_on_its_side_has_a_face_when_turned_ones_are_looked_for(tmp_path: Path) -> None:
    class Upright(BrightDetector):
        """Finds faces in photos that are wider than high."""

        def _one(self, grey: np.ndarray) -> Detection:
            found = super()._one(grey) if grey.shape[1] > grey.shape[0] else Detection()
            return replace(found, scores=np.ones_like(found.scores))

    path, photo = write_model(tmp_path / "w.safetensors"), bright_photo((20, 20, 60, 60)).rotate(90, expand=True)
    found = [ssfer.load(path, "cpu", detector=Upright(), turned=t).predict(photo)["status"][0] for t in (False, True)]  # type: ignore[arg-type]
    assert found == ["no_face", "ok"]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 7), np.uint8), 7, [None]])
def test_what_is_no_picture_is_one_sentence(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(SsferError, match="expected a path, a PIL image or an RGB array"):
        small_recognizer(tmp_path).predict(wrong)


def test_old_weights_say_their_recipe_by_its_name_only(tmp_path: Path) -> None:
    path = write_model(tmp_path / "w.safetensors", crop_recipe="mtcnn-border-similarity5-v2-blur-48+resize-v1-48")
    recipe = ssfer.load(path, "cpu").recipe
    assert (recipe.detector, recipe.outside, recipe.size, recipe.points) == ("mtcnn", "blur", 48, None)
    assert (recipe.turned, recipe.min_face) == (False, None)
    path = write_model(tmp_path / "w.safetensors", crop_recipe="mtcnn-min0.05-border-turned-similarity5-v2-48")
    recipe = ssfer.load(path, "cpu").recipe
    assert (recipe.detector, recipe.turned, recipe.min_face, recipe.outside) == ("mtcnn", True, 0.05, "black")
    assert RECIPE.endswith("24")


def test_photos_and_frames_of_videos_are_detected_apart() -> None:
    """Photos are also looked at turned, so a photo's rows would depend on what is predicted beside it."""
    kinds = (False, False, True, True, True, False)
    found = windows((Frame(str(i), moving=moving) for i, moving in enumerate(kinds)), most=2)
    assert [[frame.input for frame in window] for window in found] == [["0", "1"], ["2", "3"], ["4"], ["5"]]
