"""Several real processes train what one would: same samples, same curve, same snapshots; and fall together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batch_parts import number_of_parts, part_of_batch
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.methods.base import Batch, Method
from ssfer.methods.build import build_method
from ssfer.methods.facemix import FaceMix
from ssfer.methods.mae import MAE
from ssfer.models.vit import build_classifier, build_mae
from ssfer.stages.finetune import check_pairs
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.launches import Launch, run_stage, run_stage_until
from tests.support.stage_runs import change, make_project, run_here, tensors
from tests.support.training import fit_method

STEPS = {"mae": 20, "facemix": 8, "ema_teacher": 8}


class Noted(MAE):
    """MAE that notes which samples came, and in which pixels."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[list[tuple[int, float]]] = []

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        sums = batch["x_ulb_w"].double().sum(dim=(1, 2, 3)).tolist()
        self.seen.append(list(zip(batch["key_ulb"].tolist(), sums, strict=True)))
        return super().forward(batch)


def build(name: str, faces: Path, p: Params) -> tuple[Method, list[Stream]]:
    """Return a method and its streams; one epoch is one step, so that the history is the curve of the steps."""
    torch.manual_seed(0)
    weak = Weak(p.model.img_size, 0.5)
    dataset = FaceDataset([faces], classes=factory.CLASSES, cache_gib=1)
    if name == "mae":
        return Noted(build_mae(p.model, p.pretrain), 0.75), [Stream("ulb", dataset, 16, {"w": weak}, 1)]
    if name in ("facemix", "exploding"):
        kind = FaceMix if name == "facemix" else Exploding
        method: Method = kind(build_classifier(p.model, 3), p.finetune.facemix, p.model)
        return method, [Stream("lb", dataset, 16, {"": weak}, 1)]
    strong = Strong(p.model.img_size, 0.5, "rand-m9-mstd0.5-inc1", p.model.mean)
    method = build_method(build_classifier(p.model, 3), p.semisup, p.methods)
    streams = [Stream("ulb", dataset, 16, {"w": weak, "s": strong}, 1), Stream("lb", dataset, 8, {"": weak}, 2)]
    return method, streams


def train(name: str, root: Path, out: str, p: Params, snapshots: str | None = None, steps: int | None = None) -> None:
    """Train and keep in `root` what came of it: <out>.pt, and of each process the samples it saw."""
    method, streams = build(name, root / "faces", p)
    machine = Machine(p.machine)
    batches = StepBatches(streams, steps or STEPS.get(name, 6), machine.rank, machine.world)
    run = fit_method(method, batches, p, root / (snapshots or f"snapshots-{out}"))
    if isinstance(method, Noted):
        (root / f"{out}-seen-{machine.rank}.json").write_text(json.dumps(method.seen))
    if machine.rank == 0:
        torch.save({"history": run.history, "state": method.state_dict()}, root / f"{out}.pt")


def tiny(**machine: Any) -> Params:
    low = {"ema_teacher": {"threshold": 0.3}}  # so that pseudo-labels take part from the first step
    return factory.tiny_params(machine={"checkpoint_minutes": 1e9, **machine}, methods=low)


def train_three(root: Path) -> None:
    """Work of the launch with two processes."""
    for name in STEPS:
        train(name, root, f"{name}-two", tiny())
        train(name, root, f"{name}-two-parts", tiny(max_batch=6))
    train("mae", root, "mixed", tiny(), "mixed", steps=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process and two processes trained."""
    root = tmp_path_factory.mktemp("ranks")
    factory.write_faces(root / "faces", "faces", [i % 3 for i in range(20)])
    train("mae", root, "mixed", tiny(), "mixed", steps=3)
    two = Launch(root, train_three, root, world=2)
    for name in STEPS:
        train(name, root, f"{name}-one", tiny())
        train(name, root, f"{name}-parts", tiny(max_batch=6))
    assert two.wait() == [0, 0], two.errors(0) + two.errors(1)
    return root


def result(root: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(root / f"{name}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("kind", ["two", "parts", "two-parts"])
@pytest.mark.parametrize("name", list(STEPS))
def test_curve_of_two_processes_or_of_parts_is_that_of_one(trained: Path, name: str, kind: str) -> None:
    one, other = result(trained, f"{name}-one")["history"], result(trained, f"{name}-{kind}")["history"]
    assert len(one) == len(other) == STEPS[name]
    for figure in one[0]:
        a, b = ([row[figure] for row in history] for history in (one, other))
        np.testing.assert_allclose(b, a, rtol=1e-4, err_msg=figure)
    assert one[0]["loss"] - one[-1]["loss"] > 0.01  # something was learned


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], kind: str) -> None:
    """Compare all but the bias of attention's keys: softmax ignores it, and Adam steps along its rounding errors."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        pair = [found[key], value]
        if key.endswith("qkv.bias"):
            pair = [torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in pair]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5, msg=f"{kind} {key}")


