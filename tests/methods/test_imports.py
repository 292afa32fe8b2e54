"""What the files of methods may import."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.source_code import imports_of
from ssfer.methods.registry import METHODS

HIGHER = tuple(f"ssfer.{name}" for name in ("train", "evaluation", "stages", "report", "config", "cli", "formats"))


@pytest.mark.parametrize("name", METHODS.own())
def test_a_method_imports_no_other_method_and_nothing_above(name: str, root: Path) -> None:
    """Devices, inference and files are the loop's; what two methods share lies in methods/shared."""
    found = list(imports_of(root / f"ssfer/methods/{name}.py", f"ssfer.methods.{name}"))
    others = tuple(f"ssfer.methods.{other}" for other in METHODS.own())
    assert not [module for module in found if module.startswith(HIGHER + others)]
