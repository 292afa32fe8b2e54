"""Run the experiments that a table still needs, one after another, and write a record of each."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssfer.config.identity import label_rule, science
from ssfer.config.schema import parse_params
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import project_root
from ssfer.core.yaml import parse_yaml
from ssfer.formats.metrics import details_of
from ssfer.tables import dvc_runs
from ssfer.tables.budget import Budget
from ssfer.tables.plan import Experiment, Study, cells, lacking
from ssfer.tables.records import Record, find_record, read_records, write_record
from ssfer.tables.settings import same
from ssfer.train.settings import MachineSettings


@dataclass
class Job:
    """An experiment, the stages it must run, and the rows that use its results."""

    experiment: Experiment
    stages: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    done: bool = False


def plan(
    study: Study, tables: Iterable[str], seeds: Sequence[int], labels: Sequence[Budget] = (), rows: Sequence[str] = ()
) -> tuple[list[Job], dict[str, str]]:
    """Return the jobs of some tables, seed by seed, and row -> why it is left out.

    Rows with the same settings share a job. A job is done when a record has all it needs.

    Args:
        study: the data set and its settings.
        tables: names.
        seeds: one experiment per cell and seed.
        labels: budgets instead of the tables'.
        rows: only rows with these names; default: all.

    Raises:
        SsferError: unknown tables or rows, invalid settings, contradictory records.
    """
    jobs: dict[str, Job] = {}
    left_out: dict[str, str] = {}
    found = [c for table in tables for c in cells(study.catalogue, table, study.dataset, labels)]
    known = list(dict.fromkeys(cell.name for cell in found))
    for row in rows:
        if row not in known:
            raise unknown_name("row", row, known)
    found = [cell for cell in found if not rows or cell.name in rows]
    for seed in seeds:
        for cell in found:
            if not cell.content.measured:
                continue
            if (why := lacking(cell.row, study)) is not None:
                left_out[f"{cell.table}, {cell.name}"] = why
                continue
            experiment = study.experiment(cell, seed)
            job = jobs.setdefault(experiment.name, Job(experiment))
            job.stages += [stage for stage in cell.stages if stage not in job.stages]
            row = f"{cell.table}: {cell.name}"
            job.rows += [row] if row not in job.rows else []
    records = read_records(study.dataset)
    for job in jobs.values():
        record = find_record(records, job.experiment, study.defaults, job.stages)
        if record is None:
            continue
        covered = record.covers(job.experiment, study.defaults, job.stages)
        job.done = covered and record.has_labels_of(job.experiment)
        job.stages += [stage for stage in record.metrics if stage not in job.stages]  # a new record keeps them all
    return list(jobs.values()), left_out


def run_jobs(jobs: Sequence[Job], study: Study, *, again: bool = False, queue: bool = False) -> list[str]:
    """Run or queue the jobs that are not done; return the names of the failed ones.

    Experiments that finished without a record, in DVC's queue or just before a kill, are recorded without a new run.

    Args:
        jobs: of `plan`.
        study: the data set and its settings.
        again: also run jobs that are done; DVC takes unchanged stages from its cache.
        queue: put the experiments into DVC's queue.

    Raises:
        SsferError: experiments cannot run in this project, or another `ssfer experiments run` is running.
    """
    todo = [job for job in jobs if again or not job.done]
    if not todo:
        return []
    dvc_runs.check_repository()
    dvc_runs.check_cache()
    dvc_runs.check_faces(study.prepared, study.profiles)
    lock = FileLock(project_root() / ".scratch" / "experiments.lock")
    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise SsferError("another `ssfer experiments run` is running in this project; wait for it or end it") from error
    with held:
        waiting = dvc_runs.queued()
        failed = []
        for number, job in enumerate(todo, 1):
            name = job.experiment.name
            here = f"[{number}/{len(todo)}] {name}"
            if name in waiting:
                print(f"{here}: waits in DVC's queue", flush=True)
                continue
            if not again and collect(job, study.defaults):
                print(f"{here}: had finished, recorded", flush=True)
                continue
            print(f"{here} ({'; '.join(job.rows)})", flush=True)
            if not dvc_runs.start(job.experiment, job.stages, queue):
                failed.append(name)
            elif not queue and not collect(job, study.defaults):
                raise SsferError(f"DVC ran {name}, but left no experiment with its settings; is params.yaml changing?")
        return failed


def collect(job: Job, defaults: dict[str, Any]) -> bool:
    """Write the record of a finished experiment; return False if DVC has none with its settings and stages."""
    for commit in dvc_runs.finished(job.experiment.name):
        record = read_result(commit, job, defaults)
        if record is not None:
            write_record(record, defaults)
            return True
    return False


def read_result(commit: str, job: Job, defaults: dict[str, Any]) -> Record | None:
    """Return the record of an experiment's commit; None if its settings differ or a stage is missing."""
    experiment = job.experiment
    try:
        found = parse_params(parse_yaml(dvc_runs.read_text(commit, "params.yaml") or "", "params.yaml"))
    except SsferError:
        return None  # of an ssfer with other settings
    settings, rule = science(found), label_rule(found)
    if not same(experiment.settings, settings, defaults, job.stages) or rule != label_rule(experiment.params):
        return None
    metrics: dict[str, Any] = {}
    for stage in job.stages:
        text = dvc_runs.read_text(commit, f"metrics/{stage}.json")
        if text is None or not dvc_runs.is_current(commit, stage):
            return None
        metrics[stage] = details_of(json.loads(text), stage)
    split = dvc_runs.read_split(commit)
    parts = ("labeled", "valid", "unlabeled", "test")
    return Record(
        name=experiment.name,
        dataset=experiment.dataset,
        labels=experiment.labels,
        seed=experiment.seed,
        fold=experiment.fold,
        commit=dvc_runs.origin(commit),
        settings=settings,
        label_rule=rule,
        split={"hash": split["hash"], **{part: len(split[part]) for part in parts}},
        test={"images": len(split["test"]), "sha256": ids_hash(split["test"])},
        metrics=metrics,
        pretrained=dvc_runs.pretrained(commit),
        identity=dvc_runs.identities(commit, job.stages),
        outputs=dvc_runs.outputs(commit),
        confusion=_confusion(commit, metrics["evaluate"]),
        computed=_computed(found.machine),
    )


def _computed(machine: MachineSettings) -> dict[str, Any] | None:
    """Return what section `machine` computes with on this machine; None if it does not have that device."""
    import torch

    from ssfer.train.compute import choose_compute

    try:
        chosen = choose_compute(machine)
    except SsferError:
        return None
    threads = torch.get_num_threads() if machine.threads == "auto" else machine.threads
    kind, version = chosen.device.type, str(torch.__version__)
    return {"device": kind, "precision": chosen.precision, "threads": threads, "torch": version}


def _confusion(commit: str, evaluated: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the headline model's confusion matrix on the test part; None without metrics/confusion.csv."""
    text = dvc_runs.read_text(commit, "metrics/confusion.csv")
    if text is None:
        return None
    classes = evaluated["classes"]
    counted = Counter((row["actual"], row["predicted"]) for row in csv.DictReader(text.splitlines()))
    counts = [[counted[actual, predicted] for predicted in classes] for actual in classes]
    return {"model": evaluated["headline_model"], "classes": classes, "counts": counts}


def ids_hash(ids: Iterable[str]) -> str:
    """Return the sha256 of the test images' sorted ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
