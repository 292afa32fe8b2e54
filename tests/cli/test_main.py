"""The `ssfer` command: answers at once, explains itself, and refuses in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssfer import __version__
from ssfer.cli.main import app
from tests.support.doctor_files import class_folders, png
from tests.support.source_files import write_files

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_help_lists_commands_and_examples(capsys: Capture) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for word in ("doctor", "fetch", "ssfer doctor data/raw/ferplus"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("doctor", ("Exit status:", "ssfer doctor FER2013Train.zip FER2013Valid.zip", "--near-bits", "--no-scan")),
        ("fetch", ("ssfer fetch retinaface", "--sha256", "--file", "Exit status:")),
    ],
)
def test_help_of_a_command_has_examples_and_exit_statuses(
    capsys: Capture, command: str, words: tuple[str, ...]
) -> None:
    status, out, _ = run(capsys, command, "-h")
    assert (status, [word for word in words if word not in out]) == (0, [])


def test_params_prints_what_is_in_force(capsys: Capture, project: Path) -> None:
    status, out, _ = run(capsys, "params")
    assert status == 0 and "methods.ema_teacher.threshold: 0.7\n" in out and "methods.vat." not in out
    assert "methods.vat.epsilon: 6.0\n" in run(capsys, "params", "--all")[1]
    assert {line.split(".")[0] for line in run(capsys, "params", "--stage", "pretrain")[1].splitlines()} == {
        "model",
        "pretrain",
    }
    status, _, err = run(capsys, "params", "--stage", "pretrian")
    assert (status, err.count("\n")) == (2, 1) and "did you mean 'pretrain'?" in err


def test_version(capsys: Capture) -> None:
    assert run(capsys, "--version") == (0, f"ssfer {__version__}\n", "")


def test_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, ssfer.cli.main; print([m for m in ('torch', 'numpy', 'cv2', 'PIL', 'pandas') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_processes_that_read_images_need_no_torch() -> None:
    """Each would take seconds and hundreds of megabytes to import it."""
    code = "import sys, ssfer.doctor.scan, ssfer.datasets.registry as r; r.recognition_order()"
    code += "; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("doctor", "absent"), "ssfer doctor: error: expected a folder, a zip or a table at absent, found nothing"),
        (("doctor", "README.md"), "ssfer doctor: error: README.md is not recognized as any data set; if it is one"),
        (("doctor", ".", "--machine"), "ssfer doctor: error: --machine looks at no data; leave out . or --machine"),
        (
            ("doctor", "--machine", "--json"),
            "ssfer doctor: error: --machine looks at no data; leave out --json",
        ),
        (("complexity", "--json", "--markdown"), "ssfer complexity: error: expected --json or --markdown, found both"),
        (("complexity", "--batch", "2"), "ssfer complexity: error: --batch, --device and --threads are for"),
        (("compare", "HEAD", "HEAD"), "ssfer compare: error: expected different runs, found HEAD twice"),
        (
            ("compare", "--html", "docs"),
            "ssfer compare: error: --html docs is a folder; name a file in it",
        ),
        (
            ("predict", "a.jpg", "--model", "docs/howto"),
            "ssfer predict: error: docs/howto is a folder; name",
        ),
        (
            ("predict", "--camera", "0", "--resume"),
            "ssfer predict: error: --camera takes no --resume",
        ),
        (("export", "ferplus-smal", "--to", "onnx"), "ssfer export: error: unknown model 'ferplus-smal'; did"),
        (("experiments", "list", "TABLE10"), "ssfer experiments list: error: unknown table 'TABLE10'; did you mean"),
        (("doctor", ".", "--kind", "rafbd"), "ssfer doctor: error: unknown kind of data set 'rafbd'"),
        (
            ("doctor", "/new\nline"),
            "ssfer doctor: error: the path '/new\\nline' has control characters, which no setting may have; rename",
        ),
        (("init", "mine", "--kind", "csv"), "ssfer init: error: --kind is about a data set; name it with --data"),
        (("init", "mine", "--labels", "0=joy"), "ssfer init: error: --labels is about a data set; name it with --data"),
        (("predict", "a.jpg", "--model", "README.md"), "ssfer predict: error: README.md is no model for runtime torch"),
        (
            ("export", "ferplus-small", "--to", "onnx", "--out", "a.pt"),
            "ssfer export: error: --out a.pt: expected a name that ends in .onnx",
        ),
        (("fetch", "retinafase"), "ssfer fetch: error: unknown weights 'retinafase'; did you mean 'retinaface'?"),
    ],
)
def test_refusals_are_one_line(
    capsys: Capture, root: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(root)
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("docter", "x"), "Did you mean 'doctor'?"),
        (("doctor", ".", "--profile", "ferplus"), "--profile examines the sources of a profile, expected no PATH"),
        (("doctor", ".", "--labels", "0"), "expected --labels as in 0=anger,1=happiness,8=null, found '0'"),
        (("doctor", ".", "--near-bits", "17"), "--near-bits"),
        (("doctor", ".", "--workers", "0"), "expected a number of at least 1 or 'auto', found '0'"),
    ],
)
def test_mistakes_in_the_command_are_explained_without_a_traceback(
    capsys: Capture, words: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_exit_status_is_the_severity(capsys: Capture, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "d", class_folders())
    assert run(capsys, "doctor", folder, "--workers", 1)[0] == 0
    write_files(folder, {"train/anger/again.png": png(1)})
    assert run(capsys, "doctor", folder, "--workers", 1)[0] == 1
    write_files(folder, {"test/anger/again.png": png(1)})
    assert run(capsys, "doctor", folder, "--workers", 1)[0] == 2
    assert run(capsys, "doctor", folder, "--no-scan")[0] == 0


def test_json_is_all_there_is_on_stdout(capsys: Capture, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "d", class_folders(**{f"test__anger__{i}": png(1) for i in range(5)}))
    status, out, err = run(capsys, "doctor", folder, "--json", "--examples", "4", "--workers", "1")
    values = json.loads(out)
    assert (status, values["exit_status"], values["severity"]) == (2, 2, "error")
    assert [len(f["examples"]) for f in values["findings"]] == [4, 4]
    assert "reading d: 12/12" in err


def test_python_m_ssfer_is_the_same_command() -> None:
    answer = subprocess.run([sys.executable, "-m", "ssfer", "docter"], cwd=ROOT, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "Did you mean 'doctor'?" in answer.stderr


def test_fetch_refuses_a_file_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    status, _, err = run(capsys, "fetch", "retinaface", "--file", tmp_path / "absent.zip", "--out", out)
    assert (status, out.exists()) == (2, False)
    assert err.startswith("ssfer fetch: error: no file at ")
