"""ssfer.models.experts and features: LEAF specification 3 and invariants 6 to 12 and 20."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.models import features as features_module
from ssfer.models.expert_head import ExpertHead, add_experts, expert_head
from ssfer.models.experts import (
    Expert,
    ExpertAggregation,
    ExpertSettings,
    Routing,
    balance_loss,
    expected_load,
    unevenness,
)
from ssfer.models.features import features_and_logits, full_output
from ssfer.models.unit_head import feature_length
from ssfer.models.vit import build_classifier
from tests.support import factory

SETTINGS = {k: getattr(factory.tiny_params().methods["leaf"], k) for k in ExpertSettings.model_fields}


def settings(**changes: Any) -> ExpertSettings:
    return ExpertSettings(**SETTINGS | changes)


def layer(dim: int = 6, experts: int = 5, top_k: int = 2, combine: str = "linear", **more: Any) -> ExpertAggregation:
    """A layer whose gates already tell the samples apart."""
    torch.manual_seed(0)
    made = ExpertAggregation(dim, experts, top_k, combine, **more)
    nn.init.normal_(made.gate)
    nn.init.normal_(made.noise)
    return made


def some(n: int = 8, dim: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def network(seed: int = 0, classes: int = 4) -> Any:
    torch.manual_seed(seed)
    return build_classifier(factory.tiny_params(model={"head_init": "torch_default"}).model, classes)


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(2))


# --- one layer ---


def test_parameter_counts_are_those_of_the_specification() -> None:
    assert count(Expert(512)) == 262_912
    assert count(ExpertAggregation(512, 8, 1, shared=True)) == 271_104
    assert count(ExpertAggregation(512, 8, 2)) == 2_111_488
    assert count(ExpertAggregation(512, 8, 2)) - 8 * 262_912 == 8_192


def test_gates_start_as_told() -> None:
    torch.manual_seed(0)
    default = ExpertAggregation(400, 8, 2)
    assert default.gate.std().item() == pytest.approx(0.01, rel=0.1) and not default.noise.any()
    zeros = ExpertAggregation(400, 8, 2, gate_init="zeros")
    assert not zeros.gate.any() and not zeros.noise.any()


def in_loops(made: ExpertAggregation, h: Tensor, combine: str, noise: Tensor | None = None) -> Tensor:
    """Section 3.2, sample by sample and expert by expert."""
    rows = []
    for i, one in enumerate(h):
        scores = one @ made.gate
        if noise is not None:
            scores = scores + noise[i] * ((1 + (one @ made.noise).exp()).log() + 0.01)
        best = scores.argsort(descending=True)[: made.top_k].tolist()
        shares = {k: math.exp(scores[k]) / sum(math.exp(scores[j]) for j in best) for k in best}
        said = {}
        for k in best:
            e = made.experts[k]
            hidden = (e.narrow.weight @ one + e.narrow.bias).clamp(min=0)
            said[k] = one + e.widen.weight @ hidden + e.widen.bias
        if combine == "linear":
            rows.append(sum(shares[k] * said[k] for k in best))
        else:
            rows.append(sum(shares[k] * said[k].exp() for k in best).log())
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("combine", ["linear", "logsumexp"])
def test_layer_agrees_with_the_loop(combine: str, top_k: int) -> None:
    made, h = layer(top_k=top_k, combine=combine), some()
    assert_close(made.eval()(h), in_loops(made, h, combine), rtol=1e-4, atol=1e-5)
    torch.manual_seed(7)
    noise = torch.randn(8, 5)
    torch.manual_seed(7)
    assert_close(made.train()(h), in_loops(made, h, combine, noise), rtol=1e-4, atol=1e-5)


def test_evaluation_draws_nothing_and_training_does() -> None:
    made, h = layer().eval(), some()
    state = torch.get_rng_state()
    assert torch.equal(made(h), made(h))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(made.train()(h), made(h))


def test_log_space_survives_what_overflows_in_the_release() -> None:
    made = layer(combine="logsumexp")
    h = (300 * some()).requires_grad_()  # exp(89) is infinite in single precision
    out = made(h)
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(h.grad).all()


def test_experts_are_distinct_and_those_without_samples_learn_nothing() -> None:
    """Invariant 10."""
    made = layer(experts=6, top_k=2).eval()
    assert len({p.data_ptr() for p in made.parameters()}) == 6 * 4 + 2
    h = some(2)
    used = (made.route(h).gates > 0).any(dim=0)
    assert used.any() and not used.all()
    made(h).square().sum().backward()
    for expert, worked in zip(made.experts, used, strict=True):
        # Zeros rather than nothing: processes that average their gradients wait for every parameter's.
        assert bool(expert.widen.bias.grad.any()) == bool(worked)
        assert worked or not any(p.grad.any() for p in expert.parameters())


# --- balance ---


def even(n: int, experts: int, k: int) -> Routing:
    """Everybody works equally much."""
    gates = torch.zeros(n, experts)
    for i in range(n):
        for j in range(k):
            gates[i, (i * k + j) % experts] = 1 / k
    return Routing(gates.log(), (gates > 0).sum(dim=0).float())


def test_balance_is_zero_for_even_use_and_positive_otherwise() -> None:
    """Invariant 11."""
    routing = even(12, 4, 2)
    assert balance_loss(routing).item() == pytest.approx(0, abs=1e-9)
    lazy = Routing(torch.tensor([[1.0, 0, 0, 0]]).expand(12, -1).log(), torch.tensor([12.0, 0, 0, 0]))
    # counts 12, 0, 0, 0: mean 3, unbiased variance 36, so 4 for the gates and 4 for the load
    assert balance_loss(lazy).item() == pytest.approx(8)
    assert balance_loss(Routing(routing.log_gates, torch.tensor([6.0, 6, 6, 7]))) > 0
    assert unevenness(torch.tensor([3.0])).item() == 0  # a single expert


def test_expected_load_is_what_redrawn_noise_gives_on_average() -> None:
    """For every expert, its noise is drawn again while the others' scores stay."""
    made, h = layer(experts=4, top_k=2).train(), some(3)
    clean = (h @ made.gate).detach()
    spread = (F.softplus(h @ made.noise) + 0.01).detach()
    torch.manual_seed(3)
    noisy = clean + torch.randn(3, 4) * spread
    expected = torch.zeros(4)
    draws = torch.randn(20000, generator=torch.Generator().manual_seed(4))
    for i in range(3):
        for j in range(4):
            others = torch.cat([noisy[i, :j], noisy[i, j + 1 :]]).sort(descending=True).values
            expected[j] += (clean[i, j] + draws * spread[i, j] > others[1]).float().mean()
    assert_close(expected_load(clean, noisy, spread, 2), expected, rtol=0, atol=0.03)
    torch.manual_seed(3)
    assert_close(made.route(h).load, expected_load(clean, noisy, spread, 2))


