"""What lies behind links counts; what DVC sees itself does not."""

import os
from pathlib import Path

from ssfer.core.linked_files import linked_files


def test_without_links_there_is_nothing_to_note(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"one")
    assert linked_files(tmp_path) is None
    assert linked_files(tmp_path / "nowhere") is None


def test_every_change_behind_a_link_is_noticed(tmp_path: Path) -> None:
    for name in ("disk/set/b/1.png", "other/set/b/1.png", "raw/own.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"one")
    link = tmp_path / "raw/set"
    link.symlink_to(tmp_path / "disk/set")
    (tmp_path / "disk/set/loop").symlink_to(tmp_path / "disk/set")
    seen = [linked_files(tmp_path / "raw")]

    def note() -> None:
        seen.append(linked_files(tmp_path / "raw"))

    (tmp_path / "raw/own.png").write_bytes(b"DVC sees it")
    assert linked_files(tmp_path / "raw") == seen[0]
    (tmp_path / "disk/set/b/2.png").write_bytes(b"two")
    note()
    (tmp_path / "disk/set/b/1.png").write_bytes(b"another size")
    note()
    os.utime(tmp_path / "disk/set/b/1.png", ns=(1, 1))
    note()
    link.unlink()
    link.symlink_to(tmp_path / "other/set")
    note()
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    note()
    assert None not in seen and len(set(seen)) == len(seen)


def test_the_folder_itself_may_be_the_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "raw").symlink_to(tmp_path / "disk")
    before = linked_files(tmp_path / "raw")
    (tmp_path / "disk/1.png").write_bytes(b"one")
    assert linked_files(tmp_path / "raw") not in (None, before)
