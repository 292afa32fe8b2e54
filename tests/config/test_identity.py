"""What a result depends on: what must make a stage stale does, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ssfer.config import components
from ssfer.config import identity as identities
from ssfer.config.components import dump
from ssfer.config.identity import STAGES, identity, refreshed, science, settings
from ssfer.config.schema import Params, load_params
from ssfer.core import source_code
from ssfer.core.files import read_json
from ssfer.core.settings import Section
from ssfer.methods.registry import METHODS
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.robustness import run_robustness
from ssfer.stages.semisup import run_semisup
from tests.support import factory

METHOD = """
from ssfer.core.settings import Section
from ssfer.methods.shared.self_training import SelfTraining

class Mine(SelfTraining):
    class Settings(Section):
        lambda_u: float = 1.0
    title, paper = "Mine", "none"
"""


def stale(before: Params, after: Params) -> set[str]:
    """Return the stages whose identity differs."""
    return {stage for stage in STAGES if identity(stage, before) != identity(stage, after)}


def test_a_setting_of_a_method_that_is_not_chosen_makes_nothing_stale() -> None:
    params, other = factory.tiny_params(), factory.tiny_params(methods={"vat": {"epsilon": 1.0}})
    assert stale(params, other) == set()
    assert science(params) == science(other)
    vat = [p.model_copy(update={"semisup": p.semisup.model_copy(update={"method": "vat"})}) for p in (params, other)]
    assert stale(*vat) == {"semisup", "report"}
    assert science(vat[0]) != science(vat[1])


def test_settings_of_leaf_count_where_its_parts_are_used() -> None:
    parts = {"leaf_parts": {"ambiguous_loss": True}}
    before, after = (factory.tiny_params(semisup=parts, methods={"leaf": {"coverage": c}}) for c in (0.9, 0.8))
    assert "semisup" in stale(before, after)
    without = before.model_copy(update={"methods": {}})
    assert components.methods(without)["leaf"] == dump(METHODS["leaf"].Settings())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labeled": True}, {"split", "report"}),
        ({"optional": True}, {"report"}),
        ({"import_max": 10}, {"align", "report"}),
        ({"corpus_max": 10}, {"corpus", "report"}),
    ],
)
def test_keys_of_a_source_make_stale_what_they_decide(changes: dict[str, Any], expected: set[str]) -> None:
    labeled = {"name": "f", "kind": "ferplus", "path": "f", "labeled": True, "align": "resize"}
    people = {"name": "p", "kind": "identities", "path": "p", "align": "similarity"}
    before, after = (factory.tiny_params(data={"sources": [labeled, people | c]}) for c in ({}, changes))
    assert stale(before, after) == expected
    assert "import_max" not in str(science(before)), "records from before there were caps keep their settings"


def test_defaults_that_params_yaml_does_not_say_count() -> None:
    """FERPlus's vote rule decides labels: another default aligns, splits and trains again."""
    source = {"name": "f", "kind": "ferplus", "path": "f", "labeled": True, "align": "resize"}
    params, other = (factory.tiny_params(data={"sources": [source | rule]}) for rule in ({}, {"rule": "majority"}))
    assert stale(params, other) == {"align", "report"}
    assert "plurality" in str(settings("align", params))


def test_caps_of_the_corpus_align_nothing_again() -> None:
    before = factory.tiny_params()
    sources = [s.model_dump(mode="json") | {"corpus_max": 5} for s in before.data.sources]
    assert stale(before, factory.tiny_params(data={"sources": sources})) == {"corpus", "report"}


