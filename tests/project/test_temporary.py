"""Raw data in DVC's temporary folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.project.temporary import bring_raw_data
from stages import identify


def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return (the project's data/raw, a temporary folder of DVC's, photos elsewhere)."""
    temporary, photos = tmp_path / "home/.dvc/tmp/exps/tmp1", tmp_path / "photos"
    for folder in (tmp_path / "home/data/raw", temporary, photos):
        folder.mkdir(parents=True)
    (photos / "1.jpg").touch()
    return tmp_path / "home/data/raw", temporary, photos


def test_links_are_made_again(tmp_path: Path) -> None:
    raw, temporary, photos = folders(tmp_path)
    (raw / "own").symlink_to(photos)
    (raw / "zip").mkdir()
    (raw / "zip/a.jpg").symlink_to(os.path.relpath(photos / "1.jpg", raw / "zip"))
    for name in ("own", "zip", "own"):
        bring_raw_data(name, temporary)
    assert (temporary / "data/raw/own").resolve() == photos
    assert not (temporary / "data/raw/zip").is_symlink()
    assert (temporary / "data/raw/zip/a.jpg").resolve() == photos / "1.jpg"


def test_the_stage_brings_data_to_the_folder_in_which_dvc_runs_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` names the project in DVC_ROOT, not its temporary folder."""
    raw, temporary, photos = folders(tmp_path)
    (raw / "synthetic").symlink_to(photos)
    shutil.copy(root / "params.yaml", temporary)
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "home"))

    def enough(_: object) -> None:
        raise SsferError("enough")

    monkeypatch.setattr(identify, "preflight", enough)
    with pytest.raises(SsferError, match="enough"):
        identify.main()
    assert (temporary / "data/raw/synthetic").resolve() == photos


def test_data_that_lies_in_the_project_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, temporary, _ = folders(tmp_path)
    (raw / "own").mkdir()
    (raw / "own/1.jpg").touch()
    bring_raw_data("own", temporary)
    assert "add --allow-missing, or link the data" in capsys.readouterr().err
    bring_raw_data("absent", temporary)
    bring_raw_data("own", raw.parents[1])
    assert capsys.readouterr().err == "" and not (temporary / "data").exists()
