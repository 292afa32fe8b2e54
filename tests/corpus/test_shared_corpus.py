"""Profile corpus-1.2m on imitations of its data sets: one corpus for four benchmarks, then one encoder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.config.profiles import resolve
from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.core.places import ENCODER
from ssfer.core.yaml import round_trip
from ssfer.formats.manifest import read_manifest
from ssfer.formats.metrics import read_metrics
from ssfer.formats.shards import ShardReader
from ssfer.stages.align import run_align
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.semisup import run_semisup
from ssfer.stages.split import run_split
from tests.support.six_sources import KEPT, PLANTED, TESTED, write_six_sources

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ("ferplus", "rafdb", "affectnet7", "affectnet8")
TINY = """
data:
  sources+:
    - {name: ferplus, counts: any}
    - {name: rafdb, counts: any}
    - {name: affectnet, counts: any}
    - {name: affectnet-automatic}
    - {name: casia-webface}
    - {name: celeba, counts: any}
    - {name: vggface2}
align: {detector: mtcnn, size: 32}
corpus: {min_side: 0, min_score: 0.0}
split: {labeled_fraction: 0.5, val_fraction: 0.0}
model: {img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}
pretrain: {epochs: 2, warmup_epochs: 0, batch_size: 32, decoder_embed_dim: 16, decoder_num_heads: 2, decoder_depth: 1}
finetune: {epochs: 1, epochs_few_labels: 1, warmup_epochs: 0, batch_size: 8, baselines: []}
semisup: {epochs: 1, batch_size: 8}
machine: {device: cpu, num_workers: 0, threads: 1}
tracking: {enabled: false}
"""


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the imitated data sets, their faces, and a profile that makes everything tiny."""
    root = tmp_path_factory.mktemp("six_sources")
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copy(ROOT / "params.yaml", root)
    (root / "profiles/tiny.yaml").write_text(TINY)
    write_six_sources(root / "data/raw/corpus-1.2m")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        write_params(root, "rafdb")
        run_align(load_params())
    return root


@pytest.fixture
def imitation(project: Path, aligned: Path) -> Path:
    """A copy of `aligned` to work in, with the settings of benchmark RAF-DB."""
    for name in ("data", "metrics", "profiles"):
        shutil.copytree(aligned / name, project / name, dirs_exist_ok=True)
    write_params(project, "rafdb")
    return project


def greys(folders: list[Path], rows: list[dict]) -> np.ndarray:
    """Return the stored crops as (n, S * S) rows of grey values with mean 0 and norm 1."""
    data = [ShardReader(f).read(r["shard"], r["offset"], r["size"]) for f, r in zip(folders, rows, strict=True)]
    crops = np.stack([np.asarray(Image.open(BytesIO(d)).convert("L"), np.float64).ravel() for d in data])
    crops -= crops.mean(axis=1, keepdims=True)
    return crops / np.linalg.norm(crops, axis=1, keepdims=True)


def write_params(project: Path, benchmark: str) -> None:
    document, _ = resolve([benchmark, "corpus-1.2m", "tiny"])
    with open(project / "params.yaml", "w") as file:
        round_trip().dump(document, file)


def build_corpus(benchmark: str) -> dict:
    """Run stage corpus with a benchmark's settings; return its counts."""
    from stages.corpus import main

    shutil.copy(ROOT / "params.yaml", Path())
    write_params(Path(), benchmark)
    main()
    return read_metrics("corpus")


def ids() -> list[str]:
    return read_manifest(Path("data/corpus"))["sample_id"].to_pylist()


def test_counts_are_right_and_no_evaluation_image_is_inside(imitation: Path) -> None:
    counts = build_corpus("rafdb")
    assert counts["kept_by_source"] == KEPT
    assert counts["considered"] == sum(KEPT.values()) + sum(TESTED.values()) + PLANTED
    assert counts["dropped"]["evaluated_on"] == sum(TESTED.values())
    assert counts["dropped"]["exact_copy_of_evaluation_image"] == PLANTED // 2
    assert counts["dropped"]["near_copy_of_evaluation_image"] == PLANTED // 2
    align = read_metrics("align", imitation / "metrics")
    assert align["vggface2"]["left_out"] == {"over_import_max": 8}

    faces = imitation / "data/faces"
    tested = [row for name in TESTED for row in read_manifest(faces / name).to_pylist() if row["usage"] == "test"]
    kept = read_manifest(imitation / "data/corpus").to_pylist()
    assert len(tested) == sum(TESTED.values())
    for key in ("sample_id", "pixel_sha256"):
        assert not {row[key] for row in tested} & {row[key] for row in kept}
    crops = [greys([imitation / "data/corpus"] * len(kept), kept), greys([faces / r["source"] for r in tested], tested)]
    alike = (crops[0] @ crops[1].T).max()
    assert alike < 0.9, "no crop of the corpus looks like one that is evaluated on"

    first = ids()
    build_corpus("affectnet7")
    assert ids() == first, "the same corpus whichever benchmark comes first"