def test_another_file_of_detector_weights_aligns_again(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    params = factory.tiny_params(align={"detector": "retinaface"}, detectors={"retinaface": {"weights": str(weights)}})
    before = identity("align", params)
    weights.write_bytes(b"two")
    assert identity("align", params)["files"] != before["files"]
    assert str(tmp_path) not in str(before["files"])


def test_weights_of_two_detectors_count_whatever_their_files_are_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (project / folder).mkdir()
        (project / folder / "net.safetensors").write_bytes(folder.encode())
    monkeypatch.chdir(project / "b")
    weights = {"retinaface": {"weights": "a/net.safetensors"}}  # below the project, wherever the command starts
    params = factory.tiny_params(align={"detector": "retinaface"}, detectors=weights)
    assert identity("align", params)["files"] == {"net.safetensors": sha256(b"a").hexdigest()}
    files = [project / folder / "net.safetensors" for folder in "aba"]
    monkeypatch.setattr(identities, "_files", lambda *_: files)
    assert identity("align", params)["files"] == {
        "net.safetensors": sha256(b"a").hexdigest(),
        "net.safetensors (2)": sha256(b"b").hexdigest(),
    }


def test_code_counts_where_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared loss counts for what uses it, a method's file for this method alone, MLflow's adapter for nobody."""
    params = factory.tiny_params()
    code = {stage: set(identity(stage, params)["code"]) for stage in STAGES}
    using = {stage for stage in STAGES if "ssfer.methods.shared.losses" in code[stage]}
    assert {"pretrain", "finetune", "semisup"} <= using
    assert not using & {"generate", "align", "corpus", "split"}
    assert "ssfer.methods.ema_teacher" in code["semisup"]
    assert "ssfer.methods.vat" not in code["semisup"] | code["evaluate"]
    assert not [name for found in code.values() for name in found if name.startswith(identities.NEUTRAL)]


def test_a_file_of_ones_own_method_counts(project: Path) -> None:
    (project / "mine.py").write_text(METHOD)
    params = factory.tiny_params(semisup={"method": "./mine.py:Mine"})
    before = {stage: identity(stage, params) for stage in STAGES}
    (project / "mine.py").write_text(METHOD.replace("1.0", "2.0"))
    source_code.read_source.cache_clear()
    assert {s for s in STAGES if identity(s, params)["code"] != before[s]["code"]} == {"semisup", "evaluate"}
    assert before["semisup"]["settings"]["methods.mine.lambda_u"] == 1.0


class Reads:
    """Records which settings are read, as dotted keys."""

    def __init__(self, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: set[str] = set()
        self._names: dict[int, str] = {}
        self._name("", params)
        plain = Section.__getattribute__

        def recorded(section: Section, name: str) -> Any:
            value = plain(section, name)
            place, leaf = self._names.get(id(section)), not isinstance(value, Section | dict)
            if place is not None and leaf and name in type(section).__pydantic_fields__:
                self.keys.add(f"{place}.{name}")
            return value

        monkeypatch.setattr(Section, "__getattribute__", recorded)

    def _name(self, place: str, node: Any) -> None:
        items = node.items() if isinstance(node, dict) else ((k, getattr(node, k)) for k in type(node).model_fields)
        if isinstance(node, Section) and place:
            self._names[id(node)] = place
        for key, value in items:
            if isinstance(value, Section | dict):
                self._name(f"{place}.{key}".lstrip("."), value)


@pytest.mark.parametrize(
    ("stage", "run"),
    [
        ("pretrain", run_pretrain),
        ("finetune", run_finetune),
        ("semisup", run_semisup),
        ("evaluate", run_evaluate),
        ("robustness", run_robustness),
    ],
)
def test_a_stage_reads_no_setting_that_its_identity_lacks(
    stage: str, run: Callable[[Params], Any], trained_project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(trained_project, monkeypatch)
    run(trained_project)
    monkeypatch.undo()
    free = {"machine", "tracking"}
    lacking = {k for k in reads.keys if k.split(".")[0] not in free} - set(settings(stage, trained_project))
    assert not lacking


@pytest.fixture
def trained_project(project: Path, trained_once: Path) -> Params:
    shutil.copytree(trained_once, project, dirs_exist_ok=True)
    return factory.tiny_params()


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        params = factory.write_project(root)
        for run in (run_pretrain, run_finetune, run_semisup):
            run(params)
    return root


def test_a_stage_run_by_hand_gets_the_identity_of_todays_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssfer run evaluate && dvc commit evaluate` recorded new results under the settings of the last `dvc repro`."""
    text = Path("params.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("params.yaml").write_text(text.replace("  headline: auto", "  headline: student"))
    path = Path("data/identity/evaluate.json")
    with refreshed("evaluate"):
        written = read_json(path)
    assert written["settings"]["evaluate.headline"] == "student"
    assert written == json.loads(json.dumps(identity("evaluate", load_params())))
    Path("params.yaml").write_text(text)
    with pytest.raises(SystemExit), refreshed("evaluate"):
        assert read_json(path) != written
        sys.exit(2)
    assert read_json(path) == written, "the stage failed, so its result is still the one before"
    with refreshed("log"):  # a stage without an identity
        pass
    assert [found.name for found in Path("data/identity").iterdir()] == ["evaluate.json"]
