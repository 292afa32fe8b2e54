"""ssfer.models.memory: a ring that is written to by a mask is the one that is written to by a list."""

from __future__ import annotations

import pytest
import torch

from ssfer.models.memory import Ring


@pytest.mark.parametrize("size", [1, 3, 5, 20])
def test_masked_images_enter_as_if_they_had_been_chosen_before(size: int) -> None:
    g = torch.Generator().manual_seed(size)
    masked, chosen = (Ring(size, 4, 3, first=2) for _ in range(2))
    for _ in range(6):
        features, targets = torch.randn(7, 4, generator=g), torch.rand(7, 3, generator=g)
        which = torch.rand(7, generator=g) < 0.5
        masked.push_where(features, targets, which)
        chosen.push(features[which], targets[which])
        for name, buffer in masked.named_buffers():
            assert torch.equal(buffer, chosen.get_buffer(name)), name
    assert not masked.filled[:2].any() and masked.filled[2:].any()


def test_no_image_changes_nothing() -> None:
    ring = Ring(3, 4, 2)
    ring.push(torch.ones(2, 4), torch.ones(2, 2))
    before = {name: buffer.clone() for name, buffer in ring.named_buffers()}
    ring.push_where(torch.zeros(5, 4), torch.zeros(5, 2), torch.zeros(5, dtype=torch.bool))
    assert all(torch.equal(buffer, before[name]) for name, buffer in ring.named_buffers())
