"""profiles/vit_*.yaml: the variants of SSFER specification, section 5, by setting, on top of any other profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.config import profiles as profile
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier

# Width, depth, heads and million parameters without class token and position table, for 7 classes.
VARIANTS = {
    "vit_tiny": (192, 12, 12, 5.49),
    "vit_small": (384, 12, 12, 21.59),
    "paper": (768, 12, 12, 85.65),
    "vit_large": (1024, 24, 16, 303.11),
}


def other_sections(params: Any) -> dict[str, Any]:
    return params.model_dump(exclude={"model"}) | params.model.model_dump(exclude={"embed_dim", "depth", "num_heads"})


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_that_of_the_specification_and_touches_nothing_else(project: Path, name: str) -> None:
    _, base = profile.resolve(["paper", "ferplus"])
    _, params = profile.resolve(["paper", "ferplus", name] if name != "paper" else ["paper", "ferplus"])
    found: ModelSettings = params.model
    assert (found.embed_dim, found.depth, found.num_heads) == VARIANTS[name][:3]
    assert (found.img_size, found.patch_size) == (224, 16)
    assert other_sections(params) == other_sections(base)
    with torch.device("meta"):
        model = build_classifier(found.model_copy(update={"head_init": "torch_default"}), 7)
    counted = sum(p.numel() for n, p in model.named_parameters() if n not in ("cls_token", "pos_embed"))
    assert round(counted / 1e6, 2) == VARIANTS[name][3]


def test_every_variant_has_a_profile_and_fits_the_demos_images(project: Path) -> None:
    assert {p.stem for p in Path("profiles").glob("vit_*.yaml")} == VARIANTS.keys() - {"paper"}
    for name in VARIANTS.keys() - {"paper"}:
        _, params = profile.resolve([name])
        assert (params.model.img_size, params.model.patch_size) == (32, 4)
        assert f"model.embed_dim={params.model.embed_dim}" in profile.overrides(["paper", name])
