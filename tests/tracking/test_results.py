"""Which stages come before which, and which files hold their results."""

from __future__ import annotations

from pathlib import Path

from ssfer.tracking.results import result_files, stages_before

PIPELINE = """
stages:
  faces: {cmd: x, outs: [data/raw/demo: {push: false}]}
  align: {cmd: x, deps: ["data/raw/${data.raw}"], outs: [data/faces], metrics: [metrics/align.json: {cache: false}]}
  train: {cmd: x, deps: [data/faces/shard.tar], metrics: [metrics/train.json], plots: [metrics/train.csv: {x: epoch}]}
  other: {cmd: x, deps: [data/facesets]}
  report: {cmd: x, deps: [metrics/train.json]}
"""


def test_stages_before_follow_dependencies_through_all_kinds_of_outputs(tmp_path: Path) -> None:
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_text(PIPELINE)
    assert stages_before("report", "demo", pipeline) == ["faces", "align", "train"]
    assert stages_before("report", "real", pipeline) == ["align", "train"]
    assert stages_before("other", "demo", pipeline) == []


def test_result_files_are_metrics_and_curves_that_are_there(project: Path) -> None:
    Path("dvc.yaml").write_text(PIPELINE)
    Path("metrics").mkdir()
    Path("metrics/train.json").write_text("{}")
    assert result_files("train") == [Path("metrics/train.json")]
    Path("metrics/train.csv").write_text("epoch\n")
    assert result_files("train") == [Path("metrics/train.json"), Path("metrics/train.csv")]
    assert result_files("faces") == []
