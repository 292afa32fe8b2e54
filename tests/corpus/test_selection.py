"""Duplicates are found, distinct pictures are left alone, and no evaluation image reaches the corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.corpus.selection import build_corpus
from ssfer.corpus.settings import CorpusSettings
from ssfer.datasets.base import SourceSettings
from ssfer.faces.build import build_faces
from ssfer.formats.manifest import read_manifest
from ssfer.formats.metrics import read_metrics
from ssfer.formats.shards import ShardReader
from ssfer.report.corpus_page import write_report
from tests.support.face_sets import copies, photo, write_faces
from tests.support.rendered_photos import render_once

CORPUS = CorpusSettings(seed=5, min_score=0.75, min_side=20)


def sources(*names: str, without: str = "") -> list[SourceSettings]:
    return [
        SourceSettings(name=n, kind="rendered", path=n, labeled=True, align="similarity", corpus=n != without)
        for n in names
    ]


def write_two_sources(faces: Path) -> None:
    exam = photo(50)
    at_the_limits = {"score": 0.75, "box": [0.0, 0.0, 40.0, 20.0]}
    rows = [(photo(0), at_the_limits), *((photo(i), {}) for i in range(1, 8))]
    rows += [
        (photo(20), {"usage": "valid"}),
        (photo(21), {"usage": "test"}),
        (photo(22), {"shard": None, "status": "several_faces"}),
        (photo(23), {"face_found": False, "score": None, "box": None, "status": "no_face"}),
        (photo(24), {"score": 0.74}),
        (photo(25), {"box": [0.0, 0.0, 40.0, 19.0]}),
        (photo(3), {}),  # exact copy of an image
        (copies(photo(4))[0], {}),  # near copy of an image
        (exam, {}),  # exact copy of the other source's test image
        (copies(exam)[1], {}),  # near copy of it
        (copies(photo(20))[2], {}),  # near copy of a validation image
    ]
    write_faces(faces / "a", rows)
    write_faces(faces / "b", [(exam, {"usage": "test"}), (photo(60), {"usage": "none"}), (copies(photo(5))[1], {})])


EXPECTED_DROPS = {"evaluated_on": 2, "not_stored": 1, "no_face": 1, "low_score": 1, "small_face": 1}
EXPECTED_DROPS |= {"exact_copy_of_image": 1, "near_copy_of_image": 1}
EXPECTED_DROPS |= {"exact_copy_of_evaluation_image": 1, "near_copy_of_evaluation_image": 2}


def test_every_reason_is_counted_once_and_shards_follow_the_shuffled_order(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    counts, fate = build_corpus(sources("a", "b"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    drops = {**EXPECTED_DROPS, "evaluated_on": 3, "near_copy_of_image": 2}
    by_source = counts.pop("by_source")
    assert counts == {"considered": 22, "kept": 9, "kept_by_source": {"a": 8, "b": 1}, "dropped": drops}
    assert by_source["b"] == {"considered": 3, "kept": 1, "dropped": {"evaluated_on": 1, "near_copy_of_image": 1}}
    assert by_source["a"]["kept"] + sum(by_source["a"]["dropped"].values()) == by_source["a"]["considered"] == 19
    dropped = {r["sample_id"]: (r["reason"], r["copy_of"]) for r in fate.to_pylist() if r["reason"]}
    assert len(dropped) == 13
    assert dropped["a/12"] == ("low_score", None)
    assert dropped["a/14"] == ("exact_copy_of_image", "a/3")
    assert dropped["a/15"] == ("near_copy_of_image", "a/4")
    assert dropped["a/16"] == ("exact_copy_of_evaluation_image", "b/0")
    assert dropped["a/18"] == ("near_copy_of_evaluation_image", "a/8")
    assert dropped["b/2"] == ("near_copy_of_image", "a/5")

    rows = read_manifest(tmp_path / "corpus").to_pylist()
    ids = [r["sample_id"] for r in rows]
    assert ids != sorted(ids)
    assert set(ids) == {f"a/{i}" for i in range(8)} | {"b/1"}
    assert [r["shard"] for r in rows] == ["shard-00000.tar"] * 4 + ["shard-00001.tar"] * 4 + ["shard-00002.tar"]
    before = {row["sample_id"]: row for name in ("a", "b") for row in read_manifest(tmp_path / name).to_pylist()}
    for row in rows:
        old = before[row["sample_id"]]
        places = (("corpus", row), (old["source"], old))
        new, stored = (ShardReader(tmp_path / d).read(r["shard"], r["offset"], r["size"]) for d, r in places)
        assert new == stored


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


@pytest.mark.parametrize(("setting", "kept"), [("keep", 3), ("drop", 2)])
def test_doubtful_landmarks_stay_unless_asked(tmp_path: Path, setting: str, kept: int) -> None:
    write_faces(tmp_path / "a", [(photo(0), {}), (photo(1), {"landmark_flag": "scale"}), (photo(2), {})])
    params = CORPUS.model_copy(update={"flagged": setting})
    counts, _ = build_corpus(sources("a"), params, tmp_path, tmp_path / "corpus", shard_size=3)
    assert (counts["kept"], counts["dropped"]) == (kept, {} if kept == 3 else {"doubtful_landmarks": 1})


def test_caps_per_person_and_source_are_random_samples(tmp_path: Path) -> None:
    """20 photos of two people and 4 of nobody known; the caps come one after the other."""
    rows = [(photo(i), {"identity": f"p{i % 2}"}) for i in range(20)] + [(photo(30 + i), {}) for i in range(4)]
    write_faces(tmp_path / "a", rows)
    write_faces(tmp_path / "b", [(photo(60 + i), {"identity": "p0"}) for i in range(5)])
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
    with pytest.raises(SsferError, match="no source feeds the corpus, .* set 'corpus: true' of one in params.yaml$"):
        build_corpus(sources("a", without="a"), CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)


def test_optional_source_that_is_absent_is_named(tmp_path: Path) -> None:
    write_two_sources(tmp_path)
    a, gone = sources("a", "gone")
    gone = gone.model_copy(update={"labeled": False, "optional": True})
    counts, fate = build_corpus([a, gone], CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)
    assert counts["absent"] == ["gone"]
    write_report(counts, fate, tmp_path, tmp_path / "page", 0)
    assert "Absent, so without a face in the corpus: gone." in (tmp_path / "page/index.html").read_text()
    a = a.model_copy(update={"corpus": False})
    with pytest.raises(SsferError, match=r"no source feeds the corpus, .* or add what is absent \(gone\) and run: dvc"):
        build_corpus([a, gone], CORPUS, tmp_path, tmp_path / "corpus", shard_size=4)


def test_stage_keeps_planted_copies_out(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    from stages.corpus import main

    params = load_params(project / "params.yaml")
    for source in params.data.sources:
        build_faces(source, render_once(tmp_path_factory), project / "data/faces" / source.name, params.align)
    main()
    counts = read_metrics("corpus", project / "metrics")
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