@pytest.mark.parametrize("name", list(STEPS))
def test_weights_of_two_processes_are_those_of_one(trained: Path, name: str) -> None:
    one = result(trained, f"{name}-one")["state"]
    for kind in ("two", "two-parts"):
        assert_same_weights(result(trained, f"{name}-{kind}")["state"], one, kind)


def test_two_processes_together_see_exactly_the_samples_of_one(trained: Path) -> None:
    one, *two = (
        json.loads((trained / f"{name}.json").read_text())
        for name in ("mae-one-seen-0", "mae-two-seen-0", "mae-two-seen-1")
    )
    assert len(one) == 20
    for step, (whole, first, second) in enumerate(zip(one, *two, strict=True)):
        assert len(first) == len(second) == 8
        assert sorted(first + second) == sorted(whole), f"step {step}"
    assert len({tuple(map(tuple, batch)) for batch in one}) == 20  # every epoch has crops of its own


def test_two_processes_continue_the_run_of_one(trained: Path) -> None:
    one, mixed = (result(trained, name) for name in ("mae-one", "mixed"))
    losses = [[row["loss"] for row in found["history"][:8]] for found in (one, mixed)]
    assert len(losses[1]) == 8
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


class Exploding(FaceMix):
    """Its loss is not a number from the third step on, in the second process only."""

    calls = 0

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.calls += 1
        out = super().forward(batch)
        bad = self.calls > 2 and os.environ["RANK"] == "1"
        return {**out, "loss": out["loss"] * float("nan")} if bad else out


def train_exploding(root: Path) -> None:
    """Work of a launch; as every stage it ends with a sentence."""
    stage_main("finetune", lambda: train("exploding", root, "exploding", tiny(checkpoint_minutes=1e-9)))


def test_a_loss_that_explodes_in_one_process_stops_all_before_a_bad_snapshot(trained: Path) -> None:
    launch = Launch(trained, train_exploding, trained, world=2)
    launch.processes[0].join(60)
    launch.kill()
    assert launch.processes[0].exitcode == 2
    assert "\nfinetune: error: the loss became nan at step 2 with learning rate 0.001; last" in launch.errors(0)
    newest = Checkpoints(trained / "snapshots-exploding").load()
    assert newest is not None and newest["step"] == 2
    assert all(torch.isfinite(value).all() for value in newest["method"].values())


# --- cutting batches ---


@pytest.mark.parametrize(("size", "parts"), [(16, 1), (16, 2), (16, 4), (12, 3), (6, 6), (15, 5)])
def test_parts_make_up_the_batch_and_even_ones_keep_pairs_together(size: int, parts: int) -> None:
    cuts = [part_of_batch(size, part, parts) for part in range(parts)]
    assert sorted(np.concatenate(cuts)) == list(range(size))
    if size // parts % 2 == 0:
        assert all((cut + cut[::-1] == size - 1).all() for cut in cuts)
    if parts == 1:
        assert (cuts[0] == np.arange(size)).all()


@pytest.mark.parametrize(
    ("sizes", "limit", "parts"), [([64], None, 1), ([64], 64, 1), ([64], 63, 2), ([64], 2, 32), ([12, 4], 9, 2)]
)
def test_a_batch_is_cut_into_as_few_parts_as_fit(sizes: list[int], limit: int | None, parts: int) -> None:
    assert number_of_parts(sizes, limit) == parts


def test_a_limit_below_the_smallest_parts_is_refused() -> None:
    with pytest.raises(SsferError, match=r"max_batch 7 is too small: a process's 16 images .* parts of 8 at least"):
        number_of_parts([12, 4], 7)


def test_pairs_that_do_not_divide_over_the_processes_are_refused() -> None:
    check_pairs(32, 8)
    with pytest.raises(SsferError, match="the 15 pairs of finetune's batch of 30 do not divide over 2 processes"):
        check_pairs(30, 2)


