"""Duplicates are found, distinct pictures are left alone, and no evaluation image reaches the corpus."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from ssfer.config.schema import load_params
from ssfer.copies.find import decontaminate, matches, repeated
from ssfer.core.errors import SsferError
from ssfer.core.images import encode_jpeg, phash, pixel_sha256
from ssfer.corpus.page import REASONS, write_report
from ssfer.corpus.selection import build_corpus
from ssfer.corpus.settings import CorpusSettings
from ssfer.datasets.settings import SourceSettings
from ssfer.faces import alignment as align
from ssfer.faces.build import build_faces
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, read_manifest, write_manifest
from ssfer.formats.shards import ShardReader, ShardWriter
from ssfer.report.gallery import data_uri
from tests.core.test_images import encoded, picture
from tests.support.rendered_photos import render_once

BITS, CORRELATION = 8, 0.85
CORPUS = CorpusSettings(
    seed=5,
    min_score=0.8,
    min_side=20,
    keep_undetected=False,
    near_duplicate_bits=BITS,
    near_duplicate_correlation=CORRELATION,
    max_images=None,
    examples=0,
)


# --------------------------------------------------------------------------------------------- small face sets


def write_faces(folder: Path, source: str, photos: list[tuple[Image.Image, dict]], size: int = 64) -> pa.Table:
    """Write photos as a finished source: a crop of the photo's middle, jittered as a detector would, per photo."""
    rng = np.random.default_rng(len(photos))
    rows = []
    with ShardWriter(folder / "shard-00000.tar") as shard:
        for i, (photo, changes) in enumerate(photos):
            scale = size / min(photo.size) * rng.uniform(0.95, 1.15)
            shift = rng.uniform(-4, 4, 2)
            matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
            data = encode_jpeg(align.warp(photo, matrix, size), 95)
            row = dict.fromkeys(SCHEMA.names)
            row |= dict(zip(("shard", "offset", "size"), shard.add(f"{i}.jpg", data), strict=True))
            row |= {
                "sample_id": f"{source}/{i}",
                "source": source,
                "path": str(i),
                "usage": "train",
                "sha256": f"{source}{i}",
                "pixel_sha256": pixel_sha256(photo),
                "phash": phash(photo),
                "width": photo.width,
                "height": photo.height,
                "status": "ok",
                "face_found": True,
                "num_faces": 1,
                "box": [10.0, 10.0, 50.0, 60.0],
                "score": 0.99,
                "matrix": matrix.ravel().tolist(),
                "crop_size": size,
            }
            rows.append(row | changes)
    write_manifest(rows, folder / MANIFEST_NAME)
    return read_manifest(folder)


