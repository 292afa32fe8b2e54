"""The batches of labeled images that a method processes between epochs (`Method.labeled_pass_views`)."""

from collections.abc import Callable, Iterable
from typing import Literal, cast

from ssfer.config.schema import Params
from ssfer.core.rng import derive, epoch_order, sample_key
from ssfer.data.augmentations.base import Transform
from ssfer.data.augmentations.registry import build_augmentation
from ssfer.data.dataset import FaceDataset, Sample
from ssfer.evaluation.inference import eval_batches
from ssfer.methods.base import Batch
from ssfer.train.device import Machine


class WeakViews:
    """Weak views of whole batches of a data set, in an epoch's random order; the rest that is left out varies."""

    def __init__(self, dataset: FaceDataset, weak: Transform, seed: int, epoch: int, batch_size: int) -> None:
        self.dataset, self.weak, self.seed, self.epoch = dataset, weak, seed, epoch
        size = min(batch_size, len(dataset))
        self.order = epoch_order(seed, epoch, len(dataset))[: len(dataset) // size * size]
        self.labels = dataset.labels[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Sample:
        if i >= len(self):
            raise IndexError(i)
        sample = self.dataset[int(self.order[i])]
        view = self.weak(sample.image, sample.box, sample_key(self.seed, self.epoch, i, "review"))
        return Sample(view.image, sample.label, view.box)


def labeled_pass_batches(
    kind: Literal["eval", "train"] | None, labeled: FaceDataset, params: Params, machine: Machine
) -> Callable[[int], Iterable[Batch]] | None:
    """Return a function from epoch to the batches of its labeled pass; None if the method has none."""
    if kind is None:
        return None
    p = params.semisup
    weak = build_augmentation(p.weak_view, p, params.augmentations, params.model.img_size, params.model.mean)
    seed = derive(p.seed, "review")

    def batches(epoch: int) -> Iterable[Batch]:
        seen = labeled if kind == "eval" else WeakViews(labeled, weak, seed, epoch, p.batch_size)
        return eval_batches(cast(FaceDataset, seen), machine=machine, model=params.model)

    return batches
