"""ssfer.core.own_code: errors inside a component of the user's own become one sentence with their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from ssfer.core.process import stage_main
from ssfer.data.augmentations.registry import AUGMENTATIONS

OWN = """
from ssfer.data.augmentations.weak import Weak

class Broken(Weak):
    def __init__(self):
        super().__init__(8, 0.5)

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return self.render(None, None, i)

    def render(self, image, crop, key):
        return {}["strength"]
"""
NAME = "./broken.py:Broken"
SAID = "semisup: error: broken.py, line 15, in render: KeyError: 'strength'; SSFER_TRACEBACK=1 shows the"


def render() -> None:
    AUGMENTATIONS[NAME]()[0]  # type: ignore[call-arg, index]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    AUGMENTATIONS[NAME]


def fail_with(work: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        stage_main("semisup", work)  # type: ignore[arg-type]
    assert left.value.code == 2
    return capsys.readouterr().err


def test_an_error_in_the_users_file_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(render, capsys).startswith(SAID)


def test_an_error_in_another_process_is_told_alike(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = AUGMENTATIONS[NAME]()  # type: ignore[call-arg]
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context="fork")  # type: ignore[arg-type, var-annotated]
    assert fail_with(lambda: list(loader), capsys).startswith(SAID)  # type: ignore[arg-type]


def test_the_whole_traceback_is_shown_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSFER_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in fail_with(render, capsys)


def test_an_error_elsewhere_stays_a_traceback() -> None:
    with pytest.raises(ValueError, match="negative"):
        stage_main("semisup", _defect)


def _defect() -> None:
    raise ValueError("negative")
