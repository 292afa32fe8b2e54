"""A project made by `ssfer init`: complete, and nothing is overwritten."""

from __future__ import annotations

import filecmp
import subprocess
from pathlib import Path

import pytest

from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.core.shipped import shipped
from ssfer.project import new


def test_project_has_the_pipeline_that_ships(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "projects/mine"
    assert new.new_project(folder)
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".dvc/config"):
        assert filecmp.cmp(folder / name, root / name, shallow=False)
    assert {p.name for p in (folder / "stages").iterdir()} == {p.name for p in (root / "stages").glob("*.py")}
    load_params(folder / "params.yaml")
    status = subprocess.run(["git", "status", "--short", "-uall"], cwd=folder, capture_output=True, text=True)
    assert {"?? dvc.yaml", "?? Makefile", "?? stages/semisup.py"} <= set(status.stdout.splitlines())


def test_without_git_dvc_works_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not new.new_project(tmp_path / "mine")
    assert (tmp_path / "mine/.dvc/config").read_text().split("[core]")[1].endswith("    no_scm = true\n")


def test_folder_in_a_repository_gets_none_of_its_own(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert new.new_project(tmp_path / "mine")
    assert not (tmp_path / "mine/.git").exists()


def test_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("mine")
    with pytest.raises(SsferError, match="is not an empty folder"):
        new.new_project(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_the_working_folder_can_become_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fer").mkdir()
    monkeypatch.chdir(tmp_path / "fer")
    new.new_project(Path())
    assert {"params.yaml", "dvc.yaml", ".dvc", "stages"} <= {path.name for path in (tmp_path / "fer").iterdir()}
    assert list(tmp_path.iterdir()) == [tmp_path / "fer"] and not list(Path().glob(".ssfer-*"))


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new.shutil, "copyfile", full)
    with pytest.raises(SsferError, match="No space left"):
        new.new_project(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_failure_of_what_completes_it_leaves_nothing(tmp_path: Path) -> None:
    def no_links(made: Path) -> None:
        assert (made / "params.yaml").is_file()
        raise OSError(1, "Operation not permitted")

    with pytest.raises(SsferError, match="Operation not permitted"):
        new.new_project(tmp_path / "mine", no_links)
    assert list(tmp_path.iterdir()) == []


def test_what_ships_is_all_there() -> None:
    assert all(shipped(name).exists() for name in (*new.SHIPPED, "profiles"))
