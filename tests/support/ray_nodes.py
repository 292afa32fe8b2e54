"""A real Ray of two nodes on this machine, and detectors that say which process they work in."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssfer.core import cluster_start
from ssfer.faces.detectors.base import Detection
from tests.support.rendered_photos import SlowDetector

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


@contextmanager
def two_nodes(gpus: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield Ray's cluster, at RAY_ADDRESS meanwhile, and its second node; each has one CPU, and `gpus` only by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", cluster_start._secret())  # Ray reads it once per process
        cluster = pytest.importorskip("ray.cluster_utils").Cluster()
        try:
            cluster.add_node(num_cpus=1, num_gpus=gpus, include_dashboard=False, **_ports())
            second = cluster.add_node(num_cpus=1, num_gpus=gpus, **_ports())
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster, second
        finally:
            cluster.shutdown()


def _ports() -> dict[str, int]:
    """Return free ports for a node's agents: with ports of its own choice Ray gives up after 15 s on a busy machine."""
    sockets = [socket.create_server(("", 0)) for _ in PORTS]
    found = {name: s.getsockname()[1] for name, s in zip(PORTS, sockets, strict=True)}
    for s in sockets:
        s.close()
    return found


class TellingDetector(SlowDetector):
    """Leaves an empty file <node>-<process> in a folder."""

    def __init__(self, folder: Path) -> None:
        import ray

        self._mark = folder / f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}"

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        self._mark.touch()
        return super().detect(images)


def processes_on(folder: Path, node: str = "") -> list[int]:
    """Return the processes that `TellingDetector` worked in on a node, or anywhere."""
    return [int(p.name.partition("-")[2]) for p in folder.iterdir() if p.name.startswith(node)]


def wait_until(condition: Any, seconds: float = 240) -> None:
    """Return when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
