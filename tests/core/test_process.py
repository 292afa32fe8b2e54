"""How a stage ends: one sentence, a status, nothing that a terminal would obey."""

import signal

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main


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