def test_load_counts_samples_in_evaluation_and_when_all_work() -> None:
    made, h = layer(), some()
    for one in (made.eval(), layer(top_k=5).train()):
        routing = one.route(h)
        assert torch.equal(routing.load, (routing.gates > 0).sum(dim=0).float())


# --- the head ---


@pytest.mark.parametrize("where", ["scores", "feature"])
def test_head_is_the_chain_of_the_specification(where: str) -> None:
    torch.manual_seed(0)
    head = ExpertHead(nn.Linear(16, 4), settings(instance_on=where)).eval()
    f = some(5, 16)
    out = head.output(f)
    q = F.normalize(head.semantic(f), dim=1)
    logits = head.instance(head.classifier(q)) if where == "scores" else head.classifier(head.instance(q))
    assert_close(out.logits, logits)
    assert_close(out.features, q)
    assert_close(out.features.norm(dim=1), torch.ones(5))  # invariant 12
    assert torch.equal(head(f), out.logits)
    assert head.instance.experts[0].narrow.in_features == (4 if where == "scores" else 16)
    assert out.balance.item() == 0  # of training alone


def test_balance_of_the_head_is_that_of_both_levels_and_can_be_switched_off() -> None:
    torch.manual_seed(0)
    head, f = ExpertHead(nn.Linear(16, 4), settings(dropout=0.0, balance_coef=0.02)).train(), some(5, 16)
    torch.manual_seed(5)
    found = head.output(f).balance
    torch.manual_seed(5)
    fused, semantic = head.semantic.aggregate(f)
    instance = head.instance.aggregate(head.classifier(F.normalize(fused, dim=1)))[1]
    assert_close(found, 0.02 * (balance_loss(semantic) + balance_loss(instance)))
    assert found > 0
    assert ExpertHead(nn.Linear(16, 4), settings(balance_coef=0.0)).train().output(f).balance.item() == 0