def copies(photo: Image.Image) -> list[Image.Image]:
    """The same picture as it comes back from the internet."""
    again = Image.open(BytesIO(encoded(photo, "JPEG", quality=55))).convert("RGB")
    smaller = photo.resize((photo.width * 4 // 5, photo.height * 4 // 5), Image.Resampling.BICUBIC)
    return [again, smaller, ImageEnhance.Brightness(photo).enhance(1.1), photo.convert("L").convert("RGB")]


def photo(seed: int) -> Image.Image:
    return picture(110, 96, seed)


def test_copies_are_found_and_others_left_alone(tmp_path: Path) -> None:
    originals = [photo(i) for i in range(20)]
    left = write_faces(tmp_path / "a", "a", [(p, {}) for p in originals])
    planted = [copy for i in (3, 4) for copy in copies(originals[i])]
    distinct = [photo(100 + i) for i in range(30)]
    right = write_faces(tmp_path / "b", "b", [(p, {}) for p in (*planted, *distinct, originals[7])])
    found = matches(right, left, tmp_path, BITS, CORRELATION)
    assert found.of.tolist() == [3] * 4 + [4] * 4 + [-1] * 30 + [7]
    assert found.how.tolist() == ["near"] * len(planted) + [""] * 30 + ["exact"]
    np.testing.assert_array_equal(decontaminate(right, left, tmp_path, BITS, CORRELATION), found.how == "")
    keep = decontaminate(left, right, tmp_path, BITS, CORRELATION)
    assert np.flatnonzero(~keep).tolist() == [3, 4, 7]


def test_same_hash_is_not_enough(tmp_path: Path) -> None:
    """Two pictures with equal hashes but different crops are no duplicates: the second witness decides."""
    value = phash(photo(0))
    left = write_faces(tmp_path / "a", "a", [(photo(0), {"phash": value})])
    right = write_faces(tmp_path / "b", "b", [(photo(1), {"phash": value}), (copies(photo(0))[0], {"phash": value})])
    assert matches(right, left, tmp_path, BITS, CORRELATION).how.tolist() == ["", "near"]
    assert matches(right, left, tmp_path, BITS, 1.0).how.tolist() == ["", ""]


def test_exact_copy_is_found_without_a_stored_crop(tmp_path: Path) -> None:
    left = write_faces(tmp_path / "a", "a", [(photo(0), {"sha256": "x", "shard": None}), (photo(1), {"shard": None})])
    right = write_faces(tmp_path / "b", "b", [(photo(5), {"sha256": "x"}), (photo(1), {}), (copies(photo(1))[0], {})])
    assert matches(right, left, tmp_path, BITS, CORRELATION).how.tolist() == ["exact", "exact", ""]


def test_empty_tables_are_fine(tmp_path: Path) -> None:
    table = write_faces(tmp_path / "a", "a", [(photo(0), {})])
    empty = table.slice(0, 0)
    assert matches(table, empty, tmp_path, BITS, CORRELATION).how.tolist() == [""]
    assert matches(empty, table, tmp_path, BITS, CORRELATION).how.tolist() == []
    assert decontaminate(table, empty, tmp_path, BITS, CORRELATION).tolist() == [True]


def test_first_of_equal_images_stays(tmp_path: Path) -> None:
    a, b = photo(0), photo(1)
    table = write_faces(
        tmp_path / "a",
        "a",
        [(a, {}), (b, {"sha256": "same"}), (copies(a)[0], {}), (a, {}), (photo(2), {"sha256": "same"})],
    )
    assert repeated(table, tmp_path, BITS, CORRELATION).how.tolist() == ["", "", "near", "exact", "exact"]


def test_chain_of_changes_keeps_its_far_end(tmp_path: Path) -> None:
    """The second is a copy of the first and goes; the third resembles the second only, so it stays."""
    photos = [
        (photo(0), {"pixel_sha256": str(k), "phash": f"{0xF0F0 | ((1 << 8 * k) - 1) << 16:016x}"}) for k in range(3)
    ]
    table = write_faces(tmp_path / "a", "a", photos)
    assert repeated(table, tmp_path, BITS, CORRELATION).how.tolist() == ["", "near", ""]


# -------------------------------------------------------------------------------------------------- the corpus


def sources(*names: str, without: str = "") -> list[SourceSettings]:
    return [
        SourceSettings(name=n, kind="rendered", path=n, labeled=True, align="similarity", corpus=n != without)
        for n in names
    ]


def write_two_sources(faces: Path) -> None:
    exam = photo(50)
    rows = [(photo(i), {}) for i in range(8)]
    rows += [
        (photo(20), {"usage": "valid"}),
        (photo(21), {"usage": "test"}),
        (photo(22), {"shard": None, "status": "several_faces"}),
        (photo(23), {"face_found": False, "score": None, "box": None, "status": "no_face"}),
        (photo(24), {"score": 0.79}),
        (photo(25), {"box": [0.0, 0.0, 40.0, 19.0]}),
        (photo(3), {}),  # exact copy of an image
        (copies(photo(4))[0], {}),  # near copy of an image
        (exam, {}),  # exact copy of the other source's test image
        (copies(exam)[1], {}),  # near copy of it
        (copies(photo(20))[2], {}),  # near copy of a validation image
    ]
    write_faces(faces / "a", "a", rows)
    write_faces(
        faces / "b", "b", [(exam, {"usage": "test"}), (photo(60), {"usage": "none"}), (copies(photo(5))[1], {})]
    )


EXPECTED_DROPS = {
    "evaluated_on": 2,
    "not_stored": 1,
    "no_face": 1,
    "low_score": 1,
    "small_face": 1,
    "exact_copy_of_image": 1,
    "near_copy_of_image": 1,
    "exact_copy_of_evaluation_image": 1,
    "near_copy_of_evaluation_image": 2,
}


def test_every_reason_is_counted_once(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    counts, _ = build_corpus(sources("a", "b"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    drops = {**EXPECTED_DROPS, "evaluated_on": 3, "near_copy_of_image": 2}
    by_source = counts.pop("by_source")
    assert counts == {"considered": 22, "kept": 9, "kept_by_source": {"a": 8, "b": 1}, "dropped": drops}
    assert by_source["b"] == {"considered": 3, "kept": 1, "dropped": {"evaluated_on": 1, "near_copy_of_image": 1}}
    assert by_source["a"]["kept"] + sum(by_source["a"]["dropped"].values()) == by_source["a"]["considered"] == 19
    assert counts["considered"] == counts["kept"] + sum(drops.values())
    rows = read_manifest(tmp_path / "corpus").to_pylist()
    assert {r["sample_id"] for r in rows} == {f"a/{i}" for i in range(8)} | {"b/1"}


def test_source_that_feeds_nothing_still_guards_its_test_images(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    counts, _ = build_corpus(sources("a", "b", without="b"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    assert counts["dropped"] == EXPECTED_DROPS
    assert counts["kept_by_source"] == {"a": 8}


def test_undetected_faces_and_cap(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    params = CORPUS.model_copy(update={"keep_undetected": True, "max_images": 4})
    counts, _ = build_corpus(sources("a"), params, tmp_path, tmp_path / "corpus", shard_size=3)
    assert "no_face" not in counts["dropped"]
    assert (counts["kept"], counts["dropped"]["over_cap"]) == (4, 6)  # without b, the exam photo is just a photo


def test_caps_per_person_and_source_are_random_samples(tmp_path: Path) -> None:
    """20 photos of two people and 4 of nobody known; the caps come one after the other."""
    rows = [(photo(i), {"identity": f"p{i % 2}"}) for i in range(20)] + [(photo(30 + i), {}) for i in range(4)]
    write_faces(tmp_path / "a", "a", rows)
    write_faces(tmp_path / "b", "b", [(photo(60 + i), {"identity": "p0"}) for i in range(5)])
    a, b = sources("a", "b")
    capped = a.model_copy(update={"corpus_max_per_identity": 3, "corpus_max": 8})
    counts, fate = build_corpus([capped, b], CORPUS, tmp_path, tmp_path / "corpus", shard_size=50)
    assert counts["by_source"]["a"]["dropped"] == {"over_identity_cap": 14, "over_source_cap": 2}
    assert counts["kept_by_source"] == {"a": 8, "b": 5}, "b has no caps, and its p0 is another person"
    kept = [r for r in read_manifest(tmp_path / "corpus").to_pylist() if r["source"] == "a"]
    assert max(sum(r["identity"] == p for r in kept) for p in ("p0", "p1")) <= 3
    assert [r["identity"] for r in kept].count(None) >= 2
    assert {r["sample_id"] for r in kept} != {f"a/{i}" for i in (0, 1, 2, 3, 4, 5, 20, 21)}, "not simply the first"
    other = CORPUS.model_copy(update={"seed": 6})
    _, again = build_corpus([capped, b], other, tmp_path, tmp_path / "corpus2", shard_size=50)
    assert again.column("reason").to_pylist() != fate.column("reason").to_pylist()


def test_page_tells_what_was_left_out_and_shows_faces_only_when_asked(tmp_path: Path) -> None:
    write_two_sources(tmp_path / "faces")
    counts, fate = build_corpus(sources("a", "b"), CORPUS, tmp_path / "faces", tmp_path / "corpus", shard_size=4)
    write_report(counts, fate, tmp_path / "faces", tmp_path / "report", examples=0)
    page = (tmp_path / "report/index.html").read_text()
    assert "<strong>9</strong> of 22 faces (40.9%)" in page
    assert "<td>near copy of evaluation image</td><td>2</td>" in page
    assert "<td>over identity cap</td><td>0</td>" in page
    assert "<img" not in page
    dropped = {
        r["sample_id"]: (r["reason"], r["copy_of"])
        for r in pq.read_table(tmp_path / "report/dropped.parquet").to_pylist()
    }
    assert len(dropped) == 13
    assert dropped["a/14"] == ("exact_copy_of_image", "a/3")
    assert dropped["a/15"] == ("near_copy_of_image", "a/4")
    assert dropped["a/16"] == ("exact_copy_of_evaluation_image", "b/0")
    assert dropped["a/18"] == ("near_copy_of_evaluation_image", "a/8")
    assert dropped["b/2"] == ("near_copy_of_image", "a/5")
    assert dropped["a/12"] == ("low_score", None)
    assert set(REASONS) >= {reason for reason, _ in dropped.values()}

    write_report(counts, fate, tmp_path / "faces", tmp_path / "report", examples=2)
    page = (tmp_path / "report/index.html").read_text()
    # One picture for each of five reasons, a pair for each of 2 + 2 near copies; none of what is evaluated on.
    assert page.count("<img") == 5 + 2 * 4
    assert "Do not pass this page on" in page
    first = ShardReader(tmp_path / "faces/a")
    row = read_manifest(tmp_path / "faces/a").to_pylist()[4]
    assert data_uri(first.read(row["shard"], row["offset"], row["size"]), "jpeg") in page, "what a/15 copies"


def test_shards_follow_the_shuffled_order(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    build_corpus(sources("a", "b"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    rows = read_manifest(tmp_path / "corpus").to_pylist()
    assert [r["shard"] for r in rows] == ["shard-00000.tar"] * 4 + ["shard-00001.tar"] * 4 + ["shard-00002.tar"]
    assert [r["sample_id"] for r in rows] != sorted(r["sample_id"] for r in rows)
    reader, old = ShardReader(tmp_path / "corpus"), {}
    for name in ("a", "b"):
        source = ShardReader(tmp_path / name)
        for row in read_manifest(tmp_path / name).to_pylist():
            if row["shard"]:
                old[row["sample_id"]] = source.read(row["shard"], row["offset"], row["size"])
    for row in rows:
        assert reader.read(row["shard"], row["offset"], row["size"]) == old[row["sample_id"]]


def test_seed_decides_the_order_and_nothing_else(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    orders = []
    for run, seed in enumerate((1, 1, 2)):
        params = CORPUS.model_copy(update={"seed": seed})
        build_corpus(sources("a", "b"), params, tmp_path, tmp_path / f"run{run}", shard_size=4)
        orders.append([r["sample_id"] for r in read_manifest(tmp_path / f"run{run}").to_pylist()])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    files = [{p.name: p.read_bytes() for p in (tmp_path / f"run{run}").iterdir()} for run in (0, 1)]
    assert files[0] == files[1]


def test_nothing_left_and_missing_source_get_a_sentence(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    strict = CORPUS.model_copy(update={"min_score": 1.0})
    with pytest.raises(SsferError, match=r"none of the 19 faces qualifies.*low_score"):
        build_corpus(sources("a"), strict, tmp_path, tmp_path / "corpus", shard_size=4)
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(SsferError, match="no manifest at .*absent"):
        build_corpus(sources("a", "absent"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    with pytest.raises(SsferError, match="no source has 'corpus: true'"):
        build_corpus(sources("a", without="a"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)


# ------------------------------------------------------------------------------------- rendered faces, for real


def test_stage_keeps_planted_copies_out(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    from stages.corpus import main

    params = load_params(project / "params.yaml")
    for source in params.data.sources:
        build_faces(source, render_once(tmp_path_factory), project / "data/faces" / source.name, params.align)
    main()
    counts = json.loads((project / "metrics/corpus.json").read_text())["corpus"]
    kept = read_manifest(project / "data/corpus").to_pylist()
    troubles = [json.loads(row["truth"])["trouble"] for row in kept]
    # Copies of test images are gone; every clean training photo is still there, so are those with two heads.
    assert not [t for t in troubles if t and "duplicate_of:expressions/test" in t]
    assert troubles.count(None) == 7 + 6
    assert troubles.count("two_heads") == 8
    assert counts["dropped"]["exact_copy_of_evaluation_image"] == 4
    assert counts["dropped"]["near_copy_of_evaluation_image"] == 6
    assert counts["dropped"]["exact_copy_of_image"] == 4
    assert "near_copy_of_image" not in counts["dropped"]
    assert counts["dropped"]["no_face"] == 8
    assert counts["considered"] == 59
    assert {row["usage"] for row in kept} <= {"train", "none"}
    assert f"corpus: {len(kept)} of 59 faces kept" in capsys.readouterr().out
