"""The part of the labeled images on which settings are scored: drawn once, per class, never trained on."""

from collections.abc import Sequence

import numpy as np

from ssfer.core.errors import SsferError
from ssfer.core.rng import derive
from ssfer.data.split import Indices, rounded_share


def draw_holdout(labels: Sequence[int] | Indices, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return positions (kept, held out) of a labeled list, each in ascending order.

    Of every class round(share * n) images, half rounded up, are drawn with a generator of the class; at least one is
    drawn and at least one is kept. A class with a single image keeps it.

    Args:
        labels: class indices.
        share: in (0, 1).
        seed: of the draw.

    Raises:
        SsferError: no class has two images.
    """
    labels = np.asarray(labels)
    held = np.zeros(len(labels), dtype=bool)
    for cls in np.unique(labels):
        members = np.flatnonzero(labels == cls)
        wanted = min(max(rounded_share(share, len(members)), 1), len(members) - 1)
        rng = np.random.Generator(np.random.Philox(derive(seed, "holdout", int(cls))))
        held[rng.permutation(members)[:wanted]] = True
    if not held.any():
        raise SsferError(
            f"no class has two of the {len(labels)} labeled images, so none can be held out; raise the label budget"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)
