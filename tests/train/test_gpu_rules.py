"""Every training stage under CUDA's rules for devices, without one: no mixed devices, no waiting within a step."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.core.process import Preempted, StopRequest
from ssfer.data.split import load_split
from ssfer.evaluation.inference import eval_batches
from ssfer.methods.registry import METHODS
from ssfer.stages.common import split_dataset
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.robustness import run_robustness
from ssfer.stages.semisup import run_semisup
from ssfer.train.device import Machine
from ssfer.train.distributed import follow_parameters
from ssfer.train.step import Step
from tests.support import factory, small_resnet
from tests.support.pretend_gpu import Gpu, OnGpu, pretended_gpu
from tests.support.stage_runs import make_project, tensors

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
ON_GPU: dict[str, Any] = {"device": "cuda", "compile": False}
ALONE: dict[str, Any] = {"baselines": []}
WARM = 2  # steps in which constants may be copied to the device
TYPICAL = ("ema_teacher", "leaf", "sitfer")  # an average, the contrast of a part of a batch, a memory


@pytest.fixture(scope="module", params=["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a project that is fine-tuned, and the sections that choose its backbone."""
    root = tmp_path_factory.mktemp("gpu") / "project"
    network: dict[str, Any] = {}
    if request.param == "resnet":
        network = {
            "model": {"backbone": small_resnet.NAME, "img_size": 16},
            "pretrain": {"epochs": 0, "warmup_epochs": 0},
        }
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        for run in (run_pretrain, run_finetune):
            run(factory.tiny_params(finetune=ALONE, **network))
    return root, network