def test_dropout_works_before_the_experts_and_in_training_alone() -> None:
    torch.manual_seed(0)
    head = ExpertHead(nn.Linear(16, 4), settings(dropout=0.9))
    seen: list[Tensor] = []
    head.dropout.register_forward_hook(lambda _m, _i, out: seen.append(out))
    head.train().output(torch.ones(20, 16))
    head.eval().output(torch.ones(20, 16))
    assert 0.8 < (seen[0] == 0).float().mean() < 1 and torch.equal(seen[1], torch.ones(20, 16))


# --- in a network ---


def test_the_head_takes_the_classifiers_place_and_nothing_else_changes() -> None:
    plain = network()
    changed = add_experts(copy.deepcopy(plain), settings())
    before, after = plain.state_dict(), changed.state_dict()
    assert {k for k in before if not k.startswith("head.")} == {k for k in after if not k.startswith("head.")}
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("head."))
    assert expert_head(changed) is changed.head and expert_head(plain) is None
    assert expert_head(nn.Linear(2, 2)) is None
    assert changed.head.classifier.out_features == 4


def test_a_kept_classifier_still_says_what_it_said() -> None:
    """With silent experts the logits are nearly those before, although the features now have length one."""
    plain = network().eval()
    with torch.no_grad():
        plain.norm.weight.mul_(torch.linspace(0.5, 2.0, 16))
        plain.norm.bias.normal_(0, 0.1)
    for kind in ("keep", "new"):
        changed = add_experts(copy.deepcopy(plain), settings(classifier=kind)).eval()
        for aggregation in (changed.head.semantic, changed.head.instance):
            for parameter in aggregation.experts.parameters():
                nn.init.zeros_(parameter)
        features, logits = features_and_logits(plain, images(12))
        close = torch.allclose(changed(images(12)), logits, atol=0.25 * logits.std().item() + 0.05)
        assert close == (kind == "keep")
    assert features.norm(dim=1).mean().item() == pytest.approx(feature_length(plain, 16), rel=0.15)
    assert feature_length(nn.Linear(9, 9), 9) == 3


def test_features_are_what_the_last_linear_map_sees() -> None:
    for net in (network().eval(), add_experts(network(), settings(instance_on="scores")).eval()):
        features, logits = features_and_logits(net, images())
        last = net.head.classifier if isinstance(net.head, ExpertHead) else net.head
        seen: list[Tensor] = []
        last.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        assert torch.equal(net(images()), logits)
        assert torch.equal(seen[0], features)
        features.sum().backward()  # with gradient


def test_where_the_networks_call_is_compiled_its_features_are_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    net, compiled = network(), []
    monkeypatch.setattr(features_module, "_compiled", lambda: lambda *args: compiled.append(args) or real(*args))
    real = features_module._output
    features_and_logits(net, images())
    assert not compiled
    net.compile(backend="eager")
    features_and_logits(net, images())
    assert len(compiled) == 1 and compiled[0][0] is net


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_any_network_of_timm_gives_features_and_takes_experts(name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 32} if name.startswith("vit") else {}
    net = timm.create_model(name, num_classes=4, **size).eval()
    x = torch.randn(2, 3, 32, 32)
    features, logits = features_and_logits(net, x)
    assert features.shape == (2, net.num_features) and torch.equal(logits, net(x))
    assert_close(net.get_classifier()(features), logits)
    out = full_output(add_experts(net, settings()).eval(), x)
    assert out.logits.shape == (2, 4) and torch.equal(out.logits, net(x))
    assert_close(out.features.norm(dim=1), torch.ones(2))


# --- what is refused ---


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"dim": 1}, {"top_k": 0}, {"top_k": 6}):
        with pytest.raises(SsferError, match="experts need a width of 2 at least and 1 <= top_k <= experts"):
            layer(**wrong)
    with pytest.raises(SsferError, match="unknown combination of experts 'linaer'; did you mean 'linear'"):
        layer(combine="linaer")
    with pytest.raises(SsferError, match="unknown gate_init 'zero'"):
        layer(gate_init="zero")
    with pytest.raises(SsferError, match="needs features besides logits, which Sequential cannot give"):
        add_experts(nn.Sequential(nn.Linear(4, 4)), settings())
    with pytest.raises(SsferError, match="needs features"):
        features_and_logits(nn.Linear(4, 4), torch.ones(1, 4))
    with pytest.raises(SsferError, match="takes the place of a linear classifier, found ExpertHead"):
        add_experts(add_experts(network(), settings()), settings())
