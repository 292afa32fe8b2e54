"""Looking at pretraining while it runs: it shows the truth and changes nothing."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.core.progress import Cost, Progress
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.evaluation.reconstruction import reconstruct, reconstruction_png
from ssfer.methods.mae import MAE
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.vit import build_mae
from ssfer.stages.watch import REPORTS, Watch
from ssfer.train.device import Machine
from ssfer.train.metrics_history import Pace
from tests.support import factory
from tests.support.launches import Launch, run_stage
from tests.support.stage_runs import change, make_project, run_here, tensors
from tests.support.training import fit_method

PICTURES = ["reconstruction_epoch_0001.png", "reconstruction_epoch_0002.png"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    folder = tmp_path_factory.mktemp("faces")
    factory.write_faces(folder, "faces", [i % 3 for i in range(24)])
    return FaceDataset([folder], classes=factory.CLASSES, cache_gib=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_project(tmp_path / "project", pretrain={"epochs": 2})
    return tmp_path / "project"


def make_mae(params: Params, norm_pix_loss: bool = True) -> MaskedAutoencoder:
    torch.manual_seed(3)
    return build_mae(params.model, params.pretrain.model_copy(update={"norm_pix_loss": norm_pix_loss})).eval()


def test_watching_changes_neither_weights_nor_metrics(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root, tmp_path / "watched")
    change(root, "tracking", "watch_every", 1000)
    change(tmp_path / "watched", "tracking", "watch_every", 1)
    change(tmp_path / "watched", "tracking", "probe", True)
    for project in (root, tmp_path / "watched"):
        run_here(project, "pretrain", monkeypatch)
    ours, theirs = (tensors(p / "data/weights/pretrain") for p in (tmp_path / "watched", root))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in ("metrics/pretrain.json", "metrics/curves/pretrain.csv"):
        assert (root / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "watched" / REPORTS).iterdir()) == PICTURES
    assert [p.name for p in (root / REPORTS).iterdir()] == PICTURES[1:]  # the last epoch is always looked at


def test_last_picture_is_the_one_beside_the_weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / REPORTS).mkdir(parents=True)
    (root / REPORTS / "reconstruction_epoch_0600.png").touch()  # of an earlier, longer run
    run_here(root, "pretrain", monkeypatch)
    assert [p.name for p in (root / REPORTS).iterdir()] == PICTURES[1:]
    last = (root / REPORTS / PICTURES[1]).read_bytes()
    assert last == (root / "data/weights/pretrain/reconstruction.png").read_bytes()


def test_probe_is_told_on_the_way(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root, "tracking", "probe", True)
    run_here(root, "pretrain", monkeypatch)
    labels, held = (len(load_split()[part]) for part in ("labeled", "valid"))
    assert f"epoch 2: a linear probe on {labels} labels gets" in (told := capsys.readouterr().err)
    assert f"of {held} held-out faces right" in told


def test_probe_without_labels_to_probe_on_is_refused_before_training(
    root: Path, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    params = factory.tiny_params(tracking={"probe": True})
    factory.change_split(valid=[])
    with pytest.raises(SsferError, match=r"needs held-out labels to be measured on; raise split\.val_fraction"):
        Watch(params, faces, Machine(params.machine))
    Path("data/splits/split.json").unlink()
    with pytest.raises(SsferError, match="needs the labeled faces of a split and there is none yet; run dvc repro spl"):
        Watch(params, faces, Machine(params.machine))
    Watch(factory.tiny_params(), faces, Machine(params.machine))  # without a probe nobody needs a split


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_perfect_prediction_is_shown_as_the_original(
    norm_pix_loss: bool, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = factory.tiny_params()
    mae, size = make_mae(params, norm_pix_loss), params.model.img_size
    images = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))
    truth = mae.target(normalize(images, params.model.mean, params.model.std))
    monkeypatch.setattr(mae, "decode", lambda tokens, restore: truth)
    _, made, original = reconstruct(mae, images, params.model, 0.75)
    assert (original * 255 - images).abs().max() < 0.01
    assert (made - original).abs().max() < 1e-4
    monkeypatch.setattr(mae, "decode", lambda tokens, restore: truth + 1)
    assert (reconstruct(mae, images, params.model, 0.75)[1] - original).abs().max() > 0.01


def test_the_encoder_saw_a_quarter_and_the_rest_is_grey(faces: FaceDataset) -> None:
    params = factory.tiny_params()
    mae, size, p = make_mae(params), params.model.img_size, params.model.patch_size
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))
    seen, made, original = reconstruct(mae, images, params.model, 0.75)
    same = (seen == original).unfold(2, p, p).unfold(3, p, p).all(dim=(1, 4, 5))  # (3, grid, grid)
    assert same.sum(dim=(1, 2)).tolist() == [(size // p) ** 2 // 4] * 3
    hidden = ~same.repeat_interleave(p, 1).repeat_interleave(p, 2)
    mean = torch.tensor(params.model.mean)
    torch.testing.assert_close(seen.permute(0, 2, 3, 1)[hidden], mean.expand(int(hidden.sum()), 3))
    assert torch.equal(made.permute(0, 2, 3, 1)[~hidden], original.permute(0, 2, 3, 1)[~hidden])


def test_picture_has_three_rows_of_enlarged_faces_and_leaves_the_mode_alone(faces: FaceDataset) -> None:
    params = factory.tiny_params()
    mae = make_mae(params).train()
    data = reconstruction_png(mae, [faces.image(i) for i in range(4)], params.model, 0.75)
    zoomed = params.model.img_size * (96 // params.model.img_size)
    assert Image.open(io.BytesIO(data)).size == (4 * zoomed, 3 * zoomed)
    assert mae.training


def test_only_the_first_process_writes_pictures(
    root: Path, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    params = factory.tiny_params()
    machine, method = Machine(params.machine), MAE(make_mae(params), 0.75)
    for rank in (1, 0):
        machine.rank = rank
        assert Watch(params, faces, machine)(method, 1) == {}
        assert (root / REPORTS / PICTURES[0]).exists() == (rank == 0)


def test_two_processes_probe_what_one_does_and_the_first_says_it(root: Path, tmp_path: Path) -> None:
    change(root, "tracking", "probe", True)
    shutil.copytree(root, tmp_path / "two")
    said = []
    for project, world in ((root, 1), (tmp_path / "two", 2)):
        launch = Launch(project, run_stage, "pretrain", world=world)
        assert launch.wait() == [0] * world, launch.errors(0)
        said.append([line for line in launch.errors(0).splitlines() if "linear probe" in line])
    assert said[0] == said[1] and len(said[0]) == 1
    assert launch.errors(1) == ""
    assert [p.name for p in (tmp_path / "two" / REPORTS).iterdir()] == PICTURES[1:]


class Log:
    """Stands where the tracker stands."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self.rows.append({"epoch": epoch, **values})


