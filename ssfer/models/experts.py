"""Mixtures of experts on features and on class scores (LEAF, section 3); `expert_head` has the head made of them.

Written from the specification; the parts the release gets wrong are options. Letters: B batch, d width, K experts,
k of which a sample uses.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.settings import BelowOne, Positive, Section, Weight

COMBINATIONS = ("linear", "logsumexp")
MIN_SPREAD = 0.01  # standard deviation that the gates' noise keeps


class ExpertSettings(Section):
    """What a head of experts is built from; goes into the metadata of weights that have one."""

    experts: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="Experts of each of the two mixtures.")
    top_k: Positive = Field(
        2, description="Experts used per face (release: 1, which leaves the gates without gradient)."
    )
    shared_expert: bool = Field(False, description="true: all experts share their weights (release).")
    gate_init: Literal["normal", "zeros"] = Field("normal", description="Start of the gates: normal | zeros (release).")
    combine: Literal["linear", "logsumexp"] = Field(
        "linear", description="How experts are combined: linear | logsumexp (release)."
    )
    instance_on: Literal["scores", "feature"] = Field(
        "scores", description="The second mixture takes class scores | feature, before the classifier (release)."
    )
    balance_coef: Weight = Field(0.01, description="Weight of the loss on uneven use of experts (release: 0).")
    dropout: BelowOne = Field(0.5, description="Dropout of the features.")
    classifier: Literal["keep", "new"] = Field(
        "keep", description="keep: the fine-tuned classifier, scaled to features of unit length | new (release)."
    )

    @model_validator(mode="after")
    def _check_experts(self) -> ExpertSettings:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts")
        return self


class Expert(nn.Module):
    """A residual MLP h + W2 relu(W1 h + b1) + b2 of width d, with floor(d / 2) hidden units."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(dim, dim // 2)
        self.widen = nn.Linear(dim // 2, dim)

    def forward(self, h: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        return h + self.widen(self.narrow(h).relu())


class Routing(NamedTuple):
    """Assignment of samples to experts: log_gates (B, K), -inf where an expert is not used, and expected load (K,)."""

    log_gates: Tensor
    load: Tensor

    @property
    def gates(self) -> Tensor:
        """Return the gates (B, K): in each row k are positive, and the sum is one."""
        return self.log_gates.exp()


class ExpertAggregation(nn.Module):
    """y = sum_k g_k(h) E_k(h): the k experts with the largest scores, weighted by learned gates (LEAF, section 3.2).

    In training the scores get noise of a learned size (Shazeer et al. 2017), in evaluation they do not. Every expert
    computes every sample, because experts cost little compared with the encoder. So the gradient of an unused expert is
    zero, not missing, as averaging over processes requires.

    Args:
        dim: d, at least 2.
        num_experts, top_k: K and k; with k = 1 the gate is 1 and learns nothing.
        combine: "linear", or "logsumexp" (release), log sum_k g_k exp(E_k), computed stably.
        shared: all experts are one and the same (release).
        gate_init: "normal", scores start with standard deviation 0.01 times |h|, or "zeros" (release).

    Raises:
        SsferError: numbers that do not fit, or an unknown name.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int,
        combine: str = "linear",
        *,
        shared: bool = False,
        gate_init: str = "normal",
    ) -> None:
        super().__init__()
        if dim < 2 or not 1 <= top_k <= num_experts:
            raise SsferError(
                f"experts need a width of 2 at least and 1 <= top_k <= experts; found width {dim}, top_k {top_k}, "
                f"experts {num_experts}"
            )
        if combine not in COMBINATIONS:
            raise unknown_name("combination of experts", combine, COMBINATIONS)
        if gate_init not in ("normal", "zeros"):
            raise unknown_name("gate_init", gate_init, ("normal", "zeros"))
        self.num_experts, self.top_k, self.combine = num_experts, top_k, combine
        self.experts = nn.ModuleList([Expert(dim) for _ in range(1 if shared else num_experts)])
        self.gate = nn.Parameter(torch.zeros(dim, num_experts))
        self.noise = nn.Parameter(torch.zeros(dim, num_experts))
        if gate_init == "normal":
            nn.init.normal_(self.gate, std=0.01)

    def forward(self, h: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        return self.aggregate(h)[0]

    def aggregate(self, h: Tensor) -> tuple[Tensor, Routing]:
        """Return y (B, d) and the routing that made it."""
        with torch.autocast(h.device.type, enabled=False):  # small differences between scores choose the experts
            routing = self.route(h.float())
        said = torch.stack([expert(h) for expert in self.experts], dim=1).float()  # (B, K, d); (B, 1, d) if shared
        if self.combine == "linear":
            return (routing.gates[:, :, None] * said).sum(dim=1), routing
        return (routing.log_gates[:, :, None] + said).logsumexp(dim=1), routing

    def route(self, h: Tensor) -> Routing:
        """Return the routing of h (B, d)."""
        clean = scores = h @ self.gate
        spread = F.softplus(h @ self.noise) + MIN_SPREAD
        if self.training:
            scores = clean + torch.randn_like(clean) * spread
        chosen = scores.topk(self.top_k, dim=1).indices
        used = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)
        log_gates = scores.masked_fill(~used, -torch.inf).log_softmax(dim=1)
        if self.training and self.top_k < self.num_experts:
            return Routing(log_gates, expected_load(clean, scores, spread, self.top_k))
        return Routing(log_gates, used.sum(dim=0).to(scores.dtype))


def expected_load(clean: Tensor, noisy: Tensor, spread: Tensor, k: int) -> Tensor:
    """Return per expert (K,) the sum over the batch of its probability of being in the top k if its noise is redrawn.

    Source: Shazeer et al. 2017, appendix A.

    Args:
        clean, noisy: scores (B, K) without and with noise.
        spread: the noise's standard deviations (B, K).
        k: less than K.
    """
    best = noisy.topk(k + 1, dim=1).values
    last_in, first_out = best[:, k - 1 : k], best[:, k:]
    limit = torch.where(noisy > first_out, first_out, last_in)  # what an expert has to exceed
    return torch.special.ndtr((clean - limit) / spread).sum(dim=0)


def unevenness(values: Tensor) -> Tensor:
    """Return the squared coefficient of variation of values (K,): unbiased variance / (mean^2 + 1e-10); 0 for K = 1."""
    if len(values) == 1:
        return values.new_zeros(())
    return values.var() / (values.mean() ** 2 + 1e-10)


def balance_loss(routing: Routing) -> Tensor:
    """Return how unevenly a batch uses the experts, by sums of gates and by expected load; 0 if evenly."""
    return unevenness(routing.gates.sum(dim=0)) + unevenness(routing.load)
