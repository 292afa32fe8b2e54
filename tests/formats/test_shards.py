"""ssfer.formats.shards: deterministic tar files, right offsets, no half-written shard, sentences for damage."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.formats.shards import ShardReader, ShardWriter, crc32

SIZES = (0, 1, 511, 512, 513, 1023, 1024, 1025, 10239, 10240, 20000)


def payload(i: int, size: int) -> bytes:
    return bytes((i * 31 + j) % 251 for j in range(size))


def write(path: Path, sizes: tuple[int, ...] = SIZES) -> list[tuple[str, int, int]]:
    with ShardWriter(path) as shard:
        return [shard.add(f"{i:06d}.jpg", payload(i, size)) for i, size in enumerate(sizes)]


def test_members_are_read_back_by_offset_in_any_order(tmp_path: Path) -> None:
    places = write(tmp_path / "shard-00000.tar")
    assert [p[0] for p in places] == ["shard-00000.tar"] * len(SIZES)
    assert [p[2] for p in places] == list(SIZES)
    reader = ShardReader(tmp_path)
    for i in (*reversed(range(len(SIZES))), 3, 3):
        assert reader.read(*places[i]) == payload(i, SIZES[i])
    reader.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_offset_of_a_member_of_any_size_is_that_of_tarfile(tmp_path: Path, size: int) -> None:
    places = write(tmp_path / "s.tar", (size, 7, size))
    with tarfile.open(tmp_path / "s.tar") as tar:
        members = tar.getmembers()
        assert [(m.offset_data, m.size) for m in members] == [p[1:] for p in places]
        assert [tar.extractfile(m).read() for m in members] == [payload(i, s) for i, s in enumerate((size, 7, size))]


def test_members_carry_fixed_metadata(tmp_path: Path) -> None:
    write(tmp_path / "s.tar")
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getnames() == [f"{i:06d}.jpg" for i in range(len(SIZES))]
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isfile()) for m in tar}
    assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "s.tar")
    assert (tmp_path / "a/s.tar").read_bytes() == (tmp_path / "b/s.tar").read_bytes()


@pytest.mark.parametrize("name", ["pörträt/名.jpg", "folder/" * 20 + "face.jpg"])
def test_long_and_foreign_names_keep_their_offsets(tmp_path: Path, name: str) -> None:
    with ShardWriter(tmp_path / "s.tar") as shard:
        places = [shard.add(name, payload(0, 700)), shard.add("b.jpg", payload(1, 5))]
    reader = ShardReader(tmp_path)
    assert [reader.read(*p) for p in places] == [payload(0, 700), payload(1, 5)]
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getnames() == [name, "b.jpg"]


def test_an_empty_shard_is_a_readable_tar(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", ())
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getmembers() == []


def test_the_shard_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with ShardWriter(path) as shard:
        shard.add("a", b"x")
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["s.tar"]


def test_an_exception_inside_leaves_no_file_and_an_older_shard_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardWriter(tmp_path / "new.tar") as shard:
        shard.add("a", b"x")
        raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "old.tar")
    before = (tmp_path / "old.tar").read_bytes()
    with pytest.raises(KeyError), ShardWriter(tmp_path / "old.tar") as shard:
        raise KeyError("stop")
    assert (tmp_path / "old.tar").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["old.tar"]


def test_a_missing_shard_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"shard .*shard-00007.tar is missing; run dvc checkout or dvc repro"):
        ShardReader(tmp_path).read("shard-00007.tar", 0, 1)


@pytest.mark.parametrize(("length", "found"), [(512 + 100, 100), (512, 0), (10, 0)])
def test_a_shard_cut_short_is_a_sentence(tmp_path: Path, length: int, found: int) -> None:
    name, offset, size = write(tmp_path / "s.tar", (700,))[0]
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:length])
    with pytest.raises(SsferError, match=rf"s.tar is cut short: expected 700 bytes at 512, found {found}; restore it"):
        ShardReader(tmp_path).read(name, offset, size)


def test_a_closed_reader_opens_again(tmp_path: Path) -> None:
    places = write(tmp_path / "s.tar")
    reader = ShardReader(tmp_path)
    reader.read(*places[4])
    reader.close()
    assert reader.read(*places[5]) == payload(5, SIZES[5])


def test_a_flipped_byte_of_a_stored_picture_is_a_sentence(tmp_path: Path) -> None:
    name, offset, size = write(tmp_path / "s.tar", (700,))[0]
    known = crc32(payload(0, 700))
    assert ShardReader(tmp_path).read(name, offset, size, known) == payload(0, 700)
    data = bytearray((tmp_path / name).read_bytes())
    for place in (offset, offset + 350, offset + size - 1):
        data[place] ^= 1
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            SsferError, match=r"s.tar is damaged: the 700 bytes at 512 .*; restore it with dvc checkout"
        ):
            ShardReader(tmp_path).read(name, offset, size, known)
        assert len(ShardReader(tmp_path).read(name, offset, size)) == 700, "older manifests know no checksum"
        data[place] ^= 1


@pytest.mark.parametrize("name", ["../../private.jpg", "/etc/passwd", "a/b.tar", "..", ".h", "", "a\\b.tar", "a\0b"])
def test_a_shard_is_a_file_in_its_own_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SsferError, match="expected the plain name of a file beside it"):
        ShardReader(tmp_path).read(name, 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(-1, 5), (0, -1), (2**62, 2**62), (0, 2**62), (10**6, 1)])
def test_claims_beyond_the_file_read_nothing(tmp_path: Path, offset: int, size: int) -> None:
    write(tmp_path / "s.tar", (700,))
    with pytest.raises(SsferError, match="s.tar is cut short: expected"):
        ShardReader(tmp_path).read("s.tar", offset, size)
