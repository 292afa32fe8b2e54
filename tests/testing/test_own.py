"""ssfer.testing.own: the user's own method and augmentations are tried before anything long starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.testing.own import try_own_components

OWN = """
import math
import torch
from pydantic import Field
from ssfer.core.settings import Weight
from ssfer.data.augmentations.weak import Weak
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import UnlabeledSettings


class Mine(SelfTraining):
    class Settings(UnlabeledSettings):
        lambda_u: Weight = 1.0
        power: Weight

    title, paper = "Mine", "unpublished"

    def select(self, found):
        confidence, target = found.probs.max(dim=1)
        return confidence**self.settings.power, target


class Short(Mine):
    def select(self, found):
        mask, target = super().select(found)
        return mask[1:], target


class Raises(Mine):
    def select(self, found):
        return self.tresholds


class Unselecting(SelfTraining):
    class Settings(UnlabeledSettings):
        lambda_u: Weight = 1.0
        power: Weight

    title, paper = "Unselecting", "unpublished"


class NoMonitors(Mine):
    def forward(self, batch):
        return {"loss": super().forward(batch)["loss"]}


class Vector(Mine):
    def forward(self, batch):
        out = super().forward(batch)
        return out | {"loss": out["loss"].expand(3)}


class Nan(Mine):
    def forward(self, batch):
        out = super().forward(batch)
        return out | {"loss": out["loss"] * float("nan")}


class Detached(Mine):
    def forward(self, batch):
        out = super().forward(batch)
        return out | {"loss": out["loss"].detach()}


class Bare(Mine):
    def forward(self, batch):
        return super().forward(batch)["loss"]


class Review(Mine):
    # Needs what `labeled_pass` learns, and a threshold above 0.
    labeled_pass_views = "eval"

    class Settings(Mine.Settings):
        threshold: float = 0.5

    def __init__(self, context):
        super().__init__(context)
        self.register_buffer("shares", torch.zeros(1))

    def labeled_pass(self, epoch, labeled):
        for batch in labeled:
            self.shares += len(batch["y_lb"])

    def forward(self, batch):
        out = super().forward(batch)
        loss = out["loss"] / self.shares[0] / math.log(self.settings.threshold)
        return out | {"loss": loss, "odd_count": out["util_ratio"]}


class Blind(Mine):
    views = ()


class Absent(Mine):
    evaluated = "teacher"


class Plain(Weak):
    pass


class Float(Weak):
    def render(self, image, crop, key):
        return super().render(image, crop, key) / 255


class Nothing(Weak):
    def render(self, image, crop, key):
        pass
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = load_params(Path("params.yaml")).model_dump(mode="json")
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return values


@pytest.mark.parametrize("name", ["Mine", "Review"])
def test_sound_components_pass(raw: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw["semisup"] |= {"method": f"./own.py:{name}", "strong_view": "./own.py:Plain"}
    raw["methods"]["own"] = {"power": 2.0}
    try_own_components(parse_params(raw))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Unselecting",
            "Unselecting has no `select`, .*; define `select`, or derive Settings from PseudoLabelSettings",
        ),
        ("NoMonitors", "forward returned no class_count, correct_count, kept_count, labeled_loss, .*report makes them"),
        ("Vector", r"loss has the shape \(3,\), expected \(\)"),
        ("Nan", "loss is not finite"),
        ("Detached", "loss has no gradient"),
        ("Bare", "forward returned a Tensor, expected a dict with"),
        ("Blind", "views is empty; expected at least one unlabeled view"),
        ("Absent", "exports must hold student and teacher"),
    ],
)
def test_a_method_that_breaks_the_contract_is_one_sentence(raw: dict[str, Any], name: str, message: str) -> None:
    raw["semisup"]["method"] = f"./own.py:{name}"
    raw["evaluate"]["headline"] = "student"
    raw["methods"]["own"] = {"power": 2.0}
    with pytest.raises(SsferError, match=message) as refused:
        try_own_components(parse_params(raw))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", r"method './own.py:Short' failed in a trial with 4 labeled and 6 unlabeled random pictures: "),
        ("Raises", "own.py, line 31, in select: AttributeError: 'Raises' object has no attribute 'tresholds'"),
    ],
)
def test_an_exception_is_told_and_may_be_ignored(
    raw: dict[str, Any], name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A larger batch, or other data, may be what the method needs."""
    raw["semisup"]["method"] = f"./own.py:{name}"
    raw["methods"]["own"] = {"power": 2.0}
    try_own_components(parse_params(raw))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Float", r"augmentation Float makes views of float32 \(3, 32, 32\); expected uint8"),
        ("Nothing", "augmentation Nothing makes a NoneType; expected a tensor"),
    ],
)
def test_an_augmentation_that_breaks_the_contract_is_one_sentence(raw: dict[str, Any], name: str, message: str) -> None:
    raw["finetune"]["view"] = f"./own.py:{name}"
    with pytest.raises(SsferError, match=message):
        try_own_components(parse_params(raw))
