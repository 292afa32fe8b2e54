"""ssfer.models.unit_head: by hand, in a network, and in what it refuses."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.models.features import full_output
from ssfer.models.unit_head import LinearStart, UnitHead, add_unit_head
from tests.support.classifiers import images, network


def test_the_head_by_hand() -> None:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        linear.bias.copy_(torch.tensor([0.5, 0.0]))
    out = UnitHead(linear, 0.5).eval().output(torch.tensor([[3.0, 4.0]]))
    assert_close(out.features, torch.tensor([[0.6, 0.8]]))
    assert_close(out.logits, torch.tensor([[0.6 + 1.6 + 0.5, -0.8]]))
    assert out.balance == 0


def test_dropout_comes_before_the_length() -> None:
    features = UnitHead(nn.Linear(400, 2), 0.5).train().output(torch.ones(3, 400)).features
    assert 0.4 < (features == 0).float().mean() < 0.6
    assert_close(features.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("start", ["keep", "new"])
def test_a_kept_classifier_says_what_it_said_but_for_the_features_length(start: LinearStart) -> None:
    """A fresh LayerNorm leaves features of length 4, the square root of their 16 dimensions."""
    net, x = network("plain").eval(), images("plain")
    with torch.no_grad():
        net.get_classifier().bias.zero_()  # type: ignore[operator]
        features, before = full_output(net, x).features, net(x)
        assert_close(features.norm(dim=1), torch.full((2,), 4.0), rtol=0.05, atol=0)
        found = add_unit_head(net, 0.5, start).eval()(x)
    same = torch.allclose(found, before * 4 / features.norm(dim=1, keepdim=True), atol=1e-5)
    assert same is (start == "keep")


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_any_network_of_timm_takes_it(name: str) -> None:
    torch.manual_seed(0)
    net = add_unit_head(timm.create_model(name, num_classes=4), 0.5, "keep").eval()
    x = torch.randn(2, 3, 32, 32)
    out = full_output(net, x)
    assert torch.equal(out.logits, net(x)) and out.logits.shape == (2, 4)
    assert_close(out.features.norm(dim=1), torch.ones(2))


def test_a_network_with_another_head_is_refused() -> None:
    with pytest.raises(SsferError, match="this method's head takes the place of a linear classifier, found UnitHead"):
        add_unit_head(network("unit"), 0.5, "keep")
    with pytest.raises(SsferError, match="needs features besides logits, which Linear cannot give"):
        add_unit_head(nn.Linear(2, 2), 0.5, "keep")
