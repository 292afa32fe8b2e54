"""ssfer.core.provenance: what a result was made with, without names of people, hosts and folders."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from ssfer.core.provenance import provenance
from ssfer.train.compute import choose_compute
from ssfer.train.settings import MachineSettings


def test_device_precision_and_compilation_are_recorded_beside_the_machine() -> None:
    facts = choose_compute(MachineSettings(device="cpu")).facts()
    found = provenance(facts)
    assert found["machine"]["system"] == platform.system()
    assert {"device", "precision", "eval_precision", "compiled"} <= found["machine"].keys()
    assert found["machine"].items() >= facts.items()
    assert found["machine"].keys() - provenance()["machine"].keys() == facts.keys()
    text = json.dumps(found)
    assert str(Path.home()) not in text and str(Path.cwd()) not in text and platform.node() not in text
