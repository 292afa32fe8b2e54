"""The step benchmark: the plain peer computes what ours computes, figures are those of their definitions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import mae_step
from benchmarks.plain_mae import PlainMae, plain_adamw
from ssfer.core.errors import SsferError
from ssfer.models.vit import build_mae
from ssfer.train.device import Machine
from ssfer.train.optim import adamw, param_groups
from tests.support import tiny_benchmarks
from tests.support.launches import Launch
from tests.support.tiny_benchmarks import TINY, command, setup


@pytest.mark.parametrize("normalize", [True, False])
def test_plain_model_has_our_loss_gradients_and_step(normalize: bool) -> None:
    s = setup("--size", "64", "--threads", "1")
    pretrain = s.pretrain.model_copy(update={"norm_pix_loss": normalize})
    torch.manual_seed(1)
    ours, plain = build_mae(s.model, pretrain), PlainMae(s.model, pretrain)
    for parameter in ours.parameters():  # no bias is zero, no norm is the identity
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    plain.load_state_dict(ours.state_dict())
    optimizers = adamw(param_groups(ours, 0.05), 1e-3), plain_adamw(param_groups(plain, 0.05), 1e-3)
    images, noise = torch.randn(3, 3, 64, 64), torch.rand(3, 16)
    for _ in range(2):
        losses = ours(images, 0.75, noise).loss, plain(images, 0.75, noise)
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
        for loss in losses:
            loss.backward()
        for (name, a), (other, b) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
            assert name == other
            assert a.requires_grad == b.requires_grad
            if a.grad is not None:
                assert b.grad is not None
                largest = max(a.grad.abs().max().item(), 1e-3)
                assert (a.grad - b.grad).abs().max().item() < 1e-5 * largest, name
        plain.load_state_dict(ours.state_dict())  # the sign of a rounding error becomes a whole step of Adam
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pairs = zip(ours.named_parameters(), plain.named_parameters(), strict=True)
        # The bias of attention's keys has no gradient but rounding.
        apart = [(a - b).abs() for (name, a), (_, b) in pairs if not name.endswith("qkv.bias")]
        assert max(d.mean().item() for d in apart) < 1e-5
    assert not optimizers[1].defaults["fused"]
    assert optimizers[0].defaults["betas"] == optimizers[1].defaults["betas"]
    groups = [[(len(g["params"]), g["weight_decay"]) for g in o.param_groups] for o in optimizers]
    assert groups[0] == groups[1]


def test_plain_model_masks_as_ours_whatever_it_draws() -> None:
    s = setup("--size", "64")
    torch.manual_seed(2)
    plain = PlainMae(s.model, s.pretrain)
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(5)
    noise = torch.rand(2, 16)
    torch.manual_seed(5)
    drawn = plain(images)
    assert torch.equal(drawn, plain(images, 0.75, noise))


def test_speeds_are_steps_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    s = setup()
    clock = {"now": 0.0}
    monkeypatch.setattr(mae_step.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(mae_step.time, "process_time", lambda: 2 * clock["now"])
    monkeypatch.setattr(mae_step, "matmul_rate", lambda device, dtype: 5.0)
    order: list[str] = []

    def step(name: str, seconds: float) -> Any:
        def work() -> torch.Tensor:
            clock["now"] += seconds
            order.append(name)
            return torch.zeros(())

        return work

    steps = {"plain": step("plain", 2.0), "ours": step("ours", 0.5)}
    speeds, product = mae_step.interleaved(steps, s, Machine(s.machine), count=3, rounds=2)
    assert product == 5.0
    assert speeds["plain"] == mae_step.Speed(4 / 2.0, 4 / 4.0, 1.0)
    assert speeds["ours"] == mae_step.Speed(4 / 0.5, 4 / 1.0, 4.0)
    assert order[2:] == ["plain"] * 3 + ["ours"] * 3 + ["ours"] * 3 + ["plain"] * 3  # after one step each to warm up


def test_memory_is_that_of_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, "-m"]
        launch = Launch(tmp_path, tiny_benchmarks.as_main, *command[2:])
        assert launch.wait() == [0], launch.errors(0)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", process)
    found = mae_step.memory_alone("ours", [*TINY, "--batch=2"])
    assert 100e6 < found.peak < 20e9
    assert 80e6 < found.added < found.peak  # 5.6 M weights, gradients and two moments of 4 bytes each


def test_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_benchmarks.let_python_fail(tmp_path, monkeypatch, "no memory")
    with pytest.raises(SsferError, match=r"memory of 'ours' ended with status 2: no memory"):
        mae_step.memory_alone("ours", [])


def test_step_command_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def memory(name: str, options: list[str]) -> mae_step.Memory:
        asked.append(options)
        return mae_step.Memory(*{"plain": (9_000_000, 8_000_000), "ours": (7_000_000, 5_000_000)}[name])

    monkeypatch.setattr(mae_step, "memory_alone", memory)  # two processes: see the tests above
    file = tmp_path / "step.json"
    command(mae_step, monkeypatch, *TINY, "--batch", "2", "--rounds", "1", "--json", str(file))
    assert asked[0] == asked[1]
    assert {"--model=tiny", "--size=32", "--batch=2", "--device=cpu", "--threads=1"} <= set(asked[0])
    found = json.loads(file.read_text())
    ours = found["steps"]["ours"]
    assert found["images_per_second"] == ours["per_second"] > 0
    assert found["steps"]["plain"]["ratio"] == 1.0
    out = capsys.readouterr().out
    start = f"| ours | {ours['per_second']:.2f} | {ours['per_cpu_second']:.2f} | {ours['ratio']:.2f} | 7 | 5 |"
    reached = found["flops_per_image"] * ours["per_second"]
    assert f"{start} {reached / 1e9:.1f} | {100 * reached / found['matmul_flops']:.1f}% |" in out
    assert "ViT-tiny/16 at 32 px, batch 2, CPU, 1 threads" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "30"], "expected a --size of several patches of 16 pixels, e.g. 224, found 30"),
        (["--size", "16"], "found 16"),
        (["--batch", "0"], "expected a --batch of at least 1 image, found 0"),
    ],
)
def test_impossible_options_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        setup(*options)
