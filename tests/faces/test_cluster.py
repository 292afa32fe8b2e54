"""Aligning on a real Ray of two nodes: the same bytes, whatever dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ssfer.core.cluster_start import ray_cluster
from ssfer.core.errors import SsferError
from ssfer.core.files import scratch_dir
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import open_source
from ssfer.faces import cluster as module
from ssfer.faces.build import build_faces
from ssfer.faces.cluster import ClusterNodes
from ssfer.faces.workers import Chunk, Job
from tests.support.align_runs import PARAMS, contents, people, write_people
from tests.support.ray_nodes import TellingDetector, processes_on, two_nodes, wait_until
from tests.support.rendered_photos import BrightDetector


def in_the_middle(scratch: Path, parts: int, act: Callable[[], None]) -> threading.Thread:
    """Start a thread that acts once so many parts are finished."""

    def wait_and_act() -> None:
        wait_until(lambda: len(list(scratch.glob("*/part-*.json"))) >= parts)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def aligned_locally(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> SourceSettings:
    """Write a source and align it to local/ without a cluster; then the project is another one, folder/project."""
    monkeypatch.setenv("DVC_ROOT", str(folder / "other"))
    source = write_people(folder, count=count)
    build_faces(source, folder, folder / "local", PARAMS, detector=BrightDetector)
    monkeypatch.setenv("DVC_ROOT", str(folder / "project"))
    return source


@pytest.mark.slow
def test_a_killed_process_and_a_lost_node_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = aligned_locally(tmp_path, monkeypatch, count=320)
    scratch, marks, parts = tmp_path / "project/.scratch/align", tmp_path / "marks", []
    marks.mkdir()
    with two_nodes() as (nodes, second), ray_cluster(1) as cluster:
        assert str(cluster) == "Ray, 2 nodes, 2 CPUs"

        def kill_process() -> None:
            os.kill(processes_on(marks, second.node_id)[0], signal.SIGKILL)

        def lose_node() -> None:
            wait_until(lambda: len(processes_on(marks, second.node_id)) == 2)  # the killed one has been replaced
            nodes.remove_node(second, allow_graceful=False)
            parts.append(len(list(scratch.glob("*/part-*.json"))))

        threads = [in_the_middle(scratch, 2, kill_process), in_the_middle(scratch, 4, lose_node)]
        executor = ClusterNodes(cluster, cluster.device("auto"))
        build_faces(source, tmp_path, tmp_path / "ray", PARAMS, executor, detector=partial(TellingDetector, marks))
        for thread in threads:
            thread.join()
    assert parts[0] < 20, "work was left when the node was lost"
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.slow
def test_detectors_on_gpus_serve_all_nodes_and_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray believes in GPUs that it is told about; the detector computes on the CPU."""
    source = aligned_locally(tmp_path, monkeypatch, count=160)
    scratch, marks = tmp_path / "project/.scratch/align", tmp_path / "marks"
    marks.mkdir()
    with two_nodes(gpus=1), ray_cluster(1) as cluster:
        executor = ClusterNodes(cluster, cluster.device("auto"))
        assert (str(cluster), executor.device) == ("Ray, 2 nodes, 2 CPUs, 2 GPUs", "cuda")
        killer = in_the_middle(scratch, 2, lambda: os.kill(processes_on(marks)[0], signal.SIGKILL))
        build_faces(source, tmp_path, tmp_path / "ray", PARAMS, executor, detector=partial(TellingDetector, marks))
        killer.join()
        assert len(processes_on(marks)) <= 3, "one detector a GPU, and one that replaced the killed one"
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def chunk_and_job(folder: Path) -> tuple[Job, Chunk]:
    source = open_source(write_people(folder, count=8), folder)
    job = Job(source, people("people"), PARAMS, BrightDetector)
    return job, Chunk(0, source.records(), scratch_dir("align", "x"))


def test_a_node_makes_the_bytes_of_a_chunk_and_refuses_other_raw_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a node does with a task, here without Ray."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(module, "node_address", lambda: "10.0.0.7")
    job, chunk = chunk_and_job(tmp_path)
    task = module.Task(chunk, module.stamps(job, chunk))
    shard, part = module.make(job, task)
    job.write(chunk)
    assert (shard, part) == (chunk.shard.read_bytes(), chunk.part.read_bytes())

    (tmp_path / "people" / chunk.records[-1].path).unlink()
    with pytest.raises(SsferError, match=r"node 10\.0\.0\.7 .* does not see the raw data of source 'people' .* share"):
        module.make(job, task)
