"""The page of what was left out of the corpus: counts, the table of rows, pictures only when asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssfer.core.images import data_uri
from ssfer.formats.shards import PLACE, ShardReader
from ssfer.report.corpus_page import write_report
from tests.support.face_sets import photo, write_faces


def test_page_counts_what_was_left_out_and_shows_faces_only_when_asked(tmp_path: Path) -> None:
    rows = write_faces(tmp_path / "faces/a", [(photo(i), {}) for i in range(6)])
    reasons = ["", "evaluated_on", "low_score", "low_score", "low_score", "near_copy_of_image"]
    fate = rows.select(["source", "sample_id", *PLACE]).append_column("reason", pa.array(reasons))
    fate = fate.append_column("copy_of", pa.array([None] * 5 + ["a/0"], pa.string()))
    dropped = {"evaluated_on": 1, "low_score": 3, "near_copy_of_image": 1}
    by_source = {"a": {"considered": 6, "kept": 1, "dropped": dropped}}
    counts = {"considered": 6, "kept": 1, "kept_by_source": {"a": 1}, "dropped": dropped, "by_source": by_source}
    write_report(counts, fate, tmp_path / "faces", tmp_path / "report", examples=0)
    page = (tmp_path / "report/index.html").read_text()
    assert "<strong>1</strong> of 6 faces (16.7%)" in page
    assert "<td>low score</td><td>3</td>" in page
    assert "<td>over identity cap</td><td>0</td>" in page
    assert "<img" not in page
    table = pq.read_table(tmp_path / "report/dropped.parquet").to_pylist()
    assert [r["sample_id"] for r in table] == [f"a/{i}" for i in range(1, 6)]
    assert table[4] == {"source": "a", "sample_id": "a/5", "reason": "near_copy_of_image", "copy_of": "a/0"}

    write_report(counts, fate, tmp_path / "faces", tmp_path / "report", examples=2)
    page = (tmp_path / "report/index.html").read_text()
    assert page.count("<img") == 2 + 2, "two of three low scores and a pair; nothing that is evaluated on"
    assert "Do not pass this page on" in page
    original = rows.to_pylist()[0]
    data = ShardReader(tmp_path / "faces/a").read(original["shard"], original["offset"], original["size"])
    assert data_uri(data) in page, "what a/5 copies"
