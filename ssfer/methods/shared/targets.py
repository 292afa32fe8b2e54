"""What unlabeled images are to be taught as: rules that several methods share. Nothing is modified in place.

Letters: B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssfer.core.rng import counter_uniform
from ssfer.core.distributed import joined


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T) of each row, normalised (Berthelot et al. 2019, MixMatch, equation 7); T = 1 changes nothing."""
    powered = (probs / probs.max(dim=1, keepdim=True).values) ** (1 / temperature)  # scaled, so that none underflows
    return powered / powered.sum(dim=1, keepdim=True)


def draw_mixing(alpha: float) -> float:
    """Draw max(l, 1 - l), l from Beta(alpha, alpha): the first image dominates (MixMatch, equations 8 and 9).

    One draw a batch, as FaceMix's here; the equation may be read as one an image (decision).
    """
    drawn = torch.distributions.Beta(alpha, alpha).sample().item()
    return max(drawn, 1 - drawn)


def mix(values: Tensor, lam: float, order: Tensor) -> Tensor:
    """Return lam * v_i + (1 - lam) * v_order(i), images (B, C, H, W) or targets (B, K) (MixMatch, equation 10)."""
    return lam * values + (1 - lam) * values[order]


def quarter_turns(keys: Tensor) -> Tensor:
    """Return a number of quarter turns, 0 to 3, for each key (B,): a function of the key alone."""
    return (counter_uniform(keys, 1)[:, 0] * 4).long()


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Return each square image (B, C, S, S) turned anticlockwise by its number of quarter turns (B,)."""
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]


def counter_normal(keys: Tensor, n: int) -> Tensor:
    """Return n standard normal numbers for each key (B,), (B, n): a function of the key alone."""
    uniform = counter_uniform(keys, n) + 2.0**-25  # strictly between 0 and 1
    return torch.erfinv((2 * uniform - 1).clamp(-1 + 2.0**-24, 1 - 2.0**-24)) * 2**0.5


def unit(values: Tensor) -> Tensor:
    """Return each sample of (B, ...) divided by its Euclidean norm; a sample of zeros stays zeros."""
    flat = values.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)  # else squares of small ones would underflow
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1)).view_as(values)


def pseudo_label_graph(probs: Tensor, threshold: float) -> Tensor:
    """Return CoMatch's graph of targets (B, B) (Li et al. 2021, equation 5), rows normalised to sum one.

    1 on the diagonal; between images the inner product of their predictions (B, K), where it reaches `threshold`.
    """
    graph = probs @ probs.T
    graph = (graph * (graph >= threshold)).fill_diagonal_(1)
    return graph / graph.sum(dim=1, keepdim=True)


def class_pair_weights(probs: Tensor, threshold: float) -> Tensor:
    """Return CCSSL's weights of pairs of images (B, B) (Yang et al. 2022, class-aware contrast).

    Images of one predicted class, both of a confidence above `threshold`, weigh the product of their confidences;
    all others nothing, and an image with itself, its other view, 1.
    """
    confidence, target = probs.max(dim=1)
    sure = confidence * (confidence > threshold)
    same = target[:, None] == target[None, :]
    return (sure[:, None] * sure[None, :] * same).fill_diagonal_(1)


class Memory(nn.Module):
    """The last images' embeddings and predictions: `note` them in the forward pass, they enter after the step.

    Args:
        size: M images.
        dim: of the unit embeddings, E.
    """

    embeddings: Tensor  # (M, E)
    probs: Tensor  # (M, K), zeros where nothing has been written yet
    written: Tensor  # images so far, a scalar

    def __init__(self, size: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("probs", torch.zeros(size, num_classes))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def smooth(self, embeddings: Tensor, probs: Tensor, share: float, temperature: float) -> Tensor:
        """Return share * probs + (1 - share) * those of similar images (CoMatch, equations 2 and 3); (B, K).

        Similar by softmax_k(z . z_k / temperature) over what is in the memory; `probs` while it is empty.
        """
        empty = torch.arange(len(self.probs), device=probs.device) >= self.written
        scores = (embeddings.float() @ self.embeddings.T / temperature).masked_fill(empty, -1e9)
        smoothed = share * probs + (1 - share) * scores.softmax(dim=1) @ self.probs
        return smoothed / smoothed.sum(dim=1, keepdim=True)

    def note(self, embeddings: Tensor, probs: Tensor) -> None:
        """Take down embeddings (B, E) and predictions (B, K) of the step under way."""
        self._seen.append((embeddings.detach().float(), probs.detach().float()))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Replace the oldest by what the step's batch showed, in all processes alike."""
        if not self._seen:
            return
        new = [values[-len(self.probs) :] for values in joined(self._seen)]
        places = (self.written + torch.arange(len(new[0]), device=self.written.device)) % len(self.probs)
        self.embeddings[places], self.probs[places] = new
        self.written += len(new[0])
        self._seen = []
