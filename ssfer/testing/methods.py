"""The contract of a semi-supervised method, as checks that its author's tests can run.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check("./mine.py:Mine")

Each check takes a name that `ssfer.methods.registry.METHODS` knows: of a method of ssfer, of an installed package, or
of a file or module. It raises AssertionError with one sentence. The formula of a method needs tests of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ssfer.methods.registry import METHODS
from ssfer.models.fused import FusedClassifier
from ssfer.testing.method_setup import (
    CLASSES,
    adamw,
    batch_of,
    build,
    gradients,
    loose_tensors,
    stored,
    trained_state,
    wrong_outputs,
)

Check = Callable[[str], None]

CHECKS: list[Check] = []


def _check(check: Check) -> Check:
    """Add a check to `CHECKS`; whatever it raises becomes an AssertionError of one sentence."""

    @functools.wraps(check)
    def checked(name: str) -> None:
        try:
            check(name)
        except Exception as error:
            rule = (check.__doc__ or "").splitlines()[0]
            found = str(error).splitlines()[0] if str(error) else "the check failed"
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(
                f"method '{name}' breaks the contract '{rule}' ({check.__name__}): {kind}{found}"
            ) from error

    CHECKS.append(checked)
    return checked


@_check
def declares_itself(name: str) -> None:
    """Declarations fit together: views have a kind, targets are views, what is evaluated is exported."""
    kind = METHODS[name]
    assert kind.labeled
    assert all(view.rstrip("0123456789") in ("w", "s") for view in kind.views)
    assert len(set(kind.views)) == len(kind.views) > 0
    assert set(kind.targets) <= set(kind.views)
    assert kind.labeled_view in ("w", "s")
    assert kind.evaluated in kind.exports
    assert "student" in kind.exports


@_check
def reports_one_loss_and_monitors(name: str) -> None:
    """The loss is a scalar with gradient, all other outputs have none; the monitors are present."""
    method, batch = build(name), batch_of(name)
    out = method(batch)
    problem = wrong_outputs(out)
    assert not problem, problem
    assert 0 <= out["util_ratio"] <= 1
    assert out["class_count"].tolist() == torch.bincount(batch["y_ulb"], minlength=CLASSES).tolist()
    assert (out["correct_count"] <= out["kept_count"]).all() and (out["kept_count"] <= out["class_count"]).all()


@_check
def gradient_reaches_what_is_trained_and_nothing_else(name: str) -> None:
    """All trainable parameters get gradient, averages none; images that only make targets none, all others some.

    Some views may teach only where an image is below the threshold, or below what the last step showed; so these cases
    are looked at.
    """
    reached = set()
    for threshold, steps in ((0.0, 0), (1.0, 0), (1.0, 1)):
        method, batch = build(name, threshold=threshold), batch_of(name)
        for step in range(steps):
            method(batch)
            method.after_step(9 + step)
        inputs = {view: batch[f"x_ulb_{view}"].requires_grad_() for view in method.views}
        batch["x_lb"].requires_grad_()
        found = gradients(method, batch)
        if threshold == 0:
            trainable = {n for n, p in method.named_parameters() if p.requires_grad}
            assert {n for n, g in found.items() if g.any()} == trainable
            assert trainable >= {f"student.{n}" for n, _ in method.student.named_parameters()}
        for key, network in method.networks().items():
            assert any(p.requires_grad for p in network.parameters()) is (key in method.trained)
        assert batch["x_lb"].grad is not None
        reached |= {view for view, x in inputs.items() if x.grad is not None and x.grad.any()}
    assert reached == set(METHODS[name].views) - set(METHODS[name].targets)


@_check
def the_unlabeled_images_teach(name: str) -> None:
    """Other unlabeled images give another gradient of the student."""
    method, batch = build(name), batch_of(name)
    other = batch_of(name, seed=1)
    swapped = batch | {k: v for k, v in other.items() if k.startswith("x_ulb")}
    first, second = gradients(method, batch), gradients(build(name), swapped)
    assert all(not torch.equal(first[k], second[k]) for k in first if k.startswith("student."))


@_check
def leaves_its_batch_alone(name: str) -> None:
    """Nothing of the batch is modified, and no state shares its memory with the batch or other state."""
    method, batch = build(name), batch_of(name)
    before = {k: v.clone() for k, v in batch.items()}
    method(batch)["loss"].backward()
    method.after_step(0)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[k], before[k]) for k in batch)
    held = [v.untyped_storage().data_ptr() for v in (*method.parameters(), *method.buffers()) if v.numel()]
    assert len(held) == len(set(held))
    assert not set(held) & {v.untyped_storage().data_ptr() for v in batch.values()}


@_check
def resumes_exactly(name: str) -> None:
    """Two steps, saving, loading into another instance and two more steps equal four steps, bit for bit."""
    whole, cut, again = build(name), build(name), build(name, seed=5)
    optimizer = adamw(whole)
    losses = trained_state(whole, name, 0, 4, optimizer)
    optimizer = adamw(cut)
    trained_state(cut, name, 0, 2, optimizer)
    state, moments = stored(cut.state_dict()), stored(optimizer.state_dict())
    again.load_state_dict(state)
    optimizer = adamw(again)
    optimizer.load_state_dict(moments)
    assert trained_state(again, name, 2, 4, optimizer) == losses[2:]
    for (key, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@_check
def keeps_its_state_in_buffers(name: str) -> None:
    """After a step no tensor is outside parameters and buffers, where a snapshot would miss it."""
    method = build(name)
    trained_state(method, name, 0, 2, adamw(method))
    assert list(loose_tensors(method)) == []


@_check
def evaluates_what_it_says(name: str) -> None:
    """The network to evaluate is the one exported by that name, can be rebuilt, and gives equal logits each time."""
    method = build(name)
    network, networks = method.eval_module(), method.networks()
    exported, body = networks[method.evaluated].state_dict(), method.student.state_dict().keys()
    assert network.state_dict().keys() == exported.keys()
    assert all(torch.equal(value, exported[key]) for key, value in network.state_dict().items())
    assert all(n.state_dict().keys() == body or isinstance(n, FusedClassifier) for n in networks.values())
    images = batch_of(name)["x_lb"]
    method.eval()
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (4, CLASSES) and torch.equal(network(images), logits)


@_check
def never_reads_the_unlabeled_labels(name: str) -> None:
    """Other true labels, or none, change no loss, no gradient and no state."""
    batch = batch_of(name)
    expected = gradients(build(name), batch)
    for labels in ((batch["y_ulb"] + 1) % CLASSES, torch.full((6,), -1)):
        method, same = build(name), build(name)
        found = gradients(method, batch | {"y_ulb": labels})
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
        gradients(same, batch)
        method.after_step(0)
        same.after_step(0)
        pairs = zip(method.state_dict().items(), same.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for (_, a), b in pairs)


@_check
def works_with_a_batch_of_one(name: str) -> None:
    """One labeled and one unlabeled image are enough for two steps with finite losses, gradients and state."""
    method = build(name)
    for step in range(2):
        found = gradients(method, batch_of(name, seed=step, n_lb=1, n_ulb=1))
        assert all(torch.isfinite(g).all() for g in found.values())
        method.after_step(step)
    assert all(torch.isfinite(v).all() for v in method.state_dict().values())


@_check
def works_when_no_sample_is_kept(name: str) -> None:
    """With a threshold that no image reaches, loss and gradients are finite, and labels still give gradients."""
    method = build(name, threshold=1.0)
    for step in range(2):
        found = gradients(method, batch_of(name, seed=step))
        assert all(torch.isfinite(g).all() for g in found.values())
        assert all(g.any() for k, g in found.items() if k.startswith("student."))
        method.after_step(step)


@_check
def runs_in_bfloat16(name: str) -> None:
    """Under autocast, as on a GPU, losses are finite and close to those in float32."""
    plain, mixed = build(name), build(name)
    torch.manual_seed(3)
    expected = plain(batch_of(name))["loss"]
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        out = mixed(batch_of(name))
    out["loss"].backward()
    mixed.after_step(0)
    assert torch.isfinite(out["loss"]) and abs(out["loss"] - expected) < 0.1 * expected.abs() + 0.1
