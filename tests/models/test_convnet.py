"""ssfer.models.convnet: its sides, and that it goes where networks of timm's go."""

import pytest
import timm
import torch
from torch.testing import assert_close

from ssfer.models.backbone import build_backbone, check_backbone
from ssfer.models.convnet import Block, FaceConvNet
from ssfer.models.settings import ModelSettings


@pytest.mark.parametrize(("side", "places"), [(40, 3), (48, 3), (49, 4), (16, 1)])
def test_feature_map_has_a_sixteenth_of_the_side(side: int, places: int) -> None:
    network = FaceConvNet(8, widths=(4, 6, 8, 10)).eval()
    assert network.forward_features(torch.zeros(2, 3, side, side)).shape == (2, 10, places, places)


def test_it_is_a_classifier_of_the_pipeline() -> None:
    model = ModelSettings(backbone="face_convnet", img_size=40, mean=(0.5,) * 3, std=(0.25,) * 3, head_init="small")
    network = build_backbone(model, 8)
    check_backbone(network, model)
    assert sum(p.numel() for p in network.parameters()) == 2_761_976
    images = torch.randn(3, 3, 40, 40)
    network.eval()
    assert_close(network(images), network.fc(network.forward_head(network.forward_features(images), pre_logits=True)))
    assert timm.create_model("face_convnet", num_classes=0)(images).shape == (3, 384)


def test_shortcut_halves_by_means() -> None:
    block = Block(1, 1, 2).eval()
    with torch.no_grad():
        block.second[0].weight.zero_()  # what is left is the shortcut
        block.shortcut[1].weight.fill_(1.0)
        found = block(torch.tensor([[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 6.0]]]]))
    expected = torch.tensor([[[[4.0, 15.0], [3.0, 6.0]]]])  # the places at the edge are means of what is there
    assert_close(found, expected / (1 + 1e-5) ** 0.5)


def test_mirrored_network_answers_with_the_mean_over_face_and_mirror_image_when_tested() -> None:
    plain, mirrored = FaceConvNet(8, widths=(4, 6, 8, 10)), timm.create_model("face_convnet_mirrored", num_classes=8)
    mirrored.stem, mirrored.stages, mirrored.fc = plain.stem, plain.stages, plain.fc
    images = torch.randn(3, 3, 32, 32)
    assert_close(mirrored(images), plain(images))  # in training: as it is
    plain.eval(), mirrored.eval()
    assert_close(mirrored(images), (plain(images) + plain(images.flip(3))) / 2)
    assert_close(mirrored(images), mirrored(images.flip(3)))
