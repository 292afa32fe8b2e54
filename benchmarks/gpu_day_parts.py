"""The parts of a first day on a GPU: commands, time limits, sizes, and what of their output goes into the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 5  # times the limits of the toy sizes, for machines that are busy with other work
Row = dict[str, str]


@dataclass(frozen=True)
class Day:
    """What the command line asks for.

    Attributes:
        out: folder for logs, tables and the small project.
        device: cpu or cuda.
        toy: sizes that take seconds on a CPU.
        raw: rendered photos, made elsewhere; None: the first part renders some.
        photos: a folder or zip of real photos for the detectors; None: the rendered ones.
        weights: of RetinaFace.
        batch: images of a step of pretraining.
    """

    out: Path
    device: str
    toy: bool
    raw: Path | None = None
    photos: Path | None = None
    weights: tuple[Path, ...] = ()
    batch: int = 512

    @property
    def project(self) -> Path:
        """The small project that the first part makes."""
        return self.out / "project"


@dataclass(frozen=True)
class Part:
    """A part of the day: `python -m <command>` in a folder.

    Attributes:
        limit: seconds after which it is stopped.
        result: what of its output goes into the table.
    """

    name: str
    limit: float
    command: tuple[str, ...]
    result: Callable[[str], str]
    folder: Path = ROOT


def rows(log: str) -> Iterator[Row]:
    """Yield the rows of all Markdown tables in a command's output, by column; of two columns of a name the first."""
    head: list[str] | None = None
    for line in log.splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if head is None:
            head = cells
        elif not set("".join(cells)) <= set("-"):
            row: Row = {}
            for name, cell in zip(head, cells, strict=False):
                row.setdefault(name, cell)
            yield row


def complaint(log: str) -> str | None:
    """Return what is wrong although the command ended well: a training step that waits for the GPU; else None."""
    waiting = [f"{row['method']} {row['waits']}" for row in rows(log) if float(row.get("waits") or 0)]
    waiting += [f"{n} {w}" for n, w in re.findall(r"(?m)^  (\S.*?) .*, ([\d.]+) waits for the GPU", log) if float(w)]
    return f"a step waits for the GPU: {', '.join(waiting)} times" if waiting else None


def _stages(log: str) -> str:
    found = list(rows(log))
    seconds = [float(row["s"]) for row in found if "stage" in row]
    resumed = [f"{row['killed']}: {row['compared with the undisturbed run']}" for row in found if "killed" in row]
    return f"{len(seconds)} stages in {sum(seconds):.0f} s; killed and resumed: {'; '.join(resumed)}"


def _workers(log: str) -> str:
    return "; ".join(f"{row['workers by']}: {row['compared with no workers']}" for row in rows(log))


def _doctor(log: str) -> str:
    device = re.search(r"(?m)^computes +(.*)", log)
    speeds = re.findall(r"(?m)^  (\S.*?) +([\d,]+) images/s", log)
    return "; ".join([*([device[1]] if device else []), *(f"{name} {speed} images/s" for name, speed in speeds)])


def _step(log: str) -> str:
    row = next(row for row in rows(log) if row.get("step") == "ours")
    shares = [f"{v} {name}" for name, v in row.items() if name.startswith("of ") and v.endswith("%")]
    return f"{row['images/s']} images/s, {row['x plain']} x plain PyTorch, {', '.join(shares)}"


def _methods(log: str) -> str:
    found = list(rows(log))
    slowest = max(found, key=lambda row: float(row["ratio"]))
    waits = " none waits for the GPU;" if "waits" in slowest else ""
    return f"{len(found)} methods;{waits} slowest {slowest['method']}, {slowest['ratio']} x supervised"


def _detectors(log: str) -> str:
    return "; ".join(
        f"{row['detector']}: {row['photos/s, float32']} photos/s, TF32 {row['x']} x, landmarks move at most "
        f"{row['most']} px"
        for row in rows(log)
    )


def _feed(log: str) -> str:
    wanted = r"our loader, \d+ workers|strong view .*|RandAugment on .*"
    loaders = [row for row in rows(log) if re.fullmatch(wanted, row["what"])]
    return "; ".join(f"{row['what'].removeprefix('our loader, ')}: {row['images/s']} images/s" for row in loaders)


def _evaluate(log: str) -> str:
    found = list(rows(log))
    return "; ".join(f"{row['what']}: {row['images/s']} images/s" for row in found)


def parts(day: Day) -> list[Part]:
    """Return the parts in the order in which they are played; some use the project that the first one makes."""
    d = ("--device", day.device)

    def part(
        name: str,
        limit: float,
        result: Callable[[str], str],
        command: Sequence[object],
        at_day: Sequence[object] = (),
        toy: Sequence[object] = (),
        folder: Path = ROOT,
    ) -> Part:
        words = [*command, *(toy if day.toy else at_day)]
        return Part(name, limit * (PATIENCE if day.toy else 1), tuple(map(str, words)), result, folder)

    raw = ["--raw", day.raw] if day.raw else []
    seen = ["--photos", day.photos] if day.photos else ["--raw", day.raw or day.project / "data/raw/synthetic"]
    seen += ["--weights", *day.weights] if day.weights else []
    tiny = ["--model", "tiny", "--size", 32, "--threads", 1, "--rounds", 1]
    return [
        part("stages, kill -9", 240, _stages, ["benchmarks.stage_runs", "kill", day.out, *d, *raw]),
        part("workers", 120, _workers, ["benchmarks.stage_runs", "workers", day.out, *d], (), ["--workers", 1]),
        part("doctor", 90, _doctor, ["ssfer", "doctor", "--machine"], folder=day.project if day.toy else ROOT),
        part(
            "step of MAE", 240, _step, ["benchmarks.mae_step", *d, "--json", day.out / "mae_step.json"],
            ["--batch", day.batch, "--steps", 20, "--rounds", 3], [*tiny, "--batch", 4],
        ),
        part(
            "steps of methods", 240, _methods, ["benchmarks.method_step", *d],
            ["--model", "small", "--size", 112, "--rounds", 3],
            ["fixmatch", "ema_teacher", "--labeled", 4, "--unlabeled", 4, "--rounds", 1],
        ),
        part(
            "detectors", 120, _detectors, ["benchmarks.detector_precision", *d, *seen],
            ["--images", 1024, *([] if day.photos else ["--side", 350])], ["--images", 8, "--rounds", 1],
        ),
        part(
            "loader", 90, _feed, ["benchmarks.loader", *d],
            ["--workers", 0, 4, 8, "--seconds", 1.5, "--rounds", 1],
            ["--images", 16, "--batch", 8, "--side", 64, "--size", 32, "--seconds", 0.2, "--rounds", 1, "--workers", 1],
        ),
        part(
            "evaluate", 90, _evaluate, ["benchmarks.evaluate_speed", *d, "--json", day.out / "evaluate_speed.json"],
            ["--batch", 256, "--images", 4096, "--rounds", 2], [*tiny, "--batch", 8, "--images", 16],
        ),
    ]  # fmt: skip
