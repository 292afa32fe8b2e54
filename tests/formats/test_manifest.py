"""ssfer.formats.manifest: round trip, validation, sentences for damaged files, atomic writing, the fingerprint."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssfer.core.errors import SsferError
from ssfer.formats.manifest import (
    LENGTHS,
    MANIFEST_NAME,
    SCHEMA,
    fingerprint,
    read_manifest,
    write_manifest,
)


def row(i: int = 0, **changes: Any) -> dict[str, Any]:
    known = {
        "sample_id": f"source/{i}",
        "source": "source",
        "path": f"{i}.png",
        "label": "anger",
        "usage": "train",
        "pixel_sha256": f"hash{i}",
        "status": "ok",
        "face_found": True,
        "num_faces": 1,
        "crop_recipe": "r-v1-64",
    }
    return {**dict.fromkeys(SCHEMA.names), **known, **changes}


FULL = row(
    identity="n1",
    votes=[4, 0, 0, 1, 3, 2, 0, 0, 0, 0],
    sha256="ab",
    phash="00ff00ff00ff00ff",
    width=300,
    height=200,
    box=[1.5, 2, 30, 40],
    landmarks=[float(i) for i in range(10)],
    score=0.5,
    matrix=[0.1, 0, 3, 0, 0.1, 4],
    crop_size=64,
    crop_box=[0, 0, 64, 64],
    crop_box_fallback=False,
    shard="shard-00000.tar",
    offset=2**40,
    size=1000,
    crc32=2**32 - 1,
    truth='{"yaw": 3}',
)


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


@pytest.mark.parametrize("as_table", [False, True])
def test_rows_survive_the_round_trip(tmp_path: Path, as_table: bool) -> None:
    rows = [FULL, row(1), row(2, label=None, status="no_face", face_found=False, num_faces=0)]
    write_manifest(table(*rows) if as_table else rows, tmp_path / "a" / MANIFEST_NAME)
    found = read_manifest(tmp_path / "a" / MANIFEST_NAME)
    assert found.to_pylist() == rows
    assert found.schema.equals(SCHEMA)
    assert read_manifest(tmp_path / "a").equals(found)  # the folder will do


def test_missing_keys_are_null_and_no_rows_are_a_manifest(tmp_path: Path) -> None:
    sparse = {k: v for k, v in row().items() if v is not None}
    write_manifest([sparse], tmp_path / "a.parquet")
    assert read_manifest(tmp_path / "a.parquet").to_pylist() == [row()]
    write_manifest([], tmp_path / "b.parquet")
    assert len(read_manifest(tmp_path / "b.parquet")) == 0


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_manifest((row(i) for i in range(50)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), row(1), row(0), row(1)], r"sample id 'source/0' occurs more than once"),
        ([row(usage="training")], r"'usage' holds \['training'\], known are \['train', 'valid', 'test', 'none'\]"),
        ([row(), row(1, status="fine")], r"'status' holds \['fine'\]"),
        ([row(landmark_flag="odd")], r"'landmark_flag' holds \['odd'\], known are \['left_right'"),
        ([row(usage=None)], "'usage' has rows without a value"),
        ([row(), row(1, lable="anger")], r"unknown columns \['lable'\]"),
        *(
            ([row(**{c: [0.0] * found})], rf"'{c}' needs lists of length {n}, found lengths \[{found}\]")
            for c, n in LENGTHS.items()
            for found in (0, n - 1, n + 1)
        ),
    ],
)
def test_wrong_rows_are_refused_and_write_nothing(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        write_manifest(rows, tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"sample_id": None}, {"face_found": None}, {"num_faces": "two"}, {"width": 2**40}])
def test_values_that_do_not_fit_the_schema_keep_the_older_manifest(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "m.parquet"
    write_manifest([row()], path)
    before = path.read_bytes()
    with pytest.raises((pa.ArrowException, SsferError)):
        write_manifest([row(**changes)], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def _other_schemas() -> dict[str, tuple[pa.Table, str]]:
    good = table(FULL)
    width = SCHEMA.get_field_index("width")
    return {
        "column missing": (good.drop_columns(["crop_box"]), r"differs in: crop_box\)"),
        "column added": (good.append_column("extra", pa.array([1])), r"differs in: extra\)"),
        "other type": (good.set_column(width, "width", pa.array([1.5])), r"differs in: width\)"),
        "other order": (good.select(list(reversed(SCHEMA.names))), r"differs in: the order of the columns\)"),
    }


@pytest.mark.parametrize("lacking", [["crc32"], ["landmark_flag"], ["landmark_flag", "crc32"]])
def test_manifests_of_older_versions_are_read(tmp_path: Path, lacking: list[str]) -> None:
    pq.write_table(table(FULL).drop_columns(lacking), tmp_path / "old.parquet")
    assert read_manifest(tmp_path / "old.parquet").to_pylist() == [FULL | dict.fromkeys(lacking)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": "../../private.jpg"}, r"'shard' has '\.\./\.\./private.jpg', expected plain names"),
        ({"shard": "/etc/passwd"}, "expected plain names"),
        ({"shard": "a\x1b[2J.tar"}, r"has 'a\\x1b\[2J.tar', expected plain names"),
        ({"offset": -512}, "'offset' needs a number from 0 on"),
        ({"offset": None}, "'offset' needs a number from 0 on"),
        ({"size": -1}, "'size' needs a number from 0 on"),
        ({"crop_size": 2**31 - 1}, "'crop_size' needs sides of 1 to 8192 pixels"),
        ({"crop_size": -64}, "'crop_size' needs sides of 1 to 8192 pixels"),
        ({"usage": "exam"}, "'usage' holds"),
        ({"box": [1.0]}, "'box' needs lists of length 4"),
        ({"sample_id": None}, "'sample_id' has rows without a value"),
    ],
)
def test_a_manifest_of_a_third_party_is_not_believed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
    pq.write_table(pa.Table.from_pylist([FULL | changes], schema=schema), tmp_path / "m.parquet")
    with pytest.raises(SsferError, match=f"m.parquet cannot be used: .*{message}.*; restore it"):
        read_manifest(tmp_path / "m.parquet")


def test_a_third_partys_manifest_goes_together_with_ones_own(tmp_path: Path) -> None:
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA], metadata={"made": "elsewhere"})
    pq.write_table(pa.Table.from_pylist([FULL], schema=schema), tmp_path / "m.parquet")
    found = read_manifest(tmp_path / "m.parquet")
    assert pa.concat_tables([found, table(row(1))]).num_rows == 2


def test_a_third_partys_manifest_with_one_id_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(FULL, FULL), tmp_path / "m.parquet")
    with pytest.raises(SsferError, match="m.parquet cannot be used: sample id 'source/0' occurs more than once"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("case", sorted(_other_schemas()))
def test_tables_of_another_schema_are_neither_written_nor_read(tmp_path: Path, case: str) -> None:
    other, message = _other_schemas()[case]
    with pytest.raises(SsferError, match=message):
        write_manifest(other, tmp_path / "m.parquet")
    pq.write_table(other, tmp_path / "m.parquet")
    with pytest.raises(SsferError, match=message):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_manifest_is_a_sentence(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(SsferError, match=r"no manifest at .*manifest.parquet; run the stage that writes it"):
        read_manifest(tmp_path if folder else tmp_path / MANIFEST_NAME)


def test_a_damaged_manifest_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest([FULL, row(1)], path)
    rows = read_manifest(path).to_pylist()
    data, rng = path.read_bytes(), random.Random(1)
    refused = 0
    for case in range(150):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.randrange(len(data))] if case < 30 else broken)
        try:
            found = read_manifest(path)
        except SsferError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert found.to_pylist() == rows, "damage is used in silence"
    assert refused > 75


def test_the_fingerprint_covers_what_decides_training_and_the_order() -> None:
    base = fingerprint(table(row(0), row(1)))
    assert fingerprint(table(row(0), row(1))) == base
    changed = {"sample_id": "x", "label": "fear", "usage": "test", "pixel_sha256": "x", "crop_recipe": "x"}
    prints = [fingerprint(table(row(0), row(1, **{k: v}))) for k, v in changed.items()]
    prints += [fingerprint(table(row(1), row(0))), fingerprint(table(row(0))), base]
    assert len(set(prints)) == len(prints)
    assert fingerprint(table(row(0), row(1, score=0.3, truth="{}"))) == base
