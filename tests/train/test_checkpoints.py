"""ssfer.train.checkpoints: the newest whole snapshot wins, damage and foreign code never do, one process at a time."""

from __future__ import annotations

import logging
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.train.checkpoints import KEEP, Checkpoints, Scratch


@pytest.fixture(autouse=True)
def _scratch_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def state(value: float) -> dict[str, Any]:
    weight = torch.nn.Parameter(torch.full((3, 5), float(value)))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return {
        "method": {"weight": weight.detach(), "count": torch.tensor(4)},
        "optimizer": optimizer.state_dict(),
        "history": [{"epoch": 1, "loss": value, "class_count": [1, 2]}],
        "best": None,
        "meter": {"steps": 2, "sums": {"loss": torch.tensor(value, dtype=torch.float64)}},
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- snapshots ---


def test_a_snapshot_reads_back_equal(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path / "run")
    snapshots.save(12, state(0.5))
    assert same(snapshots.load(), {"step": 12, **state(0.5)})


def test_no_snapshot_is_none(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path / "run")
    assert snapshots.load() is None
    assert snapshots.newest() == "none"


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    for step in (8, 9, 10, 100, 1000):  # names must sort as numbers
        snapshots.save(step, state(step))
    assert KEEP == 2
    assert names(tmp_path) == ["step-000000100.pt", "step-000001000.pt"]
    assert snapshots.newest() == "step-000001000.pt"
    assert snapshots.load()["step"] == 1000


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zeros", "gone half"])
def test_a_torn_newest_snapshot_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Checkpoints(tmp_path)
    snapshots.save(1, state(1.0))
    path = snapshots.save(2, state(2.0))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:-10],
            "text": b"not a snapshot",
            "zeros": data[:middle] + bytes(len(data) - middle),
            "gone half": data[middle:],
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        loaded = snapshots.load()
    assert same(loaded, {"step": 1, **state(1.0)})
    assert "step-000000002.pt is damaged" in caplog.text


def test_any_flipped_bit_gives_a_whole_snapshot(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    snapshots.save(1, state(1.0))
    path = snapshots.save(2, state(2.0))
    data, rng = path.read_bytes(), random.Random(0)
    whole = [{"step": 1, **state(1.0)}, {"step": 2, **state(2.0)}]
    older = 0
    for _ in range(150):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        loaded = snapshots.load()
        assert any(same(loaded, w) for w in whole)  # unused bytes of the container may change unnoticed
        older += loaded["step"] == 1
    assert older > 75


def test_with_every_snapshot_damaged_training_starts_anew_and_its_snapshots_are_kept(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    for step in (100, 200):
        snapshots.save(step, state(step)).write_bytes(b"")
    assert snapshots.load() is None
    for step in (10, 20, 30):
        snapshots.save(step, state(step))
    assert snapshots.load()["step"] == 30
    assert names(tmp_path) == ["step-000000020.pt", "step-000000030.pt"]


def test_a_process_killed_while_writing_leaves_the_older_snapshots(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    snapshots.save(1, state(1.0))
    (tmp_path / "step-000000002.pt.tmp").write_bytes(b"half")
    assert snapshots.load()["step"] == 1


class Bomb:
    """Unpickling it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch.save", "torch.save, old format", "pickle"])
def test_a_malicious_snapshot_is_refused_and_never_executed(tmp_path: Path, writer: str) -> None:
    snapshots, fired = Checkpoints(tmp_path / "run"), tmp_path / "fired"
    path = snapshots.save(2, state(2.0))
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"step": 3, "method": Bomb(fired)}))
    else:
        torch.save({"step": 3, "method": Bomb(fired)}, path, _use_new_zipfile_serialization="old" not in writer)
    snapshots.save(1, state(1.0)).rename(path.with_name("step-000000001.pt"))
    torch.save({"step": 3, "method": Bomb(fired)}, path, _use_new_zipfile_serialization="old" not in writer)
    assert snapshots.load()["step"] == 1
    assert not fired.exists()


# --- the folder of a stage ---


def test_another_identity_has_another_folder(tmp_path: Path) -> None:
    folders = [Scratch("pretrain", {"lr": lr}).folder for lr in (0.1, 0.1, 0.2)]
    folders.append(Scratch("finetune", {"lr": 0.1}).folder)
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    assert all(f.is_relative_to(tmp_path / ".scratch") for f in folders)


def test_runs_have_snapshots_of_their_own_and_discard_removes_them(tmp_path: Path) -> None:
    with Scratch("finetune", {}) as scratch:
        scratch.checkpoints("plain").save(1, state(1.0))
        scratch.checkpoints("facemix").save(2, state(2.0))
        assert scratch.checkpoints("plain").load()["step"] == 1
        scratch.discard()
        assert scratch.checkpoints("plain").load() is None
        assert scratch.checkpoints("facemix").load() is None
    with Scratch("finetune", {}) as scratch:  # still usable
        assert scratch.checkpoints("plain").load() is None


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_if_killed() -> None:
    scratch = Scratch("pretrain", {})
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(scratch.folder / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SsferError, match="another process is running stage pretrain with the same settings"):
            scratch.__enter__()
        Scratch("pretrain", {"other": 1}).__enter__().__exit__(None, None, None)  # another identity is free
    finally:
        holder.kill()
        holder.communicate()
    with scratch:
        pass


def test_the_lock_is_released_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), Scratch("pretrain", {}):
        raise RuntimeError("inside")
    with Scratch("pretrain", {}):
        pass