def test_what_is_absent_is_said_with_the_count_that_is_left(
    imitation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = imitation / "data/raw/corpus-1.2m"
    for name in ("celeba", "casia-webface", "ferplus", "affectnet"):  # of the six that may be absent
        shutil.rmtree(raw / name)
    run_align(load_params())
    counts = build_corpus("rafdb")
    absent = ["ferplus", "affectnet", "casia-webface", "celeba"]
    assert counts["absent"] == absent
    told = capsys.readouterr()
    assert (
        f"align: absent from data/raw/corpus-1.2m: {', '.join(absent)} (optional); 3 sources with 66 images" in told.err
    )
    assert f"faces kept, without {', '.join(absent)}" in told.out
    shutil.rmtree(raw / "rafdb")
    with pytest.raises(SsferError, match="source 'rafdb' expects its data at .*rafdb, found nothing there"):
        run_align(load_params())


def test_all_absent_is_one_sentence(imitation: Path) -> None:
    shutil.rmtree(imitation / "data/raw/corpus-1.2m")
    params = load_params()
    unlabeled = tuple(s for s in params.data.sources if not s.labeled)
    params = params.model_copy(update={"data": params.data.model_copy(update={"sources": unlabeled})})
    with pytest.raises(
        SsferError, match=r"none of the 6 sources of params.yaml is in data/raw/corpus-1.2m \(ferplus, "
    ):
        run_align(params)


def shell(project: Path, command: str) -> str:
    """Run a command in the project as a user does, with ssfer and the stages of this repository; return its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(project)}
    ran = subprocess.run(["bash", "-ec", command], cwd=project, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_dvc_makes_corpus_and_encoder_once(imitation: Path) -> None:
    """One command makes them; with another benchmark's settings DVC finds nothing to do but to look."""
    pytest.importorskip("dvc")
    shutil.rmtree(imitation / "data/faces")
    shutil.copy(ROOT / "params.yaml", imitation)
    start = "git init -q && dvc init -q && git add params.yaml && git -c user.name=t -c user.email=t@t commit -qm t"
    shell(imitation, start)
    command = "git checkout -q params.yaml && python -m ssfer profile {} corpus-1.2m tiny --write && dvc repro pretrain"
    shell(imitation, command.format("rafdb"))
    counts = read_metrics("corpus", imitation / "metrics")
    assert counts["kept_by_source"] == KEPT
    encoder = imitation / "data/weights/pretrain/encoder.safetensors"
    before = (encoder.read_bytes(), encoder.stat().st_mtime_ns)
    for benchmark in ("ferplus", "affectnet7", "affectnet8"):
        told = shell(imitation, command.format(benchmark))
        for stage in ("align", "corpus", "pretrain"):
            assert f"Stage '{stage}' didn't change, skipping" in told, (benchmark, stage)
        assert (encoder.read_bytes(), encoder.stat().st_mtime_ns) == before


def test_four_benchmarks_go_on_from_one_encoder(imitation: Path) -> None:
    build_corpus("rafdb")
    run_pretrain(load_params())
    encoder = ENCODER.read_bytes()
    for benchmark, classes in zip(BENCHMARKS, (8, 7, 7, 8), strict=True):
        shutil.copy(ROOT / "params.yaml", imitation)
        write_params(imitation, benchmark)
        params = load_params()
        split = run_split(params)
        tested = TESTED[benchmark.rstrip("78")] - 2 * (benchmark == "affectnet7")  # contempt is none of the seven
        assert (split["test"], len(split["per_class"])) == (tested, classes)
        run_finetune(params)
        run_semisup(params)
        assert run_evaluate(params)["test_images"] == tested
        assert ENCODER.read_bytes() == encoder
