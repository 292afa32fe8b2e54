"""Stage align: import every source, detect and align its faces (SSFER specification, section 3)."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ssfer.config.schema import Params
from ssfer.core.cluster_start import ray_cluster
from ssfer.core.device import choose_device, device_name, hidden_gpu
from ssfer.core.errors import SsferError
from ssfer.core.places import FACES, RAW
from ssfer.core.process import worker_count
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.labels import check_labels
from ssfer.datasets.registry import absent_sources
from ssfer.faces.build import build_faces
from ssfer.faces.cluster import ClusterNodes
from ssfer.faces.detectors.registry import DETECTORS, detectors_of
from ssfer.faces.workers import Executor, LocalProcesses
from ssfer.formats.metrics import write_metrics
from ssfer.tracking.tracker import Tracker

DAMAGED = ("unreadable", "too_large", "too_small", "empty")  # statuses of photos that cannot be used


def run_align(params: Params) -> dict[str, dict[str, Any]]:
    """Write data/faces/<source> of every source and metrics/align.json; return the counts by source."""
    with Tracker("align", params) as tracker, _executor(params) as executor:
        counts = _align(params, executor)
        tracker.log_metrics(counts)
    return counts


def _align(params: Params, executor: Executor) -> dict[str, dict[str, Any]]:
    counts, scratches, raw = {}, [], RAW / params.data.raw
    for name in detectors_of(params.align):
        DETECTORS[name].check(DETECTORS.settings(name, params.detectors))
    absent = absent_sources(params.data.sources, raw)
    sources = [source for source in params.data.sources if source not in absent]
    if not sources:
        raise SsferError(
            f"none of the {len(absent)} sources of params.yaml is in {raw} ({', '.join(s.path for s in absent)}); put "
            "or link at least one of them there"
        )
    check_labels([source for source in sources if source.labeled], raw, params.data.class_list)
    for source in sources:
        counts[source.name], scratch = build_faces(
            source, raw, FACES / source.name, params.align, executor, params.detectors,
            max_missing=params.data.max_missing,
        )  # fmt: skip
        _say_lost(source.name, counts[source.name])
        _say_no_face(source, counts[source.name], params.align.no_face)
        _say_flags(source.name, counts[source.name])
        scratches.append(scratch)
    for folder in FACES.iterdir():  # sources that are no longer listed
        if folder.is_dir() and folder.name not in counts:
            shutil.rmtree(folder)
    write_metrics("align", counts)
    for scratch in scratches:
        shutil.rmtree(scratch, ignore_errors=True)
    if absent:
        images = sum(source["images"] for source in counts.values())
        print(
            f"align: absent from {raw}: {', '.join(s.name for s in absent)} (optional); {len(sources)} sources with "
            f"{images:,} images are left",
            file=sys.stderr,
            flush=True,
        )
    return counts


def _say_lost(source: str, counts: Mapping[str, Any]) -> None:
    if missing := counts["status"].get("missing"):
        print(
            f"align: {missing:,} of the {counts['images']:,} images that '{source}' lists are missing",
            file=sys.stderr,
            flush=True,
        )
    damaged = {status: counts["status"][status] for status in DAMAGED if status in counts["status"]}
    if damaged:
        each = ", ".join(f"{status} {number:,}" for status, number in damaged.items())
        print(
            f"align: {sum(damaged.values()):,} of the {counts['images']:,} images of '{source}' are lost ({each})",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def _executor(params: Params) -> Iterator[Executor]:
    """Yield what works on the chunks; say what that is, and warn if a GPU of this machine is not used."""
    machine = params.machine
    workers = worker_count(machine.num_workers)
    if machine.cluster is None:
        device = choose_device(machine.device)
        gpus = torch.cuda.device_count() if device.type == "cuda" and ":" not in machine.device and workers > 1 else 1
        name = f"{gpus} GPUs ({device_name(device)})" if gpus > 1 else device_name(device)
        lines = [f"align: {name}, float32, {max(workers, 1)} process{'es' * (workers > 1)}"]
        if warning := hidden_gpu(device):
            lines.append(f"WARNING: {warning}")
        print(*lines, sep="\n", file=sys.stderr, flush=True)
        yield LocalProcesses(workers, str(device), gpus)
        return
    with ray_cluster(workers) as cluster:
        executor = ClusterNodes(cluster, cluster.device(machine.device))
        print(f"align: {cluster}, float32 on {executor.device}", file=sys.stderr, flush=True)
        yield executor


def _say_no_face(source: SourceSettings, counts: Mapping[str, Any], policy: str) -> None:
    faceless = counts.get("no_face", {})
    if faceless and source.labeled and source.align == "similarity":
        each = ", ".join(f"{usage} {number:,}" for usage, number in faceless.items())
        kept = "whole" if policy == "keep" else "as their middle square"
        print(
            f"align: no face was found in {sum(faceless.values()):,} photos of '{source.name}' ({each}); they stay, "
            f"{kept} (align.no_face: drop leaves them out; align.min_face: 0.03 looks for smaller faces)",
            file=sys.stderr,
            flush=True,
        )


def _say_flags(source: str, counts: Mapping[str, Any]) -> None:
    flags = counts.get("landmark_flag", {})
    if flags:
        each = ", ".join(f"{name} {number:,}" for name, number in flags.items())
        print(
            f"align: {sum(flags.values()):,} of the {counts['face_found']:,} faces of '{source}' have doubtful "
            f"landmarks ({each}); they stay, unless corpus.flagged or split.flagged is drop",
            file=sys.stderr,
            flush=True,
        )
