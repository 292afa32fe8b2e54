"""How a stage ends: one sentence, a status, nothing that a terminal would obey."""

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

from ssfer.core import process
from ssfer.core.errors import SsferError
from ssfer.core.places import STAGES
from ssfer.core.process import stage_main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def end(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Return exit status and stderr of a stage that ends with this error."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        stage_main("align", main)
    return stop.value.code, capsys.readouterr().err


def test_control_characters_of_names_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = end(SsferError("no photo '\x1b[2J\x07a\u202eb.png' in Größe/笑"), capsys)
    assert (status, said) == (2, "align: error: no photo '\\x1b[2J\\x07a\\u202eb.png' in Größe/笑\n")


def test_ctrl_c_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = end(KeyboardInterrupt(), capsys)
    assert status == 128 + signal.SIGINT and said.count("\n") == 1 and "the same command continues" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x.tar"), "OSError: 'data/x.tar': the disk is full"),
        (PermissionError(errno.EACCES, "no", "data"), "PermissionError: 'data': there is no permission"),
        (FileNotFoundError(errno.ENOENT, "no", "a\x1b.jpg"), r"'a\\x1b.jpg': it is not there: it was moved"),
        (OSError(errno.ENAMETOOLONG, "no", "x"), "the name is too long"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "starts no more processes"),
        (MemoryError(), "there is not enough memory; use a smaller batch"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "prepares batches died, most likely"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "prepares batches died, most likely"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."),
            "shared memory .* --shm-size",
        ),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "shared memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "the GPU has not enough memory .*machine.max_batch"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "the GPU failed"),
        (RuntimeError("can't start new thread"), "the system starts no more threads"),
        (RuntimeError("received 0 items of ancdata"), "too many files are open"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8 text"),
    ],
)
def test_failures_of_the_machine_are_one_sentence(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = end(error, capsys)
    assert status == 2 and text.count("\n") == 1 and "nothing was written" not in text
    assert re.search(said, text), text


def test_defects_keep_their_traceback() -> None:
    for error in (RuntimeError("shapes differ"), KeyError("x"), ValueError("y")):

        def main(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            stage_main("align", main)


def test_several_processes_are_refused_where_one_would_write_over_the_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran: list[str] = []
    for stage in STAGES:
        with suppress(SystemExit):
            stage_main(stage, lambda stage=stage: ran.append(stage))  # type: ignore[misc]
    assert ran == ["pretrain", "finetune", "semisup"]
    assert "corpus: error: stage corpus runs in one process; start it without torchrun\n" in capsys.readouterr().err


def test_a_second_run_of_a_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".scratch").mkdir()
    ran: list[str] = []
    with FileLock(tmp_path / ".scratch/corpus.lock"):
        with pytest.raises(SystemExit):
            stage_main("corpus", lambda: ran.append("corpus"))
        assert capsys.readouterr().err == (
            "corpus: error: another process is running stage corpus in this folder; wait for it or end it\n"
        )
        stage_main("split", lambda: ran.append("split"))
        stage_main("ssfer doctor", lambda: ran.append("doctor"))
    stage_main("corpus", lambda: ran.append("corpus"))
    assert ran == ["split", "doctor", "corpus"]


def test_only_stages_say_that_the_same_command_continues(capsys: pytest.CaptureFixture[str]) -> None:
    for again, said in (("", "ssfer x: interrupted\n"), ("use --resume", "ssfer x: interrupted; use --resume\n")):

        def main() -> None:
            raise KeyboardInterrupt

        with pytest.raises(SystemExit):
            stage_main("ssfer x", main, again)
        assert capsys.readouterr().err == said


def test_names_of_files_are_not_taken_for_messages(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("/data/igloo/a.jpg", "/home/u/NCCL-tests/params.yaml"):
        assert "it is not there" in end(FileNotFoundError(errno.ENOENT, "No such file or directory", name), capsys)[1]


def test_a_command_may_take_its_time_after_ctrl_c(tmp_path: Path) -> None:
    child = (
        "import signal, time; signal.signal(2, lambda *_: None); print(flush=True); time.sleep(0.6); open('done', 'w')"
    )
    run = f"stage_main('ssfer run', lambda: run_to_end([sys.executable, '-c', {child!r}]))"
    code = f"import sys; from ssfer.core.process import run_to_end, stage_main; {run}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the child runs
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("content", "cpus"), [("150000 100000\n", 2), ("max 100000\n", 8), ("10000 100000\n", 1)])
def test_a_containers_share_bounds_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, cpus: int
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(process, "QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert process.available_cpus() == cpus
