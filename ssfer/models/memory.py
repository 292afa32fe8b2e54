"""Memories of features and labels: a ring of the latest images, and SIT-FER's, with a slot for each labeled image."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.core.distributed import joined


class Ring(nn.Module):
    """Features and labels of the latest images, without gradient; all state is in buffers, so snapshots contain it.

    Args:
        size: U, slots of the ring.
        dim: D. num_classes: C.
        first: N, slots before the ring, which `push` does not change.
    """

    features: Tensor  # (N + U, D)
    targets: Tensor  # (N + U, C)
    filled: Tensor  # (N + U,) bool
    position: Tensor  # () int64, place in the ring of the next image

    def __init__(self, size: int, dim: int, num_classes: int, first: int = 0) -> None:
        super().__init__()
        self.size, self.first = size, first
        self.register_buffer("features", torch.zeros(first + size, dim))
        self.register_buffer("targets", torch.zeros(first + size, num_classes))
        self.register_buffer("filled", torch.zeros(first + size, dtype=torch.bool))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self._seen: list[tuple[Tensor, ...]] = []  # noted in this step

    @torch.no_grad()
    def push(self, features: Tensor, targets: Tensor) -> None:
        """Store images, features (B, D) and soft labels (B, C), in place of the oldest ones."""
        features, targets = features[-self.size :], targets[-self.size :]
        slots = (self.position + torch.arange(len(features), device=features.device)) % self.size + self.first
        self._store(slots, features, targets)
        self.position.add_(len(features)).remainder_(self.size)

    @torch.no_grad()
    def push_where(self, features: Tensor, targets: Tensor, which: Tensor) -> None:
        """Store only the images at `which` (B,) bool, as `push` does; the host need not wait for their number."""
        number = which.cumsum(dim=0) - 1
        total = which.sum()
        late = number - (total - self.size).clamp(min=0)  # only the last ones stay
        slots = ((self.position + late) % self.size).where(which & (late >= 0), self.size)
        images = torch.arange(len(which), device=which.device)
        writer = torch.full((self.size + 1,), -1, device=which.device).scatter(0, slots, images)[: self.size]
        new, ring = writer >= 0, slice(self.first, None)
        for stored, values in ((self.features, features), (self.targets, targets)):
            values = values.detach().to(stored.dtype)[writer.clamp(min=0)]
            stored[ring] = values.where(new[:, None], stored[ring])
        self.filled[ring] |= new
        self.position.add_(total.clamp(max=self.size)).remainder_(self.size)

    def _store(self, slots: Tensor, features: Tensor, targets: Tensor) -> None:
        self.features[slots] = features.detach().to(self.features.dtype)
        self.targets[slots] = targets.detach().to(self.targets.dtype)
        self.filled[slots] = True


class InstanceMemory(Ring):
    """Features of length one: slot i belongs to labeled image i, whose target is one-hot; the ring has unlabeled ones.

    Args:
        labeled: N, number of labeled images.
        unlabeled: U, slots for unlabeled ones.
        dim: D. num_classes: C.
    """

    def __init__(self, labeled: int, unlabeled: int, dim: int, num_classes: int) -> None:
        super().__init__(unlabeled, dim, num_classes, labeled)
        self.unlabeled = unlabeled
        self._labeled: list[tuple[Tensor, ...]] = []

    @property
    def ready(self) -> Tensor:
        """Whether every labeled image is stored, so that no class is missing; a bool on the device, not on the host."""
        return self.filled[: self.first].all()

    def stored(self) -> tuple[Tensor, Tensor]:
        """Return all stored features (M, D) and labels (M, C); none while a labeled image is missing."""
        filled = self.filled & self.ready
        return self.features[filled], self.targets[filled]

    def note(self, index: Tensor, features: Tensor, labels: Tensor) -> None:
        """Note labeled images (arguments as in `write`), which `after_step` stores."""
        self._labeled.append((index, features.detach(), labels))

    def note_unlabeled(self, index: Tensor, features: Tensor, targets: Tensor, mask: Tensor) -> None:
        """Note unlabeled images; `after_step` stores those with mask (B,) above 0, in the order of `index` (B,)."""
        self._seen.append((index, features.detach(), targets.detach(), mask))

    def after_step(self, step: int) -> None:
        """Store what was noted, the same in all processes."""
        if self._labeled:
            self.write(*joined(self._labeled))
        if self._seen:
            index, features, targets, mask = joined(self._seen)
            order = index.argsort()  # however processes and parts hand them over
            self.push_where(features[order], targets[order], mask[order] > 0)
        self._labeled, self._seen = [], []

    @torch.no_grad()
    def write(self, index: Tensor, features: Tensor, labels: Tensor) -> None:
        """Store labeled images: their slots (B,), features (B, D) and classes (B,); other slots stay as they are."""
        self._store(index, features, F.one_hot(labels, self.targets.shape[1]))

    @torch.no_grad()
    def fill(self, network: nn.Module, labeled: Iterable[Mapping[str, Tensor]]) -> None:
        """Store the features of all labeled batches (x_lb, y_lb, idx_lb); `network` returns (logits, features)."""
        training = network.training
        network.eval()
        for batch in labeled:
            self.write(batch["idx_lb"], network(batch["x_lb"])[1], batch["y_lb"])
        network.train(training)
