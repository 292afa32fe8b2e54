"""Wrong labels on purpose, to see how much a method suffers from them (SSFER specification, section 12, Table 8)."""

from collections.abc import Sequence

import numpy as np

from ssfer.data.split import Indices, rounded_share


def noisy_labels(labels: Sequence[int] | Indices, classes: int, share: float, seed: int) -> Indices:
    """Return a copy of the labels in which `share` of each class, rounded half up, has another class, all alike likely.

    The same images get the same wrong labels whatever the share: what 10 % gets wrong, 30 % gets wrong, too.

    Args:
        labels: (N,) class indices below `classes`.
        share: 0..1.
        seed: of a private generator, which is no other drawing's.
    """
    labels = np.asarray(labels, dtype=np.int64)
    noisy = labels.copy()
    rng = np.random.RandomState([seed, 8])
    for cls in range(classes):
        members = np.flatnonzero(labels == cls)
        rng.shuffle(members)
        wrong = (cls + rng.randint(1, classes, len(members))) % classes
        n = rounded_share(share, len(members))
        noisy[members[:n]] = wrong[:n]
    return noisy
