"""Join a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from ssfer.core.cluster import Cluster, first_line
from ssfer.core.errors import SsferError, shortened
from ssfer.core.extras import need

_CONNECT_SECONDS = 10.0
# No telemetry, tasks without a GPU see those of their node as they are, and no copy of the project under `uv run`.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Of a Ray that is started here: it listens on 127.0.0.1 only, as Ray does by itself on Windows and macOS, and its
# processes know each other by a secret.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@contextmanager
def ray_cluster(workers: int) -> Iterator[Cluster]:
    """Join the cluster at RAY_ADDRESS; without it, start a Ray on this machine, which ends with the block.

    Args:
        workers: processes of a Ray that is started here.

    Raises:
        SsferError: Ray is not installed, or no cluster can be joined at this address.
    """
    need("ray", "cluster", "machine.cluster: ray")
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if not local:
        _check(address)
    own = {**_LOCAL, "RAY_AUTH_TOKEN": _secret()} if local else {}
    with _environment({**_VARIABLES, **own}), _ends_by_sigterm():
        import ray

        cpus: dict[str, Any] = {"num_cpus": max(workers, 1), "include_dashboard": False} if local else {}
        try:
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **cpus)
            except Exception as error:  # of many kinds, for versions that differ, secrets, processes that do not start
                raise SsferError(_refused(address, error)) from error
            _exit_by_sigterm()
            resources, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
            if resources.get("CPU", 0) < 1:
                raise SsferError(f"the Ray cluster at {address} has no CPUs; start nodes that have some, and run again")
            yield Cluster(nodes, int(resources["CPU"]), int(resources.get("GPU", 0)))
        finally:
            ray.shutdown()


def _check(address: str) -> None:
    """Check that something answers at an address, because Ray itself tries for a minute."""
    wanted = "expected HOST:PORT of a running head (ray start --head), auto for the one of this machine, or nothing"
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():  # ray://: a client elsewhere, which sees no files of the nodes
        raise SsferError(f"RAY_ADDRESS is '{shortened(address)}'; {wanted}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise SsferError(f"no Ray cluster answers at RAY_ADDRESS '{shortened(address)}' ({error}); {wanted}") from error


def _refused(address: str, error: Exception) -> str:
    reason = first_line(error)
    if address == "local":
        return f"Ray cannot be started on this machine ({reason}); set machine.cluster: null to work without it"
    return (
        f"the Ray cluster at '{address}' cannot be joined ({reason}); run this command on one of its nodes, with its "
        f"versions of Python and Ray; a node joins with `ray start --address={address}`"
    )


@contextmanager
def _ends_by_sigterm() -> Iterator[None]:
    """Put back this process's handler of SIGTERM, which Ray replaces, at the end of the block."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _exit_by_sigterm() -> None:
    """End with a process's usual status on SIGTERM, after Ray has been shut down; Ray's own handler has another."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@cache
def _secret() -> str:
    return secrets.token_hex(32)  # the same all along, because Ray reads it once per process


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for Ray and the processes that it starts, until the end of the block."""
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
