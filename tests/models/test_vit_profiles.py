"""profiles/vit_*.yaml: the variants of SSFER specification, section 5, by setting, on top of any other profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.config import profiles as profile
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier
from ssfer.models.vit_sizes import VIT_SIZES

# Profile -> variant, and million parameters without class token and position table, for 7 classes.
VARIANTS = {
    "vit_tiny": ("tiny", 5.49),
    "vit_small": ("small", 21.59),
    "paper": ("base", 85.65),
    "vit_large": ("large", 303.11),
}


def other_sections(params: Any) -> dict[str, Any]:
    return params.model_dump(exclude={"model"}) | params.model.model_dump(exclude={"embed_dim", "depth", "num_heads"})


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_that_of_the_specification_and_touches_nothing_else(project: Path, name: str) -> None:
    _, base = profile.resolve(["paper", "ferplus"])
    _, params = profile.resolve(["paper", "ferplus", name] if name != "paper" else ["paper", "ferplus"])
    found: ModelSettings = params.model
    size, millions = VARIANTS[name]
    assert (found.embed_dim, found.depth, found.num_heads) == VIT_SIZES[size]
    assert (found.img_size, found.patch_size) == (224, 16)
    assert other_sections(params) == other_sections(base)
    with torch.device("meta"):
        model = build_classifier(found.model_copy(update={"head_init": "torch_default"}), 7)
    counted = sum(p.numel() for n, p in model.named_parameters() if n not in ("cls_token", "pos_embed"))
    assert round(counted / 1e6, 2) == millions


def test_every_variant_has_a_profile_and_fits_the_demos_images(project: Path) -> None:
    assert {p.stem for p in Path("profiles").glob("vit_*.yaml")} == VARIANTS.keys() - {"paper"}
    for name in VARIANTS.keys() - {"paper"}:
        _, params = profile.resolve([name])
        assert (params.model.img_size, params.model.patch_size) == (32, 4)
        assert f"model.embed_dim={params.model.embed_dim}" in profile.overrides(["paper", name])


def test_the_tables_rows_have_the_same_sizes() -> None:
    found = dict(re.findall(r"ViT-(\w):\n.*\n *set: {(.*)}", Path("ssfer/tables/catalogue.yaml").read_text()))
    for letter, name in (("S", "small"), ("L", "large")):
        assert found[letter] == ", ".join(f"model.{key}: {value}" for key, value in VIT_SIZES[name]._asdict().items())
