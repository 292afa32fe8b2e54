"""ssfer.methods.shared.counts: sums that are bincounts."""

from __future__ import annotations

import torch

from ssfer.methods.shared.counts import class_counts


def test_counts_are_bincounts_of_what_is_asked_for() -> None:
    labels = torch.tensor([2, 0, -1, 2, 1, 2, -1])
    which = torch.tensor([1, 1, 1, 0, 0, 1, 1]).bool()
    assert class_counts(labels, 4).tolist() == [1, 1, 3, 0]
    found = class_counts(labels, 4, which)
    assert found.dtype == torch.int64
    assert torch.equal(found, torch.bincount(labels[which & (labels >= 0)], minlength=4))
