"""Fault campaign: kills, damaged files, resource limits, hostile data; a run must give the same bytes or one sentence.

A small demo is built once, and every fault is applied to a copy of it. A run passes if it gives the bytes of an
undisturbed run ("same bytes"), ends with one sentence on stderr and status 2 ("sentence"), or leaves out damaged photos
and says how many ("warned"). It fails with a traceback, with a different result and no message, without an end, or with
a process that dies without a message. Hostile archives and tables may be "accepted" if hostile parts are left out. The
defaults take 25 minutes on two cores.

Example:
    python -m benchmarks.faults --kills 100 --damages 40 --limits 20 --hostile 30
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fault_data import ARCHIVES, SECRET, TABLES, write_archive, write_table
from benchmarks.fault_stages import (
    OUTPUTS,
    STAGES,
    Ended,
    Limit,
    Nobody,
    Run,
    clear,
    new_project,
    outputs,
    prepare,
    run,
)
from ssfer.formats.manifest import SCHEMA

GOOD = ("same bytes", "sentence", "warned")
TURNS = (*STAGES, *STAGES[1:] * 2)  # rendering takes ten times as long as any other stage
# File between stages -> the stage that reads it next.
READERS = {
    "data/raw/synthetic/expressions/shard-00000.tar": "align",
    "data/raw/synthetic/people/manifest.parquet": "align",
    "data/faces/expressions/manifest.parquet": "split",
    "data/faces/people/manifest.parquet": "corpus",
    "data/faces/people/shard-00000.tar": "corpus",
    "data/corpus/manifest.parquet": "pretrain",
    "data/corpus/shard-00000.tar": "pretrain",
    "data/splits/split.json": "finetune",
    "data/faces/expressions/shard-00001.tar": "finetune",
    "data/weights/pretrain/encoder.safetensors": "finetune",
    "data/weights/finetune/facemix_last.safetensors": "semisup",
    "data/weights/semisup/teacher_last.safetensors": "evaluate",
    "data/weights/semisup/student_last.safetensors": "robustness",
}
MANIFESTS = {
    "shard elsewhere": {"shard": "../../private.jpg"},
    "absolute shard": {"shard": "/etc/passwd"},
    "negative offset": {"offset": -100},
    "offset beyond": {"offset": 2**40},
    "negative size": {"size": -1},
    "huge size": {"size": 2**62},
    "wrong checksum": {"crc32": 1},
    "id twice": {"sample_id": "people/same"},
    "unknown usage": {"usage": "exam\x1b[2J"},
    "short box": {"box": [1.0]},
    "huge crop": {"crop_size": 2**31 - 1},
    "negative crop": {"crop_size": -64},
}
Played = tuple[str, str, str, str]  # kind, what, verdict, output


class Campaign:
    """The undisturbed project, the bytes and times of its stages, and copies of it."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.random = work, random.Random(seed)
        self.whole = work / "whole"
        new_project(self.whole)
        self.bytes: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.lost: dict[str, int] = {}
        for stage in STAGES:
            ended = run(self.whole, stage)
            if ended.status != 0:
                raise SystemExit(f"the undisturbed {stage} ends with {ended.status}: {ended.said[-2000:]}")
            self.bytes[stage], self.seconds[stage] = outputs(self.whole, stage), ended.seconds
            self.lost[stage] = lost(ended)
            print(f"undisturbed {stage}: {ended.seconds:.1f} s, {len(self.bytes[stage])} files", flush=True)

    def copy(self) -> Path:
        """Return a fresh copy of the project."""
        folder = self.work / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.whole, folder, symlinks=True)
        return folder

    def verdict(self, folder: Path, stage: str, ended: Ended) -> str:
        """Return the verdict on a run that has ended; it must report lost photos."""
        found = ended.verdict(outputs(folder, stage) == self.bytes[stage])
        return "warned" if found == "silent" and lost(ended) > self.lost[stage] else found

    def kills(self, count: int) -> Iterator[Played]:
        """Kill a stage at a random moment, once or twice, and run it again to its end."""
        for i in range(count):
            stage, folder = TURNS[i % len(TURNS)], self.copy()
            clear(folder, stage)
            for _ in range(self.random.choice((1, 1, 2))):
                after = self.random.uniform(0, 1.1 * self.seconds[stage])
                process = Run(folder, stage)
                time.sleep(after)
                process.stop()
            ended = run(folder, stage)
            found = self.verdict(folder, stage, ended)
            # After a kill only the same bytes pass: a sentence would mean that the run cannot be continued.
            yield "kill", f"{stage} after {after:.2f} s", found if found != "sentence" else "not continued", ended.said

    def damages(self, count: int) -> Iterator[Played]:
        """Damage a file between stages, or one that a killed stage left, and run the stage that reads it."""
        half = {stage: self._stopped(stage) for stage in ("align", "pretrain")}
        for i in range(count):
            place = self.random.randrange(len(READERS) + len(half))
            if place < len(READERS):
                name, stage = list(READERS.items())[i % len(READERS)]
                folder = self.copy()
            else:
                stage, folder = list(half)[i % len(half)], self.work / "copy"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(self.work / f"stopped-{stage}", folder)
                left = [p for p in sorted((folder / ".scratch").rglob("*")) if p.is_file() and p.stat().st_size]
                left = [p for p in left if "warp" not in p.parts and "lock" not in p.name]
                name = str(self.random.choice(left).relative_to(folder))
            how = damage(folder / name, self.random)
            ended = run(folder, stage)
            yield "damage", f"{how} {name} for {stage}", self.verdict(folder, stage, ended), ended.said

    def _stopped(self, stage: str) -> Path:
        """Return a copy of the project in which a stage was killed in the middle of its work."""
        for share in (0.6, 0.75, 0.85, 0.5, 0.9, 0.95):
            folder = self.copy()
            clear(folder, stage)
            process = Run(folder, stage)
            time.sleep(share * self.seconds[stage])
            process.stop()
            if not (folder / OUTPUTS[stage][0]).exists() and any((folder / ".scratch").rglob("*-*.*")):
                break
        kept = self.work / f"stopped-{stage}"
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        return kept

    def limits(self, count: int) -> Iterator[Played]:
        """Run stages under limits: file size, open files, memory, read-only folders, a file instead of a folder."""
        for i in range(count):
            stage, folder = STAGES[1 + i % (len(STAGES) - 1)], self.copy()
            what = ("file size", "read-only", "memory", "a file in the way", "open files")[i % 5]
            before: Callable[[], None] | None = None
            clear(folder, stage)
            if what == "file size":
                before = Limit(resource.RLIMIT_FSIZE, self.random.choice((0, 100, 3000, 20_000)))
            elif what == "memory":
                before = Limit(resource.RLIMIT_AS, self.random.choice((2, 4, 6)) * 2**30)
            elif what == "open files":
                before = Limit(resource.RLIMIT_NOFILE, self.random.choice((12, 16, 24)))
            elif what == "read-only":
                before = Nobody()
                for path in [folder, *folder.rglob("*")]:
                    path.chmod(0o555 if path.is_dir() else 0o444)
                folder.chmod(0o777)
            else:
                place = folder / OUTPUTS[stage][0]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to("/proc/nowhere") if i % 2 else place.write_text("mine")
            ended = Run(folder, stage, before).wait()
            found = self.verdict(folder, stage, ended)
            yield "limit", f"{what} for {stage}", found, ended.said

    def hostile(self, count: int) -> Iterator[Played]:
        """Give hostile archives, tables and manifests to the stage that reads them."""
        cases = [("archive", name) for name in ARCHIVES] + [("table", name) for name in TABLES]
        cases += [("manifest", name) for name in MANIFESTS]
        for kind, name in (cases * (1 + count // len(cases)))[:count]:
            if kind == "manifest":
                folder, stage = self.copy(), "corpus"
                path = folder / "data/faces/people/manifest.parquet"
                rows = pq.read_table(path).to_pylist()
                change(rows, MANIFESTS[name])
                schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
                pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
                ended = run(folder, stage)
                found = self.verdict(folder, stage, ended)
            else:
                folder, stage = self.work / "copy", "align"
                shutil.rmtree(folder, ignore_errors=True)
                source = write_archive(folder, name) if kind == "archive" else write_table(folder, name)
                new_project(folder / "project", data={"raw": "own", "classes": ["smile", "frown"], "sources": [source]})
                (folder / "project/data/raw").mkdir(parents=True)
                (folder / "raw").rename(folder / "project/data/raw/own")
                ended = run(folder / "project", stage)
                found = ended.verdict(True)
                found = "accepted" if found == "same bytes" else found
                if leaked(folder):
                    found = "leaked"
            yield "hostile", f"{kind}: {name}", found, ended.said


def lost(ended: Ended) -> int:
    """Return how many photos a run reports as lost."""
    return sum(
        int(n.replace(",", "")) for n in re.findall(r"align: ([\d,]+) of the [\d,]+ images .* are lost", ended.said)
    )


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; return how."""
    data = bytearray(path.read_bytes())
    how = rng.choice(("flip", "flip", "flip", "truncate", "zeros", "empty", "garbage", "delete"))
    at = rng.randrange(len(data))
    if how == "delete":
        path.unlink()
        return how
    if how == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del data[at:]
    elif how == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        data = bytearray() if how == "empty" else bytearray(rng.randbytes(len(data)))
    path.write_bytes(data)
    return how


def change(rows: list[dict[str, object]], changes: dict[str, object]) -> None:
    """Change rows that have a stored crop, two of them so that an id can occur twice."""
    stored = [row for row in rows if row["shard"]]
    for row in stored[:2]:
        row |= changes


def leaked(folder: Path) -> bool:
    """Return whether a private file's content is in the outputs, or something was written outside of them."""
    written = [p for p in (folder / "project").rglob("*") if p.is_file() and "raw" not in p.parts]
    beside = {p.name for p in folder.iterdir()} - {"project", "private.jpg"}
    return bool(beside) or any(SECRET in p.read_bytes() for p in written)


def main() -> None:
    """Run the campaign; exit with status 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, default in (("kills", 100), ("damages", 40), ("limits", 20), ("hostile", 30)):
        parser.add_argument(f"--{kind}", type=int, default=default, help="how many")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    prepare()
    counts: Counter[tuple[str, str]] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ssfer-faults-") as work:
        campaign = Campaign(Path(work), args.seed)
        for kind in ("kills", "damages", "limits", "hostile"):
            for played, what, verdict, said in getattr(campaign, kind)(getattr(args, kind)):
                counts[played, verdict] += 1
                if verdict == "accepted":
                    print(f"accepted: {what}: {said.strip().splitlines()[-1][:200]}", flush=True)
                elif verdict not in GOOD:
                    print(f"{verdict.upper()}: {played} {what}: {said[-700:]}", flush=True)
    verdicts = sorted({verdict for _, verdict in counts}, key=lambda v: (v not in GOOD, v))
    print(f"\n| fault | {' | '.join(verdicts)} |\n|---|{'---|' * len(verdicts)}")
    for kind in dict.fromkeys(kind for kind, _ in counts):
        print(f"| {kind} | {' | '.join(str(counts[kind, verdict]) for verdict in verdicts)} |")
    print(f"{sum(counts.values())} faults in {time.monotonic() - began:.0f} s")
    wrong = sum(n for (_, verdict), n in counts.items() if verdict not in (*GOOD, "accepted"))
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
