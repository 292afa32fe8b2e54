"""Wrong labels on purpose, to measure a method's robustness to them (SSFER specification, section 12, Table 8)."""

from collections.abc import Sequence

import numpy as np

from ssfer.data.split import Indices, rounded_share


def noisy_labels(labels: Sequence[int] | Indices, classes: int, share: float, seed: int) -> Indices:
    """Return a copy of the labels in which `share` of each class, rounded half up, has another class, drawn uniformly.

    The wrong labels of a smaller share are among those of a larger one.

    Args:
        labels: (N,) class indices below `classes`.
        share: 0..1.
        classes: number of classes.
        seed: of a generator that nothing else uses.
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