@pytest.fixture
def project(finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Work in a copy of that project; return the sections that choose its backbone."""
    root, network = finished
    shutil.copytree(root, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    return network


def waits_of(run: Any, machine: dict[str, Any] = ON_GPU, **sections: Any) -> Counter[str]:
    """Run a stage on the pretended GPU; return what made the host wait within its steps, but the first ones."""
    found: Counter[str] = Counter()
    with pretended_gpu() as gpu, pytest.MonkeyPatch.context() as patch:
        for name in ("gradients", "update"):
            patch.setattr(Step, name, counted(getattr(Step, name), gpu, found))
        run(factory.tiny_params(machine=ON_GPU | machine, **sections))
    return found


def counted(work: Any, gpu: Gpu, found: Counter[str]) -> Any:
    def counting(self: Step, step: int, *args: Any) -> Any:
        if step < WARM:
            return work(self, step, *args)
        with gpu.counted() as waits:
            out = work(self, step, *args)
        found.update(waits)
        return out

    return counting


def test_what_makes_the_host_wait_is_counted_and_mixed_devices_are_refused() -> None:
    """The check itself: it would be worth nothing if it saw nothing."""
    with pretended_gpu() as gpu:
        here = torch.arange(6.0)
        there = here.to("cuda")
        assert isinstance(there + 1, OnGpu) and (there + 1).device == torch.device("cuda", 0)
        with gpu.counted() as waits:
            there[there > 2]
            there.sum().item()
            bool((there > 2).all())
            torch.bincount(there.long())
            torch.tensor([1, 2], device="cuda")
            there[torch.tensor([0])]
            there.cpu()
            there.to("cpu", non_blocking=True)
            (there * 2).where(there > 2, 0.0)
        assert sorted(waits) == [
            "__bool__", "bincount", "boolean index", "copied to the device", "copied to the host",
            "index copied to the device", "item",
        ]  # fmt: skip
        assert set(waits.values()) == {1}
        with pytest.raises(RuntimeError, match=r"expected all tensors on one device: add got host tensors \[\(6,\)\]"):
            there + here
    assert not torch.cuda.is_available()


def test_pretraining_never_waits(project: dict[str, Any]) -> None:
    if not project:  # other networks are not pretrained
        assert not waits_of(run_pretrain)


@pytest.mark.parametrize(
    "facemix", [{}, {"kappa": "psnr"}, {"kappa": "ssim"}, {"kappa": "fsim"}, {"mode": "mixup"}], ids=str
)
def test_finetuning_never_waits(facemix: dict[str, Any], project: dict[str, Any]) -> None:
    assert not waits_of(run_finetune, finetune={**ALONE, "ema_decay": 0.9, "facemix": facemix}, **project)


@pytest.mark.parametrize(
    "method", [name if name in TYPICAL else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_no_method_waits(method: str, project: dict[str, Any]) -> None:
    sections: dict[str, Any] = {"finetune": ALONE, "semisup": {"method": method}, **project}
    assert not waits_of(run_semisup, **sections)
    with pretended_gpu():
        for run in (run_evaluate, run_robustness):
            run(factory.tiny_params(machine=ON_GPU, **sections))


@pytest.mark.parametrize(
    "sections",
    [
        {"semisup": {"imbalance": {"distribution_alignment": True, "class_thresholds": True, "logit_adjustment": 1.0}}},
        {
            "semisup": {"method": "sitfer"},
            "methods": {"sitfer": {"memory": {"init": "lazy", "unlabeled_slots": 5, "neighbors": 3}, "lambda_c": 0.5}},
        },
        {
            "semisup": {"method": "sitfer"},
            "methods": {"sitfer": {"fusion": "scores", "memory": {"rule": "class_max"}}},
        },
    ],
    ids=["imbalance", "memory", "scores"],
)
def test_no_option_waits(sections: dict[str, Any], project: dict[str, Any]) -> None:
    assert not waits_of(run_semisup, {"max_batch": 4, "augment": "device"}, finetune=ALONE, **sections, **project)


@pytest.mark.parametrize("method", ["ada_cm", "leaf", "sitfer"])
def test_in_float32_the_weights_are_the_cpus_but_for_rounding(method: str, project: dict[str, Any]) -> None:
    """What a GPU computes in another way, such as the contrast of some images of a batch, is the same."""
    sections: dict[str, Any] = {"finetune": ALONE, "semisup": {"method": method}, **project}
    sections["methods"] = {
        "leaf": {"k_max": 2, "experts": 4, "threshold": 0.4},
        "ada_cm": {"threshold": 0.4},
        "sitfer": {"threshold": 0.4, "memory": {"unlabeled_slots": 5}},
    }
    run_semisup(factory.tiny_params(**sections))
    cpu = tensors(Path("data/weights/semisup"))
    waits_of(run_semisup, {"precision": "fp32"}, **sections)
    gpu = tensors(Path("data/weights/semisup"))
    assert max((cpu[k].double() - gpu[k].double()).abs().max().item() for k in cpu) < 1e-4


@pytest.mark.parametrize("method", TYPICAL)
def test_a_resumed_run_goes_on_with_the_same_bits_and_its_state_on_the_device(
    method: str, project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = factory.tiny_params(machine=ON_GPU, finetune=ALONE, semisup={"method": method}, **project)
    with pretended_gpu():
        run_semisup(params)
    whole = tensors(Path("data/weights/semisup"))
    with pretended_gpu(), pytest.raises(Preempted), monkeypatch.context() as patch:
        interrupt(patch, at=5)
        run_semisup(params)
    seen: set[str] = set()

    def looked_at(optimizer: torch.optim.Optimizer) -> None:
        follow_parameters(optimizer)
        seen.update(f"{k} {v.device}" for state in optimizer.state.values() for k, v in state.items())

    monkeypatch.setattr("ssfer.train.distributed.follow_parameters", looked_at)
    with pretended_gpu():
        run_semisup(params)
    assert seen == {f"{name} cuda:0" for name in ("step", "exp_avg", "exp_avg_sq")}
    again = tensors(Path("data/weights/semisup"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def interrupt(patch: pytest.MonkeyPatch, at: int) -> None:
    """Ask a run to stop when this step begins; signals stay as they are."""
    set_lr = Step.set_lr

    def asked(self: Step, step: int) -> float:
        if step == at:
            stop.number = signal.SIGTERM
        return set_lr(self, step)

    stop = StopRequest()
    patch.setattr("ssfer.train.loop.StopRequest", lambda: stop)
    patch.setattr(StopRequest, "__enter__", lambda self: self)
    patch.setattr(StopRequest, "__exit__", lambda self, *args: None)
    patch.setattr(Step, "set_lr", asked)


def test_inference_hands_batches_over_without_waiting(project: dict[str, Any]) -> None:
    params = factory.tiny_params(machine=ON_GPU | {"eval_batch_size": 5}, **project)
    faces = split_dataset(load_split(), "labeled", params)
    with pretended_gpu() as gpu:
        machine = Machine(params.machine)
        for _ in range(2):  # constants are copied to the device in the first round
            with gpu.counted() as waits:
                batches = list(eval_batches(faces, machine=machine, model=params.model))
    assert not waits
    assert len(batches) == 4 and all(isinstance(value, OnGpu) for batch in batches for value in batch.values())


def test_a_host_tensor_in_a_step_is_found(project: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that most methods had once: a constant made on the host in each step."""

    def normalize(images: Tensor, mean: Any, std: Any) -> Tensor:
        return (images.float() / 255 - torch.tensor(mean, device=images.device).view(1, 3, 1, 1)).contiguous()

    monkeypatch.setattr("ssfer.train.step.normalize", normalize)
    waits = waits_of(run_finetune, finetune=ALONE, **project)
    assert any("copied to the device" in what for what in waits)
