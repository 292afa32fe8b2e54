"""Loss formulas as pure functions, one per formula; nothing is modified in place.

Letters: B batch, K classes, N patches, P pixels of a patch. The partner of sample i in a paired batch is sample
B-1-i (the batch reversed), as in the SSFER release.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

VARIANTS = ("L1", "L2", "L3", "L4")


def smooth_one_hot(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return (B, K) targets with 1 - e + e/K at the label and e/K elsewhere, e being `label_smoothing`.

    Labels may be distributions over the classes (B, K), which are mixed with the uniform one in the same way.
    """
    off = label_smoothing / num_classes
    if labels.is_floating_point():
        return (1 - label_smoothing) * labels + off
    target = torch.full((len(labels), num_classes), off, device=labels.device)
    return target.scatter_(1, labels[:, None], 1 - label_smoothing + off)


def mixed_target(labels: Tensor, num_classes: int, lam: float, label_smoothing: float) -> Tensor:
    """Return (B, K) targets lam * s(y_i) + (1 - lam) * s(y_j) for the reversed batch; rows sum to one."""
    target = smooth_one_hot(labels, num_classes, label_smoothing)
    return lam * target + (1 - lam) * target.flip(0)


def mix_images(images: Tensor, lam: float) -> Tensor:
    """Return lam * x_i + (1 - lam) * x_j as a new tensor, (B, C, H, W); `images` stays as it is.

    The SSFER release mixes in place: see `legacy_inplace` in `ssfer.methods.facemix`.
    """
    return lam * images + (1 - lam) * images.flip(0)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return (B,) cross-entropies of soft targets (B, K)."""
    return -(target * F.log_softmax(logits, dim=1)).sum(dim=1)


def facemix_loss(
    logits_mixed: Tensor,
    logits_real: Tensor,
    labels: Tensor,
    lam: float,
    kappa: Tensor,
    label_smoothing: float = 0.1,
    variant: str = "L4",
) -> Tensor:
    """Return the FaceMix loss of a batch (SSFER, FaceMix equations; variants of its Table 15).

    With v the loss of the mixed image, r that of a real image, j the partner of i and kappa how much the two differ
    (`ssfer.methods.shared.similarity`): L1 (1-kappa) v + r_i + r_j; L2 v + (1-kappa)(r_i + r_j);
    L3 kappa v + r_i + r_j; L4 v + kappa (r_i + r_j).

    Args:
        logits_mixed: (B, K) for lam * x_i + (1 - lam) * x_j; B even.
        logits_real: (B, K) for the unmixed images.
        labels: (B,) int64, or distributions (B, K).
        lam: mixing coefficient in [0, 1], one draw a batch.
        kappa: (B,) in [0, 1], equal for partners, without gradient.
        label_smoothing: of the mixed targets; real images have hard targets.

    Raises:
        ValueError: odd batch or unknown variant.
    """
    if len(labels) % 2:
        raise ValueError(f"FaceMix pairs a batch with its reverse and needs an even size, found {len(labels)}")
    virtual = soft_cross_entropy(logits_mixed, mixed_target(labels, logits_mixed.shape[1], lam, label_smoothing))
    real = F.cross_entropy(logits_real, labels, reduction="none")
    real = real + real.flip(0)
    if variant == "L1":
        loss = (1 - kappa) * virtual + real
    elif variant == "L2":
        loss = virtual + (1 - kappa) * real
    elif variant == "L3":
        loss = kappa * virtual + real
    elif variant == "L4":
        loss = virtual + kappa * real
    else:
        raise ValueError(f"unknown FaceMix variant '{variant}' (known: {', '.join(VARIANTS)})")
    return loss.mean()


def confidence_mask(probs: Tensor, threshold: float | Tensor, op: str = "gt") -> tuple[Tensor, Tensor]:
    """Return (mask, target): mask (B,) float, 1 where the largest probability passes; target (B,) its class.

    `threshold` is one for all, or (K,) one per class. `op` is "gt" (paper: p > threshold) or "ge" (release:
    p >= threshold).
    """
    confidence, target = probs.detach().max(dim=1)
    limit = threshold[target] if isinstance(threshold, Tensor) else threshold
    mask = confidence > limit if op == "gt" else confidence >= limit
    return mask.float(), target


def masked_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return (1/B) sum_i mask_i CE(logits_i, target_i): divided by B, not by the number kept (SSFER, L_u)."""
    return (mask * F.cross_entropy(logits, target, reduction="none")).mean()


def masked_soft_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return (1/B) sum_i mask_i H(target_i, softmax(logits_i)) of soft targets (B, K)."""
    return (mask * soft_cross_entropy(logits, target)).mean()


def probability_mse(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over B and K of (softmax(logits) - target)^2 (Laine and Aila 2017, algorithm 1)."""
    return ((logits.softmax(dim=1) - target) ** 2).mean()


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Return (B,) divergences KL(target || softmax(logits)) of probabilities (B, K); 0 log 0 is 0."""
    return (torch.special.xlogy(target, target) - target * F.log_softmax(logits, dim=1)).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return (B,) entropies of softmax(logits)."""
    return -(logits.softmax(dim=1) * F.log_softmax(logits, dim=1)).sum(dim=1)


