"""Predict a folder of photos, and one with ten times as many: memory must not grow with their number.

    python -m benchmarks.long_folder --photos photos.zip

The photos are links to a few. `ssfer predict` reads each folder in a process of its own; the peak is of the sum over it
and its worker processes, looked at every 0.1 seconds, memory that they share counted once per process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.photos import from_path
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main

SECONDS = 0.1  # between two looks


def resident(process: psutil.Process) -> int:
    """Return the bytes that a process and its descendants hold in memory, pages shared by two counted twice."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def predicted(folder: Path, out: Path, workers: int | None) -> tuple[int, float]:
    """Write the table of a folder with `ssfer predict`; return the peak of its memory in bytes, and seconds.

    Raises:
        SsferError: the command failed.
    """
    command = [sys.executable, "-m", "ssfer", "predict", str(folder), "--out", str(out)]
    begin, peak = time.perf_counter(), 0
    process = psutil.Popen([*command, *(["--workers", str(workers)] if workers else [])])
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(SECONDS)
    if process.returncode:
        raise SsferError(f"{' '.join(command)} ended with status {process.returncode}; see above")
    return peak, time.perf_counter() - begin


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder or zip of photos")
    parser.add_argument("--different", type=int, default=500, help="photos taken; the folders link to them")
    parser.add_argument("--images", type=int, default=1100, help="photos in the small folder (default 1100)")
    parser.add_argument("--times", type=int, default=10, help="as many times more in the large one (default 10)")
    parser.add_argument("--workers", type=int, help="processes of ssfer (default: as the command chooses)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        files = []
        for i, photo in enumerate(from_path(args.photos, args.different)):
            files.append(Path(name) / f"{i:05d}.jpg")
            photo.save(files[-1], quality=95)
        for count in (args.images, args.images * args.times):
            folder = Path(name) / str(count)
            folder.mkdir()
            for i in range(count):
                os.link(files[i % len(files)], folder / f"{i:07d}.jpg")
            rows.append((count, *predicted(folder, Path(name) / f"{count}.csv", args.workers)))
    print("| photos | peak MB | ratio | photos/s |\n|---|---|---|---|")
    for count, peak, seconds in rows:
        print(f"| {count:,} | {peak / 1e6:,.0f} | {peak / rows[0][1]:.3f} | {count / seconds:.1f} |")


if __name__ == "__main__":
    stage_main("benchmarks.long_folder", main)
