"""ssfer.evaluation.inference: probabilities of whole, normalized images, in order, however and where they are made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import eval_batches, eval_views, predict
from ssfer.models.prediction import predictions
from ssfer.models.vit import build_classifier
from ssfer.train.device import Machine
from tests.support import factory


def machine_of(**settings: Any) -> Machine:
    return Machine(factory.tiny_params(machine=settings).machine)


@pytest.fixture
def faces(tmp_path: Path) -> FaceDataset:
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(11)])
    return FaceDataset([tmp_path / "faces"], classes=factory.CLASSES)


def test_predictions_are_those_of_single_normalized_images_whatever_the_batch_size(faces: FaceDataset) -> None:
    settings = factory.tiny_params(model={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}).model
    torch.manual_seed(3)
    model = build_classifier(settings, 3).train()
    nn.init.normal_(model.head.weight, std=0.1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    expected = []
    with torch.no_grad():
        for sample in map(faces.__getitem__, range(11)):
            image = Eval(16)(sample.image, sample.box, 0).image / 255
            expected.append(model.eval()(((image - mean) / std)[None])[0].softmax(dim=0).numpy())
    model.train()
    for size in (4, 64):
        found = predict(model, faces, machine=machine_of(eval_batch_size=size), model=settings)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.std(expected, axis=0).max() > 1e-3  # the images do differ
    assert model.training


@pytest.mark.parametrize("side", [16, 24])  # 24: as stored, nothing is resized
@pytest.mark.parametrize("chosen", [None, [7, 0, 3, 9, 2]])
def test_workers_prepare_the_bytes_that_this_process_would_in_the_same_order(
    side: int, chosen: list[int] | None, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = list(eval_views(faces, side, 4, chosen, machine_of()))
    image, here = FaceDataset.image, os.getpid()

    def elsewhere(self: FaceDataset, i: int) -> Tensor:
        assert os.getpid() != here
        return image(self, i)

    monkeypatch.setattr(FaceDataset, "image", elsewhere)
    helped = list(eval_views(faces, side, 4, chosen, machine_of(num_workers=2)))
    index = chosen or list(range(11))
    assert [len(views[0]) for views in alone] == ([4, 1] if chosen else [4, 4, 3])
    assert [i for views in alone for i in views[2].tolist()] == index
    assert [y for views in alone for y in views[1].tolist()] == [i % 3 for i in index]
    for ours, theirs in zip(alone, helped, strict=True):
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_inference_draws_nothing_from_the_random_numbers_of_training(workers: int, faces: FaceDataset) -> None:
    before = torch.random.get_rng_state()
    list(
        eval_batches(
            faces, machine=machine_of(num_workers=workers, eval_batch_size=4), model=factory.tiny_params().model
        )
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_one_sentence_wherever_it_is_read(workers: int, tmp_path: Path, faces: FaceDataset) -> None:
    with open(tmp_path / "faces/shard-00000.tar", "r+b") as shard:
        shard.truncate(20)
    with pytest.raises(SsferError, match=r"^shard .*shard-00000.tar is cut short: expected [^\n]*$"):
        list(eval_views(faces, 16, 4, machine=machine_of(num_workers=workers)))


class Noted(nn.Module):
    """Notes in which precision it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 3), set[tuple[Any, ...]]()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.mean(dim=(2, 3)))
        self.seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, logits.dtype))
        return logits


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", (False, False, torch.float32)),
        ("tf32", (True, True, torch.float32)),
        ("bf16", (False, False, torch.bfloat16)),
    ],
)
def test_the_network_computes_in_the_precision_that_is_set(
    precision: str, expected: tuple[Any, ...], faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    network, model, machine = Noted(), factory.tiny_params().model, machine_of(eval_precision=precision)
    found = predict(network, faces, machine=machine, model=model)
    assert network.seen == {expected}
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    exact = predictions(network, eval_batches(faces, machine=machine, model=model))[0].numpy()
    np.testing.assert_allclose(found, exact, atol=1e-2)
    assert (found == exact).all() == (precision != "bf16")
