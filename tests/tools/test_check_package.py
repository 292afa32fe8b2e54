"""The package of docs/howto/method-package.md, as if pip had installed it: found, trained, checked, noticed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core import source_code
from ssfer.data.split import load_split
from ssfer.methods.registry import METHODS
from ssfer.stages.common import save_classifier, seeded_classifier
from ssfer.stages.semisup import run_semisup
from ssfer.testing.methods import CHECKS
from tests.support import factory
from tools.check_package import write_their_package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's package, with the metadata that an installation writes, on Python's path."""
    write_their_package(tmp_path)
    entry = (tmp_path / "pyproject.toml").read_text().partition('[project.entry-points."ssfer.methods"]')[2].strip()
    info = tmp_path / "ssfer_theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ssfer-theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ssfer.methods]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    METHODS._loaded.pop("theirs", None)
    for name in [name for name in sys.modules if name.startswith("ssfer_theirs")]:
        del sys.modules[name]
    forget()


def forget() -> None:
    """Read source files again, as another process would."""
    source_code.read_source.cache_clear()
    source_code._file.cache_clear()


def code(params: Params) -> dict[str, str]:
    found = identity("semisup", params)["code"]
    assert isinstance(found, dict)
    return found


def test_a_change_of_their_code_is_noticed(package: Path) -> None:
    params, file = factory.tiny_params(semisup={"method": "theirs"}), package / "ssfer_theirs/method.py"
    before = code(params)
    assert "ssfer_theirs.method" in before and "ssfer.methods.shared.self_training" in before
    file.write_text("# a remark\n" + file.read_text())
    forget()
    assert code(params) == before
    file.write_text(file.read_text().replace("confidence**self", "confidence ** 2 ** self"))
    forget()
    after = code(params)
    assert {name for name in after if after[name] != before.get(name)} == {"ssfer_theirs.method"}
    assert not [name for name in code(factory.tiny_params()) if "theirs" in name]


def test_their_method_trains_and_meets_the_contract(package: Path) -> None:
    factory.write_project(package)
    params = factory.tiny_params(semisup={"method": "theirs", "epochs": 1}, methods={"theirs": {"power": 1.0}})
    state = seeded_classifier(params, 3, 0).state_dict()
    save_classifier(package / "data/weights/finetune/facemix_last.safetensors", state, params, load_split())
    result = run_semisup(params)
    assert result is not None and 0 < result["util_ratio"] < 1
    for check in CHECKS:
        check("theirs")
