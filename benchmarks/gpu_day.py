"""A first day on a GPU, 15 minutes: does everything work there, how fast is it, and what waits for what.

    benchmarks/gpu_day.sh                                          # on the GPU
    benchmarks/gpu_day.sh --parts doctor "step of MAE" --budget 5
    GPU_DAY=toy benchmarks/gpu_day.sh                              # small, on a CPU: does this script work?

Each part is a command of its own with its own time limit. One that fails is a line in the table with the reason and its
log; the others go on. OUT gets all logs, and gpu_day.md and gpu_day.json, written anew after each part, so that an
interrupted day keeps what it has. The exit status is 1 if a part failed or had no time left.

A machine without the packages that render faces (anny, warp) takes --raw, the folder data/raw/synthetic of a project.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.gpu_day_parts import ROOT, Day, Part, complaint, parts
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.process import stage_main

LEAST = 5.0  # seconds with which no part is started
QUIET = {"SSFER_MLFLOW": "0", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


@dataclass(frozen=True)
class Played:
    """How a part went; `result` is the reason if it failed."""

    part: str
    ok: bool
    seconds: float
    result: str
    log: str


def play(part: Part, log: Path, seconds: float) -> Played:
    """Run a part for so many seconds at most; everything that it started is ended with it."""
    started = time.monotonic()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    status: int | None = None
    with log.open("wb") as file:
        file.write(f"$ python -m {' '.join(part.command)}\n".encode())
        file.flush()
        try:
            process = psutil.Popen(
                [sys.executable, "-m", *part.command], cwd=part.folder, env={**os.environ, **QUIET, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            file.write(f"gpu_day: error: {error.strerror}: {error.filename}\n".encode())
            status = 127
        else:
            try:
                status = process.wait(seconds)
            except psutil.TimeoutExpired:
                pass
            finally:
                end(process)
    said, took = log.read_text(errors="replace"), time.monotonic() - started
    if status is None:
        return Played(part.name, False, took, f"not done after {seconds:.0f} s", log.name)
    wrong = reason(said, status) if status else complaint(said)
    return Played(part.name, wrong is None, took, wrong or figure(part, said), log.name)


def end(process: psutil.Process) -> None:
    """Kill a process, if it still runs, and its descendants, some of which have left its group."""
    try:
        running = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for one in running:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(running, timeout=10)


def figure(part: Part, said: str) -> str:
    """Return what goes into the table of a part that has ended well."""
    try:
        return part.result(said)
    except (KeyError, StopIteration, ValueError):
        return "done; its table has another form than expected, see the log"


def reason(said: str, status: int) -> str:
    """Return why a part failed: its error's sentence, else a warning, else its last line."""
    lines = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    for mark in (": error: ", "WARNING", "not compiled"):
        found = [line for line in lines if mark in line]
        if found:
            return found[-1]
    return lines[-1] if lines else f"status {status}, no output"


def table(played: Sequence[Played]) -> str:
    """Return the table of all parts in Markdown."""
    lines = ["| part | | s | result | log |", "|---|---|---|---|---|"]
    for one in played:
        text = one.result.replace("|", "/")
        lines.append(f"| {one.part} | {'ok' if one.ok else 'FAILED'} | {one.seconds:.0f} | {text} | {one.log} |")
    return "\n".join(lines)


def write(day: Day, played: Sequence[Played], seconds: float) -> None:
    """Write gpu_day.md, with the parts' own tables below, and gpu_day.json."""
    about = f"Device {day.device}, {'toy sizes' if day.toy else 'full sizes'}, {platform.node()}, {seconds:.0f} s"
    text = ["# A day on a GPU", about, table(played)]
    for one in played:
        log = day.out / one.log
        said = log.read_text(errors="replace").splitlines() if log.is_file() else []
        own = [line for line in said if line.startswith("|")]
        text += [f"## {one.part}", "\n".join(own)] if own else []
    (day.out / "gpu_day.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    found = {"device": day.device, "toy": day.toy, "seconds": seconds, "parts": [asdict(one) for one in played]}
    write_json(day.out / "gpu_day.json", found)


def run_day(day: Day, chosen: Sequence[Part], budget: float) -> list[Played]:
    """Play the parts, for so many seconds in all; print each, and write the tables after each."""
    day.out.mkdir(parents=True, exist_ok=True)
    started, played = time.monotonic(), []
    for part in chosen:
        left = budget - (time.monotonic() - started)
        log = day.out / f"{part.name.replace(' ', '_').replace(',', '')}.log"
        if left < LEAST:
            log.unlink(missing_ok=True)
            one = Played(part.name, False, 0.0, f"no time left of {budget / 60:g} minutes", log.name)
        else:
            print(f"{part.name}: at most {min(part.limit, left):.0f} s", flush=True)
            one = play(part, log, min(part.limit, left))
        played.append(one)
        print(f"{part.name}: {'ok' if one.ok else 'FAILED'}, {one.seconds:.0f} s: {one.result}", flush=True)
        write(day, played, time.monotonic() - started)
    return played


def choose(known: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Return the parts of these names, in their own order; all if there are no names.

    Raises:
        SsferError: an unknown name.
    """
    unknown = sorted(set(names) - {part.name for part in known})
    if unknown:
        listed = ", ".join(f"'{part.name}'" for part in known)
        raise SsferError(f"there is no part '{unknown[0]}'; the parts are {listed}")
    return [part for part in known if not names or part.name in names]


def main() -> None:
    """Play the day; exit with status 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(".scratch/gpu_day"), help="folder for logs, tables (default .scratch/gpu_day)"
    )
    parser.add_argument("--toy", action="store_true", help="small sizes, on a CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda, with --toy cpu")
    parser.add_argument("--budget", type=float, help="minutes in all (default 15, with --toy 60)")
    parser.add_argument("--parts", nargs="+", metavar="PART", default=[], help="only these")
    parser.add_argument("--raw", type=Path, help="rendered photos, made elsewhere: data/raw/synthetic of a project")
    parser.add_argument("--photos", type=Path, help="folder or zip of real photos for the detectors")
    parser.add_argument("--weights", type=Path, nargs="*", help="of RetinaFace (default: those that were fetched)")
    parser.add_argument("--batch", type=int, default=512, help="of the step of MAE, ViT-B/16 (default 512)")
    args = parser.parse_args()
    fetched = sorted((ROOT / "data/weights/detectors").glob("retinaface*.safetensors"))
    weights = fetched if args.weights is None else args.weights
    given = {name: path.resolve() for name in ("raw", "photos") if (path := getattr(args, name))}
    device = args.device or ("cpu" if args.toy else "cuda")
    day = Day(
        args.out.resolve(), device, args.toy, weights=tuple(p.resolve() for p in weights), batch=args.batch, **given
    )
    budget = args.budget or (60 if args.toy else 15)
    played = run_day(day, choose(parts(day), args.parts), 60 * budget)
    print(f"\n{table(played)}\n\nlogs and tables: {day.out}", flush=True)
    if not all(one.ok for one in played):
        raise SystemExit(1)


if __name__ == "__main__":
    stage_main("gpu_day", main)
