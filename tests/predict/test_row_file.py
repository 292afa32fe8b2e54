"""The growing table: one content in three formats, cut off where a killed command's rows end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ssfer.core.errors import SsferError
from ssfer.predict.row_file import SUFFIXES, RowFile
from ssfer.predict.table import columns

COLUMNS = columns(["anger", "fear"])
ROWS: list[dict[str, Any]] = [
    {"input": 'a, "b"\n.jpg', "status": "no_face"},
    {"input": "ü.mp4", "frame": 3, "time": 0.5, "track": 1, "face": 0, "status": "ok", "confidence": 0.75},
]
READERS = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}
MARK = {"items": 1, "input": "x", "frame": None}


def read(path: Path) -> list[dict[str, Any]]:
    table = READERS[path.suffix](path)
    assert list(table) == COLUMNS
    return [{k: v for k, v in row.items() if pd.notna(v)} for row in table.to_dict("records")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_read_back_and_nothing_else_is_left(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with RowFile(path, COLUMNS, "id") as file:
        file.add(ROWS[:1])
        file.commit(MARK)
        file.add(ROWS[1:])
    assert read(path) == ROWS and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_command_goes_on_after_its_last_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with pytest.raises(KeyboardInterrupt), RowFile(path, COLUMNS, "id") as file:
        file.add(ROWS[:1])
        file.commit(MARK)
        file.add(ROWS[1:])
        raise KeyboardInterrupt
    with RowFile(path, COLUMNS, "id", resume=True) as file:
        assert file.mark is not None and MARK.items() <= file.mark.items()
        file.add(ROWS[1:])
    assert read(path) == ROWS
    with RowFile(path, COLUMNS, "id", resume=True) as file:
        assert file.complete
    assert read(path) == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("at", ["before", "after"])
def test_an_interrupted_command_leaves_an_earlier_table_and_a_kill_at_its_end_loses_nothing(
    tmp_path: Path, suffix: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"t{suffix}"
    with RowFile(path, COLUMNS, "id") as file:
        file.add(ROWS[:1])
    with pytest.raises(KeyboardInterrupt), RowFile(path, COLUMNS, "id") as file:
        file.add(ROWS)
        raise KeyboardInterrupt
    assert read(path) == ROWS[:1]
    original = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == path and at == "before":
            raise KeyboardInterrupt
        found = original(self, target)
        if target == path:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt), RowFile(path, COLUMNS, "id") as file:
            file.add(ROWS)
    assert read(path) == (ROWS if at == "after" else ROWS[:1])
    assert RowFile(path, COLUMNS, "id", resume=True).complete
    assert read(path) == ROWS and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("table.csv", "a1b2c3"):  # as in the caches of DVC, whose names have no suffix
        (tmp_path / "t.csv").unlink(missing_ok=True)
        (tmp_path / "t.csv").symlink_to(tmp_path / "far" / name)
        with RowFile(tmp_path / "t.csv", COLUMNS, "id") as file:
            file.add(ROWS)
        assert (tmp_path / "t.csv").is_symlink() and read(tmp_path / "t.csv") == ROWS
        assert RowFile(tmp_path / "t.csv", COLUMNS, "id", resume=True).complete
    assert len(list((tmp_path / "far").iterdir())) == 2


def test_two_commands_do_not_write_one_table_and_its_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.touch(0o600)
    with RowFile(path, COLUMNS, "id") as file:
        with pytest.raises(SsferError, match="another command is writing .*; wait for its end, or name another --out"):
            RowFile(path, COLUMNS, "id")
        file.add(ROWS)
    assert read(path) == ROWS and path.stat().st_mode & 0o777 == 0o600


def test_an_old_mark_does_not_put_the_rows_of_a_newer_command_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "_take_place", lambda _: None)  # killed before
        with RowFile(path, COLUMNS, "id") as file:
            file.add(ROWS)
    (tmp_path / "t.csv.rows.csv").write_text("")  # a newer command, killed before its first mark
    with pytest.raises(SsferError, match="is not what was left there"):
        RowFile(path, COLUMNS, "id", resume=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_name_that_is_not_utf8_is_escaped_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with RowFile(path, COLUMNS, "id") as file:
        file.add([{"input": "a\udcff.jpg", "status": "no_face"}])
    assert read(path) == [{"input": "a\\udcff.jpg", "status": "no_face"}]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_table_of_the_model_is_not_taken_for_complete(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with RowFile(path, columns(["open", "closed"]), "id") as file:
        file.add(ROWS[:1])
    for there in (path.read_bytes(), b"my notes\n"):
        path.write_bytes(there)
        with pytest.raises(SsferError, match="is no table of this model, so it cannot be resumed; name another file"):
            RowFile(path, COLUMNS, "id", resume=True)
        assert path.read_bytes() == there


def test_a_command_killed_before_its_first_rows_is_not_taken_for_complete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RowFile(tmp_path / "t.csv", COLUMNS, "id"):
        raise KeyboardInterrupt
    with RowFile(tmp_path / "t.csv", COLUMNS, "id", resume=True) as file:
        assert not file.complete
        file.add(ROWS)
    (tmp_path / "u.csv").touch()  # killed before the first mark
    with RowFile(tmp_path / "u.csv", COLUMNS, "id", resume=True) as file:
        assert not file.complete
    with RowFile(tmp_path / "t.csv", COLUMNS, "id") as file:
        file.add(ROWS)
    assert read(tmp_path / "t.csv") == ROWS


def test_what_cannot_be_written_or_resumed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"expected a name that ends in \.csv, \.jsonl, \.parquet"):
        RowFile(tmp_path / "t.xlsx", COLUMNS, "id")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for place in ("folder.csv", "file/t.csv"):
        with pytest.raises(SsferError, match="cannot be written to .*; name another place"):
            RowFile(tmp_path / place, COLUMNS, "id")
    path = tmp_path / "t.csv"
    with pytest.raises(KeyboardInterrupt), RowFile(path, COLUMNS, "id") as file:
        file.commit(MARK)
        raise KeyboardInterrupt
    with pytest.raises(SsferError, match="begun with other inputs, weights or options"):
        RowFile(path, COLUMNS, "other", resume=True)
    (tmp_path / "t.csv.rows.csv").write_text("")
    with pytest.raises(SsferError, match="is not what was left there"):
        RowFile(path, COLUMNS, "id", resume=True)
    for damage in ("{", "[]", '{"identity": "id"}'):
        (tmp_path / "t.csv.resume").write_text(damage)
        with pytest.raises(SsferError, match="is damaged; remove it"):
            RowFile(path, COLUMNS, "id", resume=True)


def test_a_full_disk_is_told_with_the_way_to_go_on(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            pytest.raises(SsferError, match="cannot be written to .*; make room and run with --resume"),
            RowFile(tmp_path / "t.csv", COLUMNS, "id") as file,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
            file.add(ROWS * 10)
            file.commit(MARK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