class Looks:
    every = 2

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, method: object, epoch: int) -> dict[str, float]:
        self.epochs.append(epoch)
        return {"seen": 1.0}


def test_speed_and_what_the_watcher_found_go_to_the_log_only(faces: FaceDataset, tmp_path: Path) -> None:
    params, log, looks = factory.tiny_params(), Log(), Looks()
    method = MAE(make_mae(params), 0.75)
    batches = StepBatches([Stream("ulb", faces, 8, {"w": Weak(params.model.img_size, 0.5)}, 1)], 3)
    run = fit_method(method, batches, params, tmp_path, cost=Cost(1e6, 1e9), tracker=log, watch=looks)
    assert looks.epochs == [2, 3]  # every second, and the last
    assert [set(row) for row in run.history] == [{"epoch", "lr", "loss", "grad_norm"}] * 3
    assert [row.get("seen") for row in log.rows] == [None, 1.0, 1.0]
    for row in log.rows:
        assert row["images_per_second"] > 0
        assert row["utilization"] == pytest.approx(row["images_per_second"] * 1e6 / 1e9)
        assert {"loss", "lr", "grad_norm"} <= set(row)


def test_pace_is_that_of_the_lap(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 3.0])
    monkeypatch.setattr("ssfer.train.metrics_history.time.monotonic", lambda: next(clock))
    pace = Pace(10, Cost(3.0, 1000.0))
    assert pace.lap(14, 50) == {"images_per_second": 100.0, "utilization": 0.3}
    assert pace.lap(18, 50) == {"images_per_second": 200.0, "utilization": 0.6}


def test_progress_tells_utilization_when_it_knows_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    for cost in (Cost(1.0, 1e-3), None):
        with Progress("train", 4, per_step=2, cost=cost) as progress:
            progress.advance(4)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("train: 4/4") and "% of matrix-product speed), in" in first
    assert "images/s, in" in second and "%" not in second


def test_stop_at_ends_early_on_the_schedule_of_the_longer_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root, tmp_path / "stopped")
    change(tmp_path / "stopped", "pretrain", "stop_at", 1)
    for project in (root, tmp_path / "stopped"):
        run_here(project, "pretrain", monkeypatch)
    whole, part = ((p / "metrics/curves/pretrain.csv").read_text().splitlines() for p in (root, tmp_path / "stopped"))
    assert len(whole) == 3 and part == whole[:2]


def test_stop_at_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(SsferError, match="stop_at 3 lies beyond the 2 epochs of the schedule"):
        factory.tiny_params(pretrain={"epochs": 2, "stop_at": 3})
