"""ssfer.core.device: which device computes; one sentence for each that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssfer.core import device
from ssfer.core.device import choose_device, device_errors, driver_version, exact_float32, hidden_gpu
from ssfer.core.errors import SsferError

DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\nGCC version: 12"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Let torch see so many GPUs."""

    def see(count: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return see


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let a driver be loaded."""
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(device, "DRIVER_FILE", tmp_path / "version")


def test_auto_is_a_gpu_where_there_is_one(gpus) -> None:
    gpus(0)
    assert choose_device("auto") == torch.device("cpu")
    gpus(2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:1") == torch.device("cuda", 1)


def test_each_process_of_a_machine_takes_its_own_gpu(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 3)
    with pytest.raises(SsferError, match="4 processes were started on this machine .* set it to cuda"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("setting", "count", "words"),
    [
        ("cuda:2", 2, "machine.device is 'cuda:2' but torch sees 2 GPUs, numbered from 0"),
        ("cuda", 0, "machine.device is 'cuda' but no NVIDIA driver is loaded here; set it to auto or cpu"),
        ("cuda:0", 0, "machine.device is 'cuda:0' but no NVIDIA driver is loaded here"),
        ("mps", 0, "machine.device is 'mps' but torch finds no Apple GPU; set it to auto or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(
    setting: str, count: int, words: str, gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(count)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SsferError) as error:
        choose_device(setting)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_more_processes_than_gpus_are_refused(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SsferError, match=r"process 1 of 2 .* sees 1 GPU; start at most 1 .*--nproc-per-node 1"):
        choose_device("auto")


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_torch_cannot_see_is_warned_of_unless_it_is_hidden(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert driver_version() == "570.133.20"
    warning = hidden_gpu(torch.device("cpu"))
    assert warning is not None and "(CUDA 13.0) cannot use NVIDIA driver 570.133.20; install a torch" in warning
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hidden_gpu(torch.device("cpu")) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpus(1)
    assert hidden_gpu(torch.device("cpu")) is None, "machine.device: cpu where a GPU works is a choice"


@pytest.mark.parametrize(
    ("driver", "built", "remedy"),
    [
        ("579.9", "13.0", "install a torch for it (make setup TORCH=cuda12), or driver 580 or newer"),
        ("525.60.13", "13.2", "install a torch for it (make setup TORCH=cuda12), or driver 580 or newer"),
        ("524.1", "13.0", "update the driver or install"),
        ("580.65.06", "13.2", "update the driver or install"),
        ("450.1", "12.8", "update the driver or install"),
        (None, "13.0", "cannot use the NVIDIA driver here; update the driver or install"),
    ],
)
def test_a_driver_too_old_for_cuda_13_names_the_build_for_cuda_12(
    driver: str | None, built: str, remedy: str, gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(device, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(device, "driver_version", lambda: driver)
    warning = hidden_gpu(torch.device("cpu"))
    assert warning is not None and remedy in warning and "\n" not in warning
    with pytest.raises(SsferError) as error:
        choose_device("cuda")
    assert remedy in str(error.value)


def test_errors_of_a_gpu_are_sentences_and_others_are_left_alone() -> None:
    with pytest.raises(SsferError, match="too little memory; end other programs"), device_errors():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(SsferError, match=r"the GPU failed \(CUDA error: unspecified launch failure\)"), device_errors():
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    with pytest.raises(RuntimeError, match="bug"), device_errors():
        raise RuntimeError("bug")


def test_exact_float32_forbids_tf32_for_a_while() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with exact_float32():
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before
