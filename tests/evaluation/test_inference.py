"""ssfer.evaluation.inference: probabilities of whole, normalized images, in order, however they are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import predict
from ssfer.models.vit import build_classifier
from ssfer.train.device import Machine
from tests.support import factory


def test_predictions_are_those_of_single_normalized_images_whatever_the_batch_size(tmp_path: Path) -> None:
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(11)])
    faces = FaceDataset([tmp_path / "faces"], classes=factory.CLASSES)
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
        machine = Machine(factory.tiny_params(machine={"eval_batch_size": size}).machine)
        found = predict(model, faces, machine=machine, model=settings)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.std(expected, axis=0).max() > 1e-3  # the images do differ
    assert model.training
