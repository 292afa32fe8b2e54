"""ssfer.models.ema: closed forms, copies, modes (specification 10, 17, 18.9-10)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssfer.models.ema import EMA


class Student(nn.Module):
    """A weight, a float and an integer buffer, and dropout."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(4, 5, generator=g))
        self.register_buffer("mean", torch.randn(3, generator=g))
        self.register_buffer("count", torch.tensor(7 + seed))
        self.register_buffer("seen", torch.tensor([True, False]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(x @ self.weight)


def test_copy_starts_equal_without_sharing_memory() -> None:
    student = Student()
    ema = EMA(student, 0.9)
    for name, value in ema.module.state_dict().items():
        assert torch.equal(value, student.state_dict()[name])
        assert value.data_ptr() != student.state_dict()[name].data_ptr()
    with torch.no_grad():
        student.weight.add_(1)
    assert_close(ema.module.weight, student.weight - 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_one_step_moves_every_float_entry_by_the_formula(decay: float) -> None:
    student, ema = Student(1), EMA(Student(0), decay)
    old = {k: v.clone() for k, v in ema.module.state_dict().items()}
    ema.update(student)
    for name, value in ema.module.state_dict().items():
        new = student.state_dict()[name]
        expected = decay * old[name] + (1 - decay) * new if value.is_floating_point() else new
        assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_integer_entries_are_copied() -> None:
    student, ema = Student(5), EMA(Student(0), 0.999)
    student.seen.fill_(True)
    ema.update(student)
    assert ema.module.count.item() == 12
    assert ema.module.seen.all()


def test_copy_stays_in_eval_mode_whatever_its_owner_does() -> None:
    student = Student()
    owner = nn.ModuleList([student, EMA(student, 0.9)])
    owner.train()
    assert owner[0].training
    assert owner[0].drop.training
    assert not owner[1].module.training
    assert not owner[1].module.drop.training
    x = torch.ones(2, 4)
    assert torch.equal(owner[1](x), owner[1](x))  # no dropout


@pytest.mark.parametrize("decay", [-0.1, 1.001])
def test_decay_outside_zero_to_one_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found"):
        EMA(Student(), decay)