# --- stages ---


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One project whose stages one process ran, and one where two did."""
    roots = {name: tmp_path_factory.mktemp(name) / "project" for name in ("one", "two")}
    for root in roots.values():
        make_project(root)
    for stage in ("pretrain", "finetune", "semisup"):
        two = Launch(roots["two"], run_stage, stage, world=2)
        with pytest.MonkeyPatch.context() as patch:
            run_here(roots["one"], stage, patch)
        assert two.wait() == [0, 0], two.errors(0) + two.errors(1)
    return roots


def test_stages_of_two_processes_write_what_one_writes(projects: dict[str, Path]) -> None:
    files = {name: sorted(p.relative_to(root) for p in root.rglob("*.*")) for name, root in projects.items()}
    kept = {name: [f for f in found if f.parts[0] in ("data", "metrics")] for name, found in files.items()}
    assert kept["one"] == kept["two"] and len(kept["one"]) > 15
    for stage in ("pretrain", "finetune", "semisup"):
        one, two = (tensors(root / "data/weights" / stage) for root in projects.values())
        assert_same_weights(two, one, stage)
        files = [root / f"metrics/curves/{stage}.csv" for root in projects.values()]
        curves = [np.genfromtxt(file, delimiter=",", names=True)["loss"] for file in files]
        np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_only_the_first_process_speaks(projects: dict[str, Path]) -> None:
    assert "semisup: " in (projects["two"] / "stdout-0").read_text()
    said = "".join((projects["two"] / name).read_text() for name in ("stdout-1", "stderr-1"))
    assert [line for line in said.splitlines() if not line.startswith("[Gloo]")] == []  # that is PyTorch 2.10's


@pytest.fixture
def unfinished(projects: dict[str, Path], tmp_path: Path) -> Path:
    """A project before its pretraining, with a snapshot every step."""
    shutil.copytree(projects["one"], tmp_path / "unfinished")
    change(tmp_path / "unfinished", "machine", "checkpoint_minutes", 1e-9)
    shutil.rmtree(tmp_path / "unfinished/data/weights/pretrain")
    return tmp_path / "unfinished"


def ends_like(root: Path, undisturbed: Path) -> None:
    """Launch again, and expect every bit and figure of the run that nothing disturbed."""
    change(root, "machine", "checkpoint_minutes", 100.0)
    again = Launch(root, run_stage, "pretrain", world=2)
    assert again.wait() == [0, 0], again.errors(0)
    assert "continues at" in again.errors(0)
    ours, theirs = (tensors(r / "data/weights/pretrain") for r in (root, undisturbed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in ("pretrain.json", "curves/pretrain.csv"):
        assert (root / "metrics" / name).read_bytes() == (undisturbed / "metrics" / name).read_bytes()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_launch_and_the_next_goes_on(
    unfinished: Path, projects: dict[str, Path], victim: int
) -> None:
    launch = Launch(unfinished, run_stage_until, "pretrain", 9, signal.SIGKILL, victim, world=2)
    statuses = launch.wait()
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] == 2
    last = launch.errors(1 - victim).splitlines()[-1]
    assert "error: another process of this launch has ended; last snapshot: step-0" in last
    assert "Traceback" not in launch.errors(1 - victim)
    assert not (unfinished / "data/weights/pretrain").exists()
    if victim == 0:
        ends_like(unfinished, projects["two"])


def test_a_signal_to_one_process_stops_all_at_the_same_step(unfinished: Path, projects: dict[str, Path]) -> None:
    launch = Launch(unfinished, run_stage_until, "pretrain", 9, signal.SIGUSR1, 1, world=2)
    assert launch.wait() == [128 + signal.SIGTERM, 128 + signal.SIGUSR1]
    assert "pretrain: stopped by SIGTERM at step 10 of 15" in launch.errors(0).splitlines()[-1]
    assert launch.errors(1) == ""
    ends_like(unfinished, projects["two"])


def test_evaluation_by_several_processes_is_refused(
    projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        run_here(projects["one"], "evaluate", monkeypatch)
    assert "evaluate: error: stage evaluate runs in one process" in capsys.readouterr().err


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SsferError, match="do not describe this launch; start several processes with torchrun"):
        Machine(tiny().machine)


@pytest.mark.slow
def test_torchrun_runs_a_stage_in_two_processes(projects: dict[str, Path], tmp_path: Path) -> None:
    """The command of the documentation, launcher included."""
    shutil.copytree(projects["one"], tmp_path / "project")
    shutil.rmtree(tmp_path / "project/data/weights/pretrain")
    env = {**os.environ, "PYTHONPATH": str(factory.ROOT), "DVC_ROOT": str(tmp_path / "project"), "SSFER_MLFLOW": "0"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "stages.pretrain"]
    done = subprocess.run(command, cwd=tmp_path / "project", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pretrain: loss") == 1
    ours, theirs = (tensors(r / "data/weights/pretrain") for r in (tmp_path / "project", projects["two"]))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


RESTARTED = """
import os, signal
from tests.support.launches import run_stage, run_stage_until
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    run_stage_until("pretrain", 9, signal.SIGKILL, rank=1)
run_stage("pretrain")
"""


@pytest.mark.slow
def test_torchrun_restarts_all_processes_which_continue(unfinished: Path, projects: dict[str, Path]) -> None:
    """One of two processes is killed once; with --max-restarts the launch ends like an undisturbed one."""
    (unfinished / "restarted.py").write_text(RESTARTED)
    env = {**os.environ, "PYTHONPATH": str(factory.ROOT), "DVC_ROOT": str(unfinished), "SSFER_MLFLOW": "0"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "restarted.py"]
    done = subprocess.run(command, cwd=unfinished, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "continues at" in done.stderr
    ours, theirs = (tensors(r / "data/weights/pretrain") for r in (unfinished, projects["two"]))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
