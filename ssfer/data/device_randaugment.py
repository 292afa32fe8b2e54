"""RandAugment left to the device: drawn image by image as timm draws it, carried out operation by operation."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from timm.data.auto_augment import RandAugment
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.data.image_operations import operations


class DeviceRandAugment:
    """The operations of a timm RandAugment for batches on a device.

    Args:
        augment: drawn from in the same way as where images are changed one by one.
        fill: color 0..255 of what comes from outside an image.

    Raises:
        SsferError: an operation that is not in `ssfer.data.image_operations`.
    """

    def __init__(self, augment: RandAugment, fill: Sequence[int]) -> None:
        self._names, self._fill = [op.name for op in augment.ops], tuple(fill)
        if unknown := [name for name in self._names if name not in operations(self._fill)]:
            raise SsferError(
                f"machine.augment: device has no operation {unknown[0]} of semisup.randaugment; choose host"
            )
        self._recorder = copy.deepcopy(augment)
        for number, op in enumerate(self._recorder.ops, start=1):
            op.aug_fn = partial(_note, number)

    def draw(self, keys: Sequence[int]) -> dict[str, Tensor]:
        """Return what the keys draw for n images, with L operations each.

        Returns:
            numbers: (n, L) int64, the operations' numbers, ascending in each column; 0: none.
            order: (n, L + 1) int64; column l sorts the images from the order of column l - 1 to that of the operations
                of step l, the last one back.
            by: (n, L) float32, arguments in the orders of the columns.
        """
        steps = self._recorder.num_layers
        numbers, by = np.zeros((len(keys), steps), np.int64), np.zeros((len(keys), steps), np.float32)
        for row, key in enumerate(keys):
            # timm draws from the two global generators, as in `ssfer.data.augmentations.strong`.
            random.seed(key)
            np.random.seed(key % 2**32)
            for step, (number, argument) in enumerate(self._recorder([])):
                numbers[row, step], by[row, step] = number, argument
        order, now = [], np.arange(len(keys))
        for step in range(steps):
            following = np.argsort(numbers[:, step], kind="stable")
            order.append(np.argsort(now)[following])
            numbers[:, step], by[:, step] = numbers[following, step], by[following, step]
            now = following
        order.append(np.argsort(now))
        drawn = {"numbers": numbers, "order": np.stack(order, axis=1), "by": by}
        return {name: torch.from_numpy(values) for name, values in drawn.items()}

    def __call__(self, images: Tensor, numbers: Tensor, there: Mapping[str, Tensor]) -> Tensor:
        """Return the changed images (n, 3, H, W), uint8.

        Args:
            images: of the batch, uint8, on the device.
            numbers: of `draw`, in the host's memory, so that nobody has to wait for the device to tell them.
            there: what `draw` returned, on the device.
        """
        order, by = there["order"], there["by"]
        known = [operations(self._fill)[name] for name in self._names]
        for step in range(by.shape[1]):
            counts = torch.bincount(numbers[:, step], minlength=len(known) + 1).tolist()
            kept, *groups = images[order[:, step]].split(counts)
            arguments = by[:, step].split(counts)[1:]
            work = zip(known, groups, arguments, strict=True)
            images = torch.cat([kept, *(change(part, each) for change, part, each in work if len(part))])
        return images[order[:, -1]]


def _note(number: int, noted: list[tuple[int, float]], by: float = 0.0, **_: object) -> list[tuple[int, float]]:
    """Take an operation's place: note its number and argument instead of changing a picture."""
    return [*noted, (number, by)]
