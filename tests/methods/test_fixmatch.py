"""ssfer.methods.fixmatch: the student labels its own unlabeled faces (Sohn et al. 2020; SSFER, Table 12)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssfer.methods.context import Context
from ssfer.methods.fixmatch import FixMatch
from tests.support.method_batches import batch_of, student


def fixmatch(**changes: Any) -> FixMatch:
    values = {"threshold": 0.4, "lambda_u": 5.0} | changes
    network = student()
    with torch.no_grad():
        network.head.weight.mul_(3)  # confident of some images
    return FixMatch(Context(network, FixMatch.Settings(**values)))


def loss_in_loops(method: FixMatch, batch: dict[str, Tensor]) -> tuple[float, float]:
    """One image at a time; returns the loss and the share kept."""
    labeled = unlabeled = kept = 0.0
    for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True):
        labeled -= method.student(x[None])[0].log_softmax(dim=0)[y].item()
    for weak, strong in zip(batch["x_ulb_w"], batch["x_ulb_s"], strict=True):
        probs = method.student(weak[None])[0].softmax(dim=0).tolist()
        if max(probs) > method.settings.threshold:
            kept += 1
            unlabeled -= method.student(strong[None])[0].log_softmax(dim=0)[probs.index(max(probs))].item()
    n = len(batch["x_ulb_w"])
    return labeled / len(batch["x_lb"]) + method.settings.lambda_u * unlabeled / n, kept / n


@pytest.mark.parametrize("lambda_u", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("threshold", [0.0, 0.86, 1.0])
def test_fixmatch_agrees_with_the_loop(lambda_u: float, threshold: float) -> None:
    method, batch = fixmatch(lambda_u=lambda_u, threshold=threshold), batch_of(1)
    out = method(batch)
    loss, kept = loss_in_loops(method, batch)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert out["util_ratio"].item() == pytest.approx(kept)
    if threshold == 0.86:
        assert 0 < kept < 1  # the case means something


def test_labels_come_from_the_network_in_the_mode_it_is_in() -> None:
    """As in the paper's own code: with dropout the weak view is seen through dropout, too."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3))
    method = FixMatch(Context(network, fixmatch().settings)).train()
    weak = batch_of(6)["x_ulb_w"]
    torch.manual_seed(1)
    first = method.label_logits(weak)
    assert not first.requires_grad
    assert not torch.equal(method.label_logits(weak), first)
    assert torch.equal(method.eval().label_logits(weak), method.label_logits(weak))


def test_a_confidence_equal_to_the_threshold_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method = fixmatch(threshold=0.5)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(6, 3)
    monkeypatch.setattr(method, "label_logits", lambda _x: logits)
    assert method(batch_of())["util_ratio"].item() == 0
