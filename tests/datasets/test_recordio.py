"""Packed face sets as insightface writes them, and as damage or an attacker would."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.shared import recordio
from ssfer.datasets.shared.recordio import MAGIC, RecordFile
from tests.support.recordio_files import MAGIC_BYTES, content, frame, record, write_insightface, write_pair

PHOTOS = {1: (7.0, b"\xff\xd8one\xff\xd9"), 2: (7.0, b"\xff\xd8two, longer\xff\xd9"), 3: (12.0, b"\xff\xd8three")}


def test_photos_are_the_records_before_the_first_person(tmp_path: Path) -> None:
    file = RecordFile(write_insightface(tmp_path, PHOTOS))
    assert file.keys.tolist() == [1, 2, 3]
    assert file.labels.tolist() == [7, 7, 12]
    assert file.others == 3  # record 0 and two people
    assert [file.read(key) for key in (3, 1, 2)] == [PHOTOS[3][1], PHOTOS[1][1], PHOTOS[2][1]]
    for absent in (0, 4, 5, 99):
        with pytest.raises(KeyError):
            file.read(absent)


def test_a_label_may_be_an_array(tmp_path: Path) -> None:
    file = RecordFile(write_insightface(tmp_path, {1: ([3.0, 0.5], b"a"), 2: (4.0, b"bc"), 3: ([5.0], b"")}))
    assert file.labels.tolist() == [3, 4, 5]
    assert [file.read(key) for key in (1, 2, 3)] == [b"a", b"bc", b""]


def test_a_file_without_record_of_people_holds_photos_only(tmp_path: Path) -> None:
    plain = [(0, content(1.0, b"zero")), (1, content([2.0, 0.0], b"one")), (5, content(0.0, b"five"))]
    file = RecordFile(write_pair(tmp_path, [(key, record(data)) for key, data in plain]))
    assert (file.keys.tolist(), file.labels.tolist(), file.others) == ([0, 1, 5], [1, 2, 0], 0)
    assert file.read(0) == b"zero"
    labels_with_photo = [(0, record(content([2.0, 9.0], b"photo"))), (1, record(content(1.0, b"one")))]
    file = RecordFile(write_pair(tmp_path / "b", labels_with_photo))
    assert file.labels.tolist() == [2, 1]


def test_an_index_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    photos = [(key, record(content(1.0, b"photo"))) for key in range(4)]
    path = write_pair(tmp_path, photos)
    lines = path.with_suffix(".idx").read_text().splitlines(keepends=True)
    path.with_suffix(".idx").write_text("".join(lines[:3]))
    with pytest.raises(SsferError, match=r"train\.idx to name all records, found 43 bytes behind record 2, its last"):
        RecordFile(path)
    path.with_suffix(".idx").write_text("".join(lines[1:]))
    with pytest.raises(SsferError, match=r"expected record 0 in train\.idx, found 1 as the first"):
        RecordFile(path)
    path.with_suffix(".idx").write_text("".join(lines))
    path.write_bytes(path.read_bytes()[:-3])  # a last record without its padding
    assert RecordFile(path).read(3) == b"photo"


@pytest.mark.parametrize(
    "data",
    [
        b"1234" + MAGIC_BYTES + b"567",
        MAGIC_BYTES,
        MAGIC_BYTES * 3 + b"x",
        b"12" + MAGIC_BYTES + b"not aligned",
        b"abcd" + MAGIC_BYTES + b"efgh" + MAGIC_BYTES,
    ],
)
def test_photos_that_contain_the_magic_number_come_back_whole(tmp_path: Path, data: bytes) -> None:
    file = RecordFile(write_insightface(tmp_path, {1: (1.0, b"before"), 2: (8.0, data), 3: (2.0, b"after")}))
    assert file.labels.tolist() == [1, 8, 2]
    assert [file.read(key) for key in (1, 2, 3)] == [b"before", data, b"after"]


def test_a_header_that_contains_the_magic_number_is_read(tmp_path: Path) -> None:
    label = struct.unpack("<I", struct.pack("<f", 12.0))[0]
    header = struct.pack("<IIQQ", 0, label, MAGIC << 32 | MAGIC, 0)  # the field id
    framed = record(header + b"photo")
    assert framed[4:8] == struct.pack("<I", 1 << 29 | 8)  # the first part ends before the magic number
    file = RecordFile(write_pair(tmp_path, [(0, framed), (1, record(content(1.0, b"x")))]))
    assert file.labels.tolist() == [12, 1]
    assert file.read(0) == b"photo"


def test_index_lines_may_come_in_any_order_and_records_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pair(tmp_path, [(i, record(content(float(i % 9), b"%d" % i))) for i in range(300)])
    lines = path.with_suffix(".idx").read_text().splitlines()
    random.Random(0).shuffle(lines)
    path.with_suffix(".idx").write_bytes("\r\n".join(lines).encode())  # without a last newline
    monkeypatch.setattr(recordio, "_BLOCK", 11)
    file = RecordFile(path)
    assert file.keys.tolist() == list(range(300))
    assert file.labels.tolist() == [i % 9 for i in range(300)]
    assert [file.read(i) for i in range(300)] == [b"%d" % i for i in range(300)]


def test_a_copy_in_another_process_reads_and_a_forked_one_too(tmp_path: Path) -> None:
    file = RecordFile(write_insightface(tmp_path, PHOTOS))
    assert file.read(1) == PHOTOS[1][1]
    copy = pickle.loads(pickle.dumps(file))
    assert copy._descriptor is None
    assert copy.read(2) == PHOTOS[2][1]
    assert copy.stamp(2) == file.stamp(2) != file.stamp(1)
    child = os.fork()
    if child == 0:
        os._exit(0 if file.read(3) == PHOTOS[3][1] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert file.read(1) == PHOTOS[1][1]


def test_a_file_changed_after_opening_is_not_read(tmp_path: Path) -> None:
    path = write_insightface(tmp_path, PHOTOS)
    copy = pickle.loads(pickle.dumps(RecordFile(path)))
    before = copy.stamp(1)
    path.write_bytes(path.read_bytes() + bytes(4))
    with pytest.raises(OSError, match="was changed while"):
        copy.read(1)
    assert RecordFile(path).stamp(1) != before


def _good(tmp_path: Path) -> Path:
    return write_insightface(tmp_path, PHOTOS)


def _overwrite(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def _offset(path: Path, key: int) -> int:
    return dict(tuple(map(int, ln.split("\t"))) for ln in path.with_suffix(".idx").read_text().splitlines())[key]


def _index(path: Path, text: str) -> None:
    path.with_suffix(".idx").write_text(text)


def _word(path: Path, key: int, part: int, length: int) -> None:
    _overwrite(path, _offset(path, key) + 4, struct.pack("<I", part << 29 | length))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.with_suffix(".idx").unlink(), r"expected the file train\.idx in .*, found none"),
        (lambda p: p.unlink(), r"expected the file train\.rec in .*, found none"),
        (lambda p: _index(p, ""), r"train\.idx: expected a key, .* \(Empty CSV file\)"),
        (
            lambda p: _index(p, "0\t0\n1 40\n"),
            r"expected a key, a tab and an offset on every line .*Row #2: Expected 2 columns, got 1: 1 40",
        ),
        (
            lambda p: _index(p, "0\t0\n1\t-4\n"),
            r"expected the offset of record 1 to be a multiple of 4 inside .*, found -4",
        ),
        (lambda p: _index(p, "0\t0\n\n1\t4\n"), r"expected a key, a tab and an offset on every line .*Row #2"),
        (lambda p: _index(p, "0\t" + "9" * 30), r"expected a key, a tab and an offset on every line .*Row #1"),
        (lambda p: _index(p, "0\t99999999\n"), r"offset of record 0 to be a multiple of 4 inside the 248 bytes"),
        (
            lambda p: _index(p, "0\t244\n"),
            r"a multiple of 4 inside the 248 bytes of train\.rec, found 244;",
        ),
        (lambda p: _index(p, "0\t2\n"), r"multiple of 4 .* found 2;"),
        (lambda p: _index(p, "0\t0\n0\t40\n"), r"expected record 0 once, found it twice"),
        (lambda p: _index(p, "0\t0\n1\t0\n"), r"record 0\): expected a length of at most 0 bytes, found 31"),
        (lambda p: _index(p, "0\t4\n"), r"byte 4 \(record 0\): expected the magic number 0xced7230a, found 0x1f;"),
        (lambda p: _index(p, "1\t0\n" * 1000), r"expected at most 224 bytes beside the 248 bytes of .*found 4,000"),
        (
            lambda p: _index(p, f"0\t{_offset(p, 0)}\n1\t0\n"),
            r"expected photos 1 to 3, .* found 1 of them in",
        ),
        (lambda p: _word(p, 2, 0, 2**29 - 1), r"record 2\): expected a length of at most 40 bytes, found 536,870,911"),
        (lambda p: _word(p, 2, 0, 41), r"record 2\): expected a length of at most 40 bytes, found 41"),
        (lambda p: _word(p, 2, 2, 10), r"expected the beginning of a record, found type 2"),
        (lambda p: _word(p, 2, 7, 10), r"expected the beginning of a record, found type 7"),
        (lambda p: _word(p, 2, 1, 40), r"record 2\): expected the magic number|expected a length of at most 0 bytes"),
        (lambda p: _word(p, 2, 0, 23), r"record 2 has 0 extra labels, expected at least 24 bytes .* found 23"),
        (
            lambda p: _overwrite(p, _offset(p, 2) + 8, struct.pack("<I", 2**32 - 1)),
            r"record 2 has 4,294,967,295 extra labels, expected at least 17,179,869,204 bytes for its header, found 39",
        ),
        (
            lambda p: _overwrite(p, _offset(p, 2) + 12, struct.pack("<f", float("nan"))),
            r"expected the number of a person .* label of record 2, found nan",
        ),
        (lambda p: _overwrite(p, _offset(p, 2) + 12, struct.pack("<f", 0.5)), r"label of record 2, found 0\.5"),
        (lambda p: _overwrite(p, _offset(p, 3) + 12, struct.pack("<f", -1)), r"label of record 3, found -1\.0"),
        (
            lambda p: _overwrite(p, _offset(p, 0) + 32, struct.pack("<f", float("inf"))),
            r"expected record 0 to name the first record that is no photo, found inf",
        ),
        (lambda p: _overwrite(p, _offset(p, 0) + 32, struct.pack("<f", 1.0)), r"no photo, found 1\.0"),
        (
            lambda p: _overwrite(p, _offset(p, 0) + 32, struct.pack("<f", 5e8)),
            r"expected photos 1 to 499,999,999, as record 0 says, found 5 of them",
        ),
        (lambda p: p.write_bytes(p.read_bytes()[:200]), r"one file is incomplete or they do not belong together"),
        (lambda p: p.write_bytes(b""), r"beside the 0 bytes of train\.rec|inside the 0 bytes"),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, damage: object, message: str) -> None:
    path = _good(tmp_path)
    damage(path)
    with pytest.raises(SsferError, match=message) as error:
        RecordFile(path)
    assert "\n" not in str(error.value)


def test_parts_must_come_in_order_and_be_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = content(1.0, b"")
    for n, (second, message) in enumerate(
        [(frame(0, b"x"), "another part of a record, found type 0"), (frame(1, b"x"), "found type 1"), (b"", "magic")]
    ):
        path = write_pair(tmp_path / str(n), [(0, frame(1, start) + second + bytes(8))])
        with pytest.raises(SsferError, match=message):
            RecordFile(path)
    many = write_pair(tmp_path / "many", [(0, frame(1, start) + frame(2, b"") * 1000 + frame(3, b""))])
    with pytest.raises(SsferError, match="expected one part or a few, found more than 1000"):
        RecordFile(many)
    monkeypatch.setattr(recordio, "MAX_FILE_BYTES", 100)
    big = write_pair(tmp_path / "big", [(0, record(content(1.0, bytes(100))))])
    with pytest.raises(SsferError, match="expected a length of at most 92 bytes, found 124"):
        RecordFile(big)
    long = write_pair(tmp_path / "long", [(0, record(content(1.0, MAGIC_BYTES + bytes(100))))])
    with pytest.raises(SsferError, match="expected a length of at most 60 bytes, found 100"):
        RecordFile(long)


def test_links_are_followed_and_pipes_do_not_hang(tmp_path: Path) -> None:
    path = _good(tmp_path / "elsewhere")
    (tmp_path / "d").mkdir()
    for name in ("train.rec", "train.idx"):
        (tmp_path / "d" / name).symlink_to(path.with_name(name))
    assert RecordFile(tmp_path / "d/train.rec").read(1) == PHOTOS[1][1]
    (tmp_path / "d/train.rec").unlink()
    os.mkfifo(tmp_path / "d/train.rec")
    with pytest.raises(SsferError, match=r"expected the file train\.rec"):
        RecordFile(tmp_path / "d/train.rec")


def test_four_hundred_random_corruptions_are_refused_or_harmless(tmp_path: Path) -> None:
    """Bytes flipped, cut, doubled, and words set to extremes, in both files; what opens can be read."""
    rng = random.Random(3)
    photos = {i: (float(i % 4), rng.randbytes(rng.randrange(90)) + MAGIC_BYTES * (i % 5 == 0)) for i in range(1, 13)}
    path = write_insightface(tmp_path, photos)
    index = path.with_suffix(".idx")
    good = {path: path.read_bytes(), index: index.read_bytes()}
    refused = 0
    tracemalloc.start()
    for _ in range(400):
        victim = rng.choice([path, path, index])
        data = bytearray(good[victim])
        for _ in range(rng.choice([1, 1, 5])):
            at = rng.randrange(len(data)) // 4 * 4
            match rng.randrange(5):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), MAGIC_BYTES, b"\xff\xff\xff\x1f"])
                case 2:
                    del data[at : at + rng.randrange(1, 60)]
                case 3:
                    data[at:at] = data[at : at + rng.randrange(1, 60)]
                case _:
                    data[at : at + 4] = rng.randbytes(4)
            data = data or bytearray(4)
        path.write_bytes(good[path])
        index.write_bytes(good[index])
        victim.write_bytes(data)
        try:
            file = RecordFile(path)
        except SsferError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        assert len(file.keys) == len(file.labels)
        for key in file.keys.tolist():
            assert len(file.read(key)) <= path.stat().st_size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100 < refused < 400  # both ways are met
    assert peak < 8_000_000
