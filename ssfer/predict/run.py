"""Predict inputs into a table file: in this process or in several, resumable, with annotated copies."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file, sha256_json
from ssfer.core.process import available_cpus
from ssfer.core.process_pool import map_in_processes, map_in_threads
from ssfer.core.progress import Progress
from ssfer.faces.workers import one_thread
from ssfer.predict.draw import Annotator
from ssfer.predict.frames import Frame
from ssfer.predict.inputs import frames_in
from ssfer.predict.items import Item, items_of
from ssfer.predict.paths import check_apart, check_there, listed, not_empty
from ssfer.predict.recognizer import Options, Recognizer, Result, load, located
from ssfer.predict.row_file import RowFile, escaped, first_input
from ssfer.predict.summary import Summary
from ssfer.predict.table import Row, columns
from ssfer.predict.tracks import Scene

# From this number of photos on, processes are worth their start, in which each imports torch; fewer share threads.
POOL_PHOTOS = 1000
COUNTED = 1_000_000  # most photos that are counted for the time left, which takes seconds


@dataclass(frozen=True)
class Job:
    """What a process needs to predict; picklable.

    Attributes:
        weights, device, runtime, turned, min_face: see `ssfer.predict.recognizer.load`.
        options: how faces are detected and classified.
        every, fps: which frames of videos are used; see `ssfer.predict.inputs.frames_of`.
        annotate: folder for annotated copies; None: write none.
    """

    weights: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    options: Options = field(default_factory=Options)
    every: int = 1
    fps: float | None = None
    annotate: Path | None = None
    turned: bool | None = None
    min_face: float | None = None

    def recognizer(self) -> Recognizer:
        """Return the model, loaded once in each process."""
        return loaded(self.weights, self.device, self.runtime, self.turned, self.min_face)

    def photos(self, items: tuple[Item, ...]) -> list[list[Row]]:
        """Return the rows of each photo."""
        if multiprocessing.parent_process() is not None:
            torch.set_num_threads(1)  # the other workers have the other CPUs
        frames = itertools.chain.from_iterable(map(frames_in, items))
        return [result.rows for result in self.annotated(frames)]

    def annotated(self, frames: Iterable[Frame], scene: Scene | None = None) -> Iterator[Result]:
        """Yield the result of each frame, and write its annotated copy."""
        with ExitStack() as stack:
            annotator = None if self.annotate is None else stack.enter_context(Annotator(self.annotate))
            for result in self.recognizer().results(frames, self.options, scene):
                if annotator is not None:
                    annotator.add(result.frame, result.rows)
                yield result


@cache
def loaded(weights: str | None, device: str, runtime: str, turned: bool | None, min_face: float | None) -> Recognizer:
    """Return the result of `ssfer.predict.recognizer.load`, cached."""
    return load(weights, device, runtime, turned=turned, min_face=min_face)


class Batch(NamedTuple):
    """Rows of some pictures, and the mark of the inputs they cover; None: a resumed command cannot start there."""

    rows: list[list[Row]]
    mark: dict[str, Any] | None


def predict_paths(
    job: Job, paths: Sequence[str], out: Path, *, resume: bool = False, workers: int | None = None
) -> Summary | None:
    """Write the rows of all photos and videos at some paths, in order.

    Args:
        job: the model and how it is used.
        paths: files, folders and zip files; "-": read a list of them from stdin, one per line.
        out: file of the table: .csv, .jsonl or .parquet.
        resume: continue an interrupted command with the same arguments.
        workers: processes for photos on a CPU; 0 or 1: only this one; None: one per CPU if there are many photos,
            otherwise as many threads.

    Returns:
        Counts of what was found by this command; None: the command to be resumed had finished.

    Raises:
        SsferError: an unreadable model, an output that cannot be written or resumed, a killed worker.
    """
    check_there(paths)
    check_apart(job.annotate, [path for path in paths if path != "-"])
    given = not_empty(listed(paths, job.annotate))
    summary = Summary()
    with _opened(job, out, list(paths), resume) as output:
        if output.complete:
            _check_inputs(out, paths)
            return None
        done, items, scene, after = _resumed(items_of(given), output.mark)
        _write(_batches(job, items, workers, done, scene, after), output, _photos_left(paths, done), summary)
    return summary


def _check_inputs(out: Path, paths: Sequence[str]) -> None:
    """Refuse to take a complete table for this command's result if its first row is of none of the PATHs."""
    if "-" in paths or (first := first_input(out)) is None:
        return
    begin = Path(os.path.abspath(first))
    if not any(begin.is_relative_to(os.path.abspath(escaped(path))) for path in paths):
        raise SsferError(
            f"--resume: {out} is complete and begins with {first}, which is not among the PATHs; name another --out, "
            "or leave out --resume to make it anew"
        )


