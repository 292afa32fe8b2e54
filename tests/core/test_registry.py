"""Components by name: ssfer's, installed ones, the user's files; every mistake is one sentence."""

from __future__ import annotations

import math
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.config.schema import load_params, parse_params
from ssfer.core import registry as module
from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry, section_name
from ssfer.data.split import load_split
from ssfer.methods.base import SemiSupervised
from ssfer.methods.fixmatch import FixMatch
from ssfer.stages.common import save_classifier, seeded_classifier
from ssfer.stages.semisup import run_semisup
from ssfer.testing.methods import CHECKS
from tests.support import factory

MINE = '''
from pydantic import Field
from ssfer.core.settings import Share, Weight
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import UnlabeledSettings

class Mine(SelfTraining):
    """Every pseudo-label counts by a power of its confidence."""

    class Settings(UnlabeledSettings):
        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        power: Share = Field(description="Power of the confidence.")

    title, paper = "Mine", "none"

    def select(self, found):
        confidence, target = found.probs.max(dim=1)
        return confidence ** self.settings.power, target
'''
NAME = "./mine.py:Mine"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's with the file of a method, also the working folder and importable."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package/__init__.py").touch()
    (tmp_path / "their_package/power.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def methods(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[SemiSupervised]:
    """A registry that has loaded nothing, and three installed methods, of which one fails and one is called vat."""
    (folder / "broken.py").write_text("import no_such_package")
    points = [
        EntryPoint(name, value, "ssfer.methods")
        for name, value in (("power", "their_package.power:Mine"), ("broken", "broken:X"), ("vat", "mine:Mine"))
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: [p for p in points if p.group == group])
    return Registry("method", "ssfer.methods", SemiSupervised)


def test_names_are_those_of_files_and_entry_points_and_nothing_is_imported(methods: Registry[SemiSupervised]) -> None:
    assert {"fixmatch", "leaf", "power", "broken"} <= set(methods) and "build" not in methods and "mae" not in methods
    assert len(methods) == len(methods.own()) + 2  # vat is one name
    assert methods._loaded == {}
    assert methods["fixmatch"] is FixMatch
    assert methods["power"].__module__ == "their_package.power"


def test_the_users_own_by_file_and_by_module(methods: Registry[SemiSupervised], folder: Path) -> None:
    assert methods[NAME].title == "Mine"
    assert methods.file(NAME) == folder / "mine.py"
    assert methods["their_package.power:Mine"] is methods["power"]
    assert [section_name(n) for n in ("vat", NAME, "their_package.power:Mine")] == ["vat", "mine", "power"]


def test_a_relative_file_is_that_of_the_working_folder(
    methods: Registry[SemiSupervised], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = methods[NAME]
    (folder / "other").mkdir()
    (folder / "other/mine.py").write_text(MINE)
    monkeypatch.chdir(folder / "other")
    assert methods[NAME] is not first and methods.file(NAME) == folder / "other/mine.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixmtach", r"unknown method 'fixmtach'; did you mean 'fixmatch'\? \(known: ada_cm, broken, .*, vat\)"),
        ("./gone.py:Mine", r"method './gone.py:Mine': there is no file ./gone.py; paths are relative to the project's"),
        ("./mine.py:Yours", "method './mine.py:Yours': ./mine.py has no class Yours"),
        ("./mine.py:Field", "'./mine.py:Field' is no method: expected a class derived from SemiSupervised"),
        ("./plain.py:Plain", "'./plain.py:Plain' needs a class Settings derived from Section, found <class 'int'>"),
        ("./plain.py:Nameless", "'./plain.py:Nameless' has no title, paper; set it in class Nameless"),
        ("./plain.py:", "'./plain.py:': ./plain.py has no class "),
        ("vat", "method 'vat' is there 2 times: ssfer.methods.vat and mine:Mine; rename or uninstall one"),
        ("broken", "method 'broken' fails when imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("./broken.py:X", "'./broken.py:X' fails when imported: ModuleNotFoundError: No module named 'no_such_"),
        ("no_such.module:X", "'no_such.module:X' fails when imported: ModuleNotFoundError: No module named 'no_such'"),
        ("./syntax.py:X", "'./syntax.py:X' fails when imported: SyntaxError: "),
    ],
)
def test_what_is_no_method_is_refused_in_one_sentence(
    methods: Registry[SemiSupervised], folder: Path, name: str, message: str
) -> None:
    base = "from ssfer.methods.base import SemiSupervised\nfrom ssfer.methods.fixmatch import FixMatch\n"
    (folder / "plain.py").write_text(
        f"{base}class Plain(FixMatch):\n    Settings = int\nclass Nameless(SemiSupervised):\n    pass\n"
    )
    (folder / "syntax.py").write_text("class X(:\n")
    with pytest.raises(SsferError, match=message) as error:
        methods[name]
    assert "\n" not in str(error.value)
    assert methods["fixmatch"] is FixMatch  # the others still work


def raw(root: Path, method: str = NAME, **sections: Any) -> dict[str, Any]:
    found = load_params(root / "params.yaml").model_dump()
    found["semisup"]["method"] = method
    found["methods"] |= sections
    return found


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "key 'methods.mine.power' is missing"),
        ({"power": 0.5, "pwoer": 1}, "unknown key 'methods.mine.pwoer'; did you mean 'power'?"),
        *[({"power": v}, rf"'methods.mine.power': Input should be .*\(found {v!r}\)") for v in ("16", "yes", True, 2)],
        ({"power": math.nan}, r"'methods.mine.power': Input should be .*\(found nan\)"),
        ("none", "'methods.mine': Input should be a valid dictionary"),
    ],
)
def test_settings_of_the_users_method_are_checked(folder: Path, root: Path, section: Any, message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        parse_params(raw(root, mine=section) if section else raw(root))
    assert "\n" not in str(error.value)


def test_a_section_of_no_method_is_refused(root: Path) -> None:
    with pytest.raises(SsferError, match=re.escape("'methods.fixmtach': unknown method 'fixmtach'; did you mean")):
        parse_params(raw(root, "fixmatch", fixmtach={}))


@pytest.mark.parametrize(("name", "section"), [(NAME, "mine"), ("their_package.power:Mine", "power")])
def test_the_users_method_trains(folder: Path, name: str, section: str) -> None:
    factory.write_project(folder)
    params = factory.tiny_params(semisup={"method": name, "epochs": 1}, methods={section: {"power": 0.5}})
    state = seeded_classifier(params, 3, 0).state_dict()
    save_classifier(folder / "data/weights/finetune/facemix_last.safetensors", state, params, load_split())
    result = run_semisup(params)
    assert result is not None and 0 < result["util_ratio"] < 1
    assert all(torch.isfinite(torch.tensor(v)) for v in result.values() if isinstance(v, float))


def test_the_contract_of_methods_takes_the_users_file(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE.replace("power: Share = Field(", "power: Share = Field(0.5, "))
    for check in CHECKS[:2]:
        check(NAME)
    (folder / "worse.py").write_text((folder / "mine.py").read_text().replace("confidence **", "2 * confidence **"))
    with pytest.raises(AssertionError, match="method './worse.py:Mine' breaks the contract 'The loss is a scalar"):
        CHECKS[1]("./worse.py:Mine")
