"""What a node of a cluster does with the driver's objects, here without Ray."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ssfer.core import cluster_node
from ssfer.core.cluster_node import Packed, software
from ssfer.core.errors import SsferError


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_node, "node_address", lambda: "10.0.0.7")


def test_the_object_is_loaded_in_the_drivers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    packed = Packed(pickle.dumps(Path("data")), [], str(tmp_path / "project"), software())
    assert packed.load().absolute() == tmp_path / "project/data"


def test_other_packages_are_refused() -> None:
    known = software()
    with pytest.raises(
        SsferError, match=r"node 10\.0\.0\.7 .* other packages .*\(numpy [\d.]+ instead of 1\.0\), .*; install"
    ):
        Packed(pickle.dumps(1), [], ".", {**known, "numpy": "1.0"}).load()


def test_a_node_without_the_folder_or_the_code_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = r"a node of the Ray cluster cannot work here \(10\.0\.0\.7: .*every node must see the folder "
    with pytest.raises(SsferError, match=expected + str(tmp_path / "gone")):
        Packed(pickle.dumps(1), [], str(tmp_path / "gone"), software()).load()
    with pytest.raises(SsferError, match=expected + rf"{tmp_path} .* have the same ssfer installed"):
        Packed(b"cnot_there\nThing\n.", [], str(tmp_path), software()).load()
