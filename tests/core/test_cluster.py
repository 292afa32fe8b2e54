"""ssfer.core.cluster without a running Ray: what cannot be joined is one sentence, and what Ray is told."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ssfer.core.cluster import Cluster
from ssfer.core.cluster_start import ray_cluster
from ssfer.core.errors import SsferError


class FakeRay(ModuleType):
    """Keeps how it was started."""

    def __init__(self, cpus: float = 2, error: Exception | None = None) -> None:
        super().__init__("ray")
        self.cpus, self.error = cpus, error
        self.started: tuple[str, dict[str, Any], dict[str, str]] | None = None
        self.ended = False

    def init(self, address: str, **options: Any) -> None:
        self.started = (address, options, dict(os.environ))
        if self.error:
            raise self.error

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": False}]

    def shutdown(self) -> None:
        self.ended = True


def install(monkeypatch: pytest.MonkeyPatch, address: str | None, ray: ModuleType) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def refusal(monkeypatch: pytest.MonkeyPatch, address: str | None, ray: FakeRay) -> str:
    install(monkeypatch, address, ray)
    with pytest.raises(SsferError) as refused, ray_cluster(2):
        pass
    return str(refused.value)


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379", "head:6379/x"])
def test_an_address_that_is_none_is_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    expected = f"RAY_ADDRESS is '{address}'; expected HOST:PORT of a running head"
    assert refusal(monkeypatch, address, ray).startswith(expected)
    assert ray.started is None


def test_an_address_where_nothing_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    told = refusal(monkeypatch, address, FakeRay())
    assert told.startswith(f"no Ray cluster answers at RAY_ADDRESS '{address}' (") and "ray start --head" in told
    assert refusal(monkeypatch, "no-such-host.invalid:6379", FakeRay()).startswith("no Ray cluster answers at")
    assert refusal(monkeypatch, "127.0.0.1:99999", FakeRay()).startswith("no Ray cluster answers at")


def test_a_cluster_that_refuses_and_one_without_cpus_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(error=RuntimeError("Version mismatch: Python 3.11 here.\nmore"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = refusal(monkeypatch, address, ray)
        assert told.startswith(
            f"the Ray cluster at '{address}' cannot be joined (Version mismatch: Python 3.11 here); run"
        )
        assert f"ray start --address={address}" in told
        assert "has no CPUs" in refusal(monkeypatch, address, FakeRay(cpus=0))
    assert "cannot be started on this machine (Version mismatch" in refusal(monkeypatch, None, ray)
    assert ray.ended


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(SsferError, match=r"machine\.cluster: ray needs the package ray \(extra 'cluster'\)"),
        ray_cluster(2),
    ):
        pass


def test_a_local_ray_is_for_this_machine_alone_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, before = FakeRay(), dict(os.environ)
    install(monkeypatch, None, ray)
    before.pop("RAY_ADDRESS", None)
    with ray_cluster(3) as cluster:
        assert str(cluster) == "Ray, 1 node, 2 CPUs"
    assert ray.started is not None and ray.ended
    address, options, environment = ray.started
    assert (address, options["num_cpus"], options["include_dashboard"]) == ("local", 3, False)
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "Ray listens on 127.0.0.1 then"
    assert environment["RAY_AUTH_MODE"] == "token" and len(environment["RAY_AUTH_TOKEN"]) == 64
    assert dict(os.environ) == before


def test_sigterm_ends_with_its_own_status_while_ray_works_and_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray, before = FakeRay(), signal.getsignal(signal.SIGTERM)
    ray.init = lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # type: ignore[method-assign]
    install(monkeypatch, None, ray)
    with pytest.raises(SystemExit) as ended, ray_cluster(1):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and ray.ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_too_little_shared_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Exception):
        pass

    def put(_: Any) -> None:
        raise Full("Failed to put object of 9000000000 bytes")

    ray = FakeRay()
    others = {name: type(name, (Exception,), {}) for name in ("RaySystemError", "RayError")}
    ray.exceptions = SimpleNamespace(ObjectStoreFullError=Full, **others)  # type: ignore[attr-defined]
    ray.put, ray.remote = put, lambda **_: lambda run: run  # type: ignore[attr-defined]
    install(monkeypatch, None, ray)
    with pytest.raises(SsferError, match=r"Ray's shared memory is too small .* --object-store-memory"):
        list(Cluster(1, 1, 0).map(max, 1, [2]))


def test_gpus_of_the_cluster_compute_unless_the_cpu_is_asked_for() -> None:
    cpus, gpus = Cluster(1, 4, 0), Cluster(2, 4, 8)
    assert [cpus.device("auto"), gpus.device("auto"), gpus.device("cpu"), gpus.device("cuda")] == [
        "cpu",
        "cuda",
        "cpu",
        "cuda",
    ]
    with pytest.raises(SsferError, match="'cuda' but the Ray cluster has no GPU; set it to auto or cpu"):
        cpus.device("cuda")
    with pytest.raises(SsferError, match=r"'cuda:1', but machine\.cluster is ray .* expected auto, cpu or cuda"):
        gpus.device("cuda:1")
