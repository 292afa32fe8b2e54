"""The guard against committing faces: names, contents, sizes, exceptions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import check_files

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
JPEG = b"\xff\xd8\xff\xe0" + bytes(50)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("face.jpg", JPEG),
        ("FACE.JPEG", b"anything"),
        ("metrics/confusion.png", PNG),
        ("docs/tutorials/face.png", PNG),
        ("notes.txt", JPEG),
        ("notes", b"RIFF\x00\x00\x00\x00WEBPVP8 "),
        ("weights.safetensors", b"x"),
        ("data/faces/shard-00000.tar", b"x"),
        ("big.csv", bytes(500_001)),
    ],
)
def test_images_data_and_large_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
    assert check_files.main([name]) == 1
    assert capsys.readouterr().out.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ssfer/report/plots.py", b"import math\n"),
        ("metrics/curves/pretrain.csv", bytes(500_000)),
        ("metrics/report.html", bytes(3_000_000)),
        ("docs/results/demo.png", PNG),
        ("deleted.jpg", None),
    ],
)
def test_text_and_the_exceptions_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        Path(name).write_bytes(content)
    assert check_files.main([name]) == 0


def test_all_looks_at_what_git_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Path("face.jpg").write_bytes(JPEG)
    assert check_files.main(["--all"]) == 0
    subprocess.run(["git", "add", "face.jpg"], check=True)
    assert check_files.main(["--all"]) == 1


def test_this_repository_is_clean(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert check_files.main(["--all"]) == 0


@pytest.mark.parametrize("path", ["data/raw/ferplus/face.jpg", "data/faces/x/shard-00000.tar", "data/weights/pretrain"])
def test_git_ignores_data(root: Path, path: str) -> None:
    answer = subprocess.run(["git", "check-ignore", "-q", path], cwd=root)
    if answer.returncode == 128:
        pytest.skip("not a git repository")
    assert answer.returncode == 0


@pytest.mark.parametrize("path", ["data/raw/ferplus.dvc", "metrics/evaluate.json", "dvc.lock", ".dvc/config"])
def test_git_does_not_ignore_what_has_to_be_committed(root: Path, path: str) -> None:
    answer = subprocess.run(["git", "check-ignore", "-q", path], cwd=root)
    if answer.returncode == 128:
        pytest.skip("not a git repository")
    assert answer.returncode == 1


def test_what_git_cannot_list_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match="not a git repository"):
        check_files.main(["--all"])