def annealed_cross_entropy(logits: Tensor, labels: Tensor, limit: Tensor) -> Tensor:
    """Return the mean cross-entropy of the samples whose label has a probability below `limit`; 0 if there are none.

    Xie et al. 2020 (UDA), training signal annealing: images whose label the network already predicts are left out.

    Args:
        limit: eta, a scalar.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    open_ = (losses.detach() > -limit.log()).float()  # p_y < eta
    return (open_ * losses).sum() / open_.sum().clamp(min=1)


def fairness_loss(logits: Tensor, mask: Tensor, mean: Tensor, histogram: Tensor) -> Tensor:
    """Return FreeMatch's self-adaptive fairness loss (Wang et al. 2023), 0 if nothing is kept.

    sum_k n(mean / histogram)_k log n(p / h)_k, with p the mean prediction of the kept strong views, h the shares of
    their predicted classes, and n(v) = v / sum(v): minus the cross-entropy, as printed. For a class that no image is
    predicted as, the quotient counts as 0 (our decision, because it is infinite there).

    Args:
        logits: of the strong views (B, K).
        mask: (B,), 1: kept.
        mean, histogram: running mean of the predictions and of the shares of predicted classes (K,).
    """
    probs = logits.softmax(dim=1)
    kept = mask.sum().clamp(min=1)
    p = (mask[:, None] * probs).sum(dim=0) / kept
    h = torch.zeros_like(mean).index_add_(0, probs.argmax(dim=1), mask.to(mean.dtype)) / kept
    target = _sum_norm(torch.where(histogram > 0, mean / histogram, 0))
    found = _sum_norm(torch.where(h > 0, p / h.clamp(min=1e-12), 0))
    return (target * (found + 1e-12).log()).sum() * (mask.sum() > 0)


def graph_contrastive_loss(a: Tensor, b: Tensor, graph: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy between the rows of a graph of targets and of embeddings (CoMatch, equation 7).

    Args:
        a, b: unit vectors of two views (B, E); the embedding graph is softmax_j(a_i . b_j / temperature).
        graph: (B, B), rows sum to one, without gradient.
    """
    with torch.autocast(a.device.type, enabled=False):
        similarity = a.float() @ b.float().T / temperature
    return soft_cross_entropy(similarity, graph).mean()


def weighted_contrastive_loss(a: Tensor, b: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss with a weight for each pair of images (CCSSL; Khosla et al. 2020).

    Over all 2B vectors v of two views, the mean of -sum_(p != i) w_ip log s_ip / sum_(p != i) w_ip, with s_i the
    softmax of v_i . v_j / temperature over j != i.

    Args:
        a, b: unit vectors of two views (B, E).
        weights: of pairs of images (B, B), not negative, diagonal above 0, without gradient.
    """
    v = torch.cat([a, b]).float()
    oneself = torch.eye(len(v), dtype=torch.bool, device=v.device)
    with torch.autocast(v.device.type, enabled=False):
        similarity = v @ v.T / temperature
    scores = similarity.masked_fill(oneself, -torch.inf).log_softmax(dim=1).masked_fill(oneself, 0)
    pairs = weights.repeat(2, 2).masked_fill(oneself, 0)
    return -((pairs * scores).sum(dim=1) / pairs.sum(dim=1)).mean()


def _sum_norm(values: Tensor) -> Tensor:
    return values / values.sum().clamp(min=1e-12)


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.07, which: Tensor | None = None) -> Tensor:
    """Return the contrastive loss of N pairs of unit vectors (Chen et al. 2020, SimCLR; LEAF, section 4).

    -(1/2N) sum_i [v_i.v_partner(i) / t - log sum_(j != i) exp(v_i.v_j / t)] over all 2N vectors v; 0 without pairs.

    Args:
        a, b: rows of length one (M, D); row i of both belongs to one sample.
        which: (M,) bool, the N of them that take part; None: all. On a GPU the others are masked instead of removed,
            so that the host need not wait for their number. The results are equal up to rounding.
    """
    if which is not None and a.device.type != "cpu":
        return _masked_nt_xent(a, b, temperature, which)
    if which is not None:
        a, b = a[which], b[which]
    n = len(a)
    if n == 0:
        return a.sum()
    with torch.autocast(a.device.type, enabled=False):  # at t = 0.07 the rounding of bf16 would matter
        v = torch.cat([a, b]).float()
        similarity = v @ v.T / temperature
    similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=v.device), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n, device=v.device).roll(n))


def _masked_nt_xent(a: Tensor, b: Tensor, temperature: float, which: Tensor) -> Tensor:
    """Return what `nt_xent` does for the pairs at `which`, by operations whose shapes do not depend on it."""
    both = which.repeat(2)
    with torch.autocast(a.device.type, enabled=False):
        v = torch.cat([a, b]).float()
        similarity = v @ v.T / temperature
    left_out = ~both[None, :] | torch.eye(len(v), dtype=torch.bool, device=v.device)
    similarity = similarity.masked_fill(left_out, -torch.inf)
    similarity = similarity.masked_fill(~both[:, None], 0)  # a row of -inf alone has no gradient
    partner = torch.arange(len(v), device=v.device).roll(len(a))
    losses = F.cross_entropy(similarity, partner, reduction="none")
    return losses.where(both, 0).sum() / both.sum().clamp(min=1)