def predict_camera(job: Job, frames: Iterable[Frame], out: Path) -> Summary:
    """Write the rows of a camera's frames as they come, one frame per batch, until Ctrl-C."""
    job = replace(job, options=replace(job.options, batch=1))
    frames = iter(frames)
    first = list(itertools.islice(frames, 1))  # a camera that is not there must not replace the output
    batches = (Batch([result.rows], None) for result in job.annotated(itertools.chain(first, frames)))
    summary = Summary()
    with _opened(job, out, ["camera"], resume=False) as output, suppress(KeyboardInterrupt):
        _write(batches, output, None, summary)
    return summary


def _photos_left(paths: Sequence[str], done: int) -> int | None:
    """Return the number of photos without the first `done`; None: more than are counted, videos, a list from stdin."""
    if "-" in paths:
        return None
    kinds = Counter(item.kind for item in itertools.islice(items_of(paths), COUNTED + 1))
    return None if kinds["video"] or kinds.total() > COUNTED else kinds.total() - done


def _opened(job: Job, out: Path, inputs: list[str], resume: bool) -> RowFile:
    if job.annotate is not None:
        Annotator(job.annotate)  # makes the folder, or says why not, before the table is begun
    model = sha256_file(located(job.weights, job.runtime)[0])
    about = [inputs, model, repr(job.options), job.every, job.fps, str(job.annotate), job.turned, job.min_face]
    return RowFile(out, columns(job.recognizer().classes), sha256_json(about), resume)


def _write(stream: Iterable[Batch], output: RowFile, total: int | None, summary: Summary) -> None:
    """Write the rows of all batches, and count them in `summary`."""
    begin = time.monotonic()
    with Progress("predict", total, unit="pictures") as progress:
        for batch in stream:
            for rows in batch.rows:
                output.add(rows)
                summary.add(rows)
            if batch.mark is not None:
                output.commit(batch.mark)
            summary.seconds = time.monotonic() - begin
            progress.note(summary.speed)
            progress.advance(len(batch.rows))


def _batches(
    job: Job, items: Iterator[Item], workers: int | None, done: int, scene: Scene | None, after: int | None
) -> Iterator[Batch]:
    for is_video, group in itertools.groupby(items, lambda item: item.kind == "video"):
        if is_video:
            for item in group:
                done += 1
                yield from _video(job, item, done, scene, after)
                scene = after = None
        else:
            # The same length for any number of workers: rounding in a detector's batch depends on its length.
            photos = iter(group)
            first = list(itertools.islice(photos, POOL_PHOTOS))
            chunks = iter(partial(_take, itertools.chain(first, photos), job.options.batch), ())
            for rows in _photos(job, chunks, *_shares(job, workers, len(first))):
                done += len(rows)
                yield Batch(rows, {"items": done, "input": rows[-1][0]["input"], "frame": None})


def _shares(job: Job, workers: int | None, photos: int) -> tuple[int, int]:
    """Return how many processes and threads are worth their start for photos between two videos."""
    if job.recognizer().runtime.device != "cpu" or (workers is not None and photos <= job.options.batch):
        return 1, 1
    if workers is not None:
        return workers, 1
    return (available_cpus(), 1) if photos >= POOL_PHOTOS else (1, available_cpus())


def _photos(job: Job, chunks: Iterator[tuple[Item, ...]], workers: int, threads: int) -> Iterator[list[list[Row]]]:
    """Yield the rows of the photos of each chunk, predicted by threads or, with only one, by processes."""
    if threads > 1:
        with one_thread():  # of torch, in each of them
            yield from map_in_threads(job.photos, chunks, threads)
    else:
        yield from map_in_processes(Job.photos, job, chunks, workers, "run again with fewer --workers and --resume")


def _video(job: Job, item: Item, done: int, scene: Scene | None, after: int | None) -> Iterator[Batch]:
    """Yield the rows of a video; if it is annotated, a resumed command starts again with its first frame."""
    scene = scene or Scene(item.name, job.options.smooth)
    rows: list[list[Row]] = []
    for result in job.annotated(frames_in(item, job.every, job.fps, after), scene):
        rows.append(result.rows)
        if len(rows) >= job.options.batch:
            mark = {"items": done - 1, "input": item.name, "frame": result.frame.frame, "scene": scene.state()}
            yield Batch(rows, mark if job.annotate is None else None)
            rows = []
    yield Batch(rows, {"items": done, "input": item.name, "frame": None})


def _resumed(
    items: Iterator[Item], mark: dict[str, Any] | None
) -> tuple[int, Iterator[Item], Scene | None, int | None]:
    """Return the number of items done, the remaining items, and an interrupted video's tracks and last frame done."""
    if mark is None:
        return 0, items, None, None
    done, frame = mark["items"], mark["frame"]
    if done == 0 and frame is None:
        return 0, items, None, None
    last = next(itertools.islice(items, done - 1, done), None) if done else None
    if frame is not None:
        last = next(items, None)
    if last is None or last.name != mark["input"]:
        raise SsferError(f"the output ends at {mark['input']}, which is no longer there; run again without --resume")
    if frame is None:
        return done, items, None, None
    return done, itertools.chain([last], items), Scene.from_state(mark["scene"]), frame


def _take(items: Iterator[Item], count: int) -> tuple[Item, ...]:
    return tuple(itertools.islice(items, count))
