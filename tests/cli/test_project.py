"""`ssfer init`, `ssfer run`, and which code and project a command acts on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssfer.cli.main import app
from tests.support.doctor_files import png
from tests.support.source_files import write_files

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_init_says_how_to_go_on(capsys: Capture, tmp_path: Path) -> None:
    status, out, err = run(capsys, "init", tmp_path / "mine")
    assert (status, err) == (0, "") and f"cd {tmp_path / 'mine'} && ssfer run" in out
    status, _, err = run(capsys, "init", tmp_path / "mine")
    assert status == 2 and err.startswith("ssfer init: error: ") and err.count("\n") == 1


def test_commands_to_go_on_with_are_quoted(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "my project"
    _, out, _ = run(capsys, "init", folder)
    assert f"next: cd '{folder}' && ssfer run" in out
    monkeypatch.chdir(folder / "data")
    assert run(capsys, "params")[2].endswith(f"cd '{folder}'\n")


def test_init_warns_of_a_path_below_which_dvc_runs_no_experiments(capsys: Capture, tmp_path: Path) -> None:
    for name in ("plain", "für"):
        status, out, _ = run(capsys, "init", tmp_path / name)
        assert status == 0 and ("WARNING: DVC cannot run experiments" in out) is (not name.isascii())


def test_init_refuses_a_project_inside_its_data(capsys: Capture, tmp_path: Path) -> None:
    status, _, err = run(capsys, "init", tmp_path / "faces/mine", "--data", tmp_path)
    assert status == 2 and "lies in the data set" in err and list(tmp_path.iterdir()) == []


def test_report_outside_a_project_names_itself(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "report")
    assert status == 2 and err.startswith("ssfer report: error: this folder is not a project")


@pytest.mark.parametrize(
    "words",
    [
        ("params",), ("complexity",), ("doctor",), ("fetch", "retinaface"), ("run",), ("run", "-S", "seed=1"),
        ("run", "semisup"), ("profile", "paper"), ("profile", "paper", "--run"), ("experiments", "table", "table2"),
    ],
)  # fmt: skip
def test_command_outside_a_project_says_so(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    status, _, err = run(capsys, *words)
    assert (status, err.count("\n")) == (2, 1) and "this folder is not a project" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [("params",), ("compare", "HEAD"), ("figure", "fgsm"), ("search", "lr"), ("experiments", "table", "table2")],
)
def test_below_a_project_its_folder_is_named(
    capsys: Capture, project: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (project / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(project / "data/raw")
    monkeypatch.delenv("DVC_ROOT")
    status, _, err = run(capsys, *words)
    assert (status, err.count("\n")) == (2, 1) and f"cd {project}" in err


def test_doctor_without_a_path_looks_at_the_sources_of_the_project(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of params.yaml, or with a profile merged in; what is not there is said with the way to get it."""
    faces = write_files(tmp_path / "faces", {f"{i % 3}/{i}.png": png(i) for i in range(6)})
    labels = ("--labels", "0=angry,1=calm,2=null", "--kind", "class_folders")
    out = run(capsys, "doctor", faces, *labels, "--no-scan")[1]
    command = " ".join(out.split()).partition("a new project: ")[2]
    assert command.startswith(f"ssfer init PROJECT --data {faces} --kind class_folders --labels 0=angry,1=calm,2=null ")
    assert run(capsys, "init", tmp_path / "p", "--data", faces, *labels)[0] == 0
    monkeypatch.chdir(tmp_path / "p")
    status, out, _ = run(capsys, "doctor", "--workers", 1)
    assert status == 0 and "anger" in out and "calm" in out and "To use" not in out
    Path("data/raw/faces").unlink()
    status, out, _ = run(capsys, "doctor", "--no-scan")
    assert status == 2 and "expected it at data/raw/faces, found nothing there; put or link it there" in " ".join(
        out.split()
    )
    (tmp_path / "q").mkdir()
    assert run(capsys, "init", tmp_path / "q")[0] == 0
    monkeypatch.chdir(tmp_path / "q")
    status, out, _ = run(capsys, "doctor", "--no-scan")
    assert status == 2 and out.count("dvc repro generate") == 2
    status, out, _ = run(capsys, "doctor", "--no-scan", "--profile", "rafdb")
    assert status == 2 and "dvc repro generate" not in out and "data/raw/rafdb/rafdb" in " ".join(out.split())


def test_run_names_the_nearest_stage(capsys: Capture, project: Path) -> None:
    status, _, err = run(capsys, "run", "semisupp")
    assert (status, err.count("\n")) == (2, 1) and "did you mean 'semisup'?" in err


def test_in_another_checkout_its_own_code_runs(tmp_path: Path, root: Path) -> None:
    """Else a command would compute with other code than the stages that DVC starts there."""
    for name, text in (("__init__", ""), ("__main__", "import sys; print('theirs', sys.argv[1:])")):
        (tmp_path / "ssfer").mkdir(exist_ok=True)
        (tmp_path / "ssfer" / f"{name}.py").write_text(text)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/numexpr.py").write_text("print('harm')")  # pandas would import it
    environment = {**{k: v for k, v in os.environ.items() if k != "DVC_ROOT"}, "PYTHONPATH": str(root)}

    def said(folder: Path) -> str:
        command = [sys.executable, "-P", "-c", "from ssfer.cli.main import main; main()", "doctor", "two words"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout

    # Without params.yaml the folders are data, whose code is never run.
    assert "theirs" not in said(tmp_path) and "harm" not in said(tmp_path / "deeper")
    (tmp_path / "params.yaml").touch()
    assert said(tmp_path / "deeper") == "theirs ['doctor', 'two words']\n"
