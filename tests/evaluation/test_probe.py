"""ssfer.evaluation.probe: what it separates, the features it takes, and several processes that share them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.pixels import normalize
from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation import probe
from ssfer.evaluation.probe import class_tokens, probe_accuracy
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.vit import build_classifier, build_mae, encoder_state, load_encoder
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.launches import Launch


def make_mae(params: Params) -> MaskedAutoencoder:
    torch.manual_seed(3)
    return build_mae(params.model, params.pretrain).eval()


def test_probe_separates_what_a_plane_separates() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    assert probe_accuracy(x[:300], y[:300], x[300:], y[300:]) > 0.95
    assert probe_accuracy(x[:300], y[:300], x[300:], 1 - y[300:]) < 0.05
    scaled = x * np.array([1e5, 1, 1, 1, 1, 1e-5], np.float32) + 1000 * np.array([1, 0, 0, 0, 0, 0], np.float32)
    assert probe_accuracy(scaled[:300], y[:300], scaled[300:], y[300:]) > 0.95  # standardised first
    assert 0.3 < probe_accuracy(x[:300], rng.integers(0, 2, 300), x[300:], rng.integers(0, 2, 100)) < 0.7


def test_probed_features_are_what_the_classifiers_head_would_see(tmp_path: Path) -> None:
    factory.write_faces(tmp_path, "faces", [i % 3 for i in range(24)])
    faces = FaceDataset([tmp_path])
    params = factory.tiny_params(machine={"eval_batch_size": 7})
    mae = make_mae(params)
    vit = build_classifier(params.model, 3).eval()
    load_encoder(vit, encoder_state(mae.state_dict()))
    found = class_tokens(mae, faces, params.model, Machine(params.machine))
    views = torch.stack(
        [Eval(params.model.img_size)(s.image, s.box, 0).image for s in map(faces.__getitem__, range(24))]
    )
    with torch.no_grad():
        expected = vit.forward_features(normalize(views, params.model.mean, params.model.std))[:, 0]
    assert found is not None
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_features_are_computed_in_eval_precision(
    precision: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    factory.write_faces(tmp_path, "faces", [0, 1])
    params, seen = factory.tiny_params(machine={"eval_precision": precision}), set()
    mae = make_mae(params)
    mae.patch_embed.register_forward_hook(lambda *args: seen.add(args[2].dtype))
    found = class_tokens(mae, FaceDataset([tmp_path]), params.model, Machine(params.machine))
    assert seen == {dtype}
    assert found is not None and found.dtype == np.float32


def probe_features(root: Path) -> None:
    """Work of a launch: keep the features of 23 faces and of a single one, and how many this process encoded."""
    params, seen = factory.tiny_params(), []
    machine, mae, encode = Machine(params.machine), make_mae(params), probe._encode

    def counted(mae: MaskedAutoencoder, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return encode(mae, images)

    probe._encode = counted
    for name in ("many", "one"):
        found = class_tokens(mae, FaceDataset([root / name]), params.model, machine)
        assert (found is None) == (machine.rank > 0)
        if found is not None:
            np.save(root / f"{name}-{machine.world}.npy", found)
    (root / f"encoded-{machine.world}-{machine.rank}").write_text(str(sum(seen)))


def test_processes_share_the_faces_of_the_probe(tmp_path: Path) -> None:
    """While the first one alone encoded all, the others waited, perhaps for longer than machine.timeout_minutes."""
    factory.write_faces(tmp_path / "many", "faces", [i % 3 for i in range(23)])
    factory.write_faces(tmp_path / "one", "faces", [1])
    for world in (1, 2):
        launch = Launch(tmp_path, probe_features, tmp_path, world=world)
        assert launch.wait() == [0] * world, launch.errors(0)
    for name in ("many", "one"):
        one, two = (np.load(tmp_path / f"{name}-{world}.npy") for world in (1, 2))
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-6)
    assert [int((tmp_path / f"encoded-2-{rank}").read_text()) for rank in (0, 1)] == [13, 11]
