"""Time and memory from packed photos to a finished corpus, for growing numbers of photos.

    python -m benchmarks.corpus_scale --records 12000 120000 1200000 --folder /tmp/scale

Writes .rec files of made-up 48 px pictures (insightface's form), then runs the project's own code on them: open the
source, decode, hash, crop and store every photo (`build_faces`, without a face detector, which would hide everything
else: the face is taken to be the whole picture), then select, compare and shuffle (`build_corpus`). One in fifty photos
is an exact copy and one in fifty a re-encoded one. The pictures share a face-like mean, so that their perceptual hashes
crowd together as those of real faces do: the last column says how many of a million pairs that are no copies are within
8 bits (FER2013: 9, press photos: 36). Each of them has to be compared and their number grows with the square;
--distinct makes pictures without such look-alikes and shows the rest.

With --photos PATH (a folder or zip of real photos) the whole of `align`, detection included, is timed on the first 400
of them and extrapolated. Prints a Markdown table; memory is the resident memory of all processes together, CPU time
that of all processes, so that other work on the machine does not show in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image

from ssfer.config.schema import PARAMS_FILE, load_params
from ssfer.copies.find import parse_hashes
from ssfer.copies.hamming import HammingIndex
from ssfer.core.process import available_cpus
from ssfer.corpus.selection import build_corpus
from ssfer.datasets.settings import PlainSource
from ssfer.faces.build import build_faces
from ssfer.faces.detectors.build import Detection
from ssfer.formats.manifest import read_manifest

SIDE, EXACT, NEAR = 48, 25, 26  # photos i with i % 50 == EXACT or NEAR copy photo i - 25
PEOPLE = 50  # photos of a person
MAGIC = 0xCED7230A


def picture(i: int, distinct: bool) -> bytes:
    """Return photo `i` as JPEG bytes; the same every time."""
    if i % 50 in (EXACT, NEAR):
        i, quality = i - 25 - (i % 50 == NEAR), 70 if i % 50 == NEAR else 90
    else:
        quality = 90
    rng = np.random.default_rng([7, i])
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    face = 90 * np.exp(-2 * (x**2 + 0.7 * y**2)) - 50 * np.exp(-20 * ((np.abs(x) - 0.35) ** 2 + (y + 0.25) ** 2))
    grain = cv2.resize(rng.standard_normal((8, 8, 3), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.standard_normal((24, 24, 3), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    pixels = np.clip(90 + face[..., None] + (38 if distinct else 14) * grain + 10 * fine, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_records(folder: Path, records: int, distinct: bool) -> None:
    """Write train.rec and train.idx with photos 1 .. records."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "train.rec", "wb") as rec,
        open(folder / "train.idx", "w") as idx,
        ProcessPoolExecutor(available_cpus()) as pool,
    ):
        pictures = pool.map(partial(picture, distinct=distinct), range(records), chunksize=1000)
        for key in range(records + 1):
            if key:
                content = struct.pack("<IfQQ", 0, float((key - 1) // PEOPLE), key, 0) + next(pictures)
            else:
                content = struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<2f", records + 1, records + 1)
            idx.write(f"{key}\t{rec.tell()}\n")
            rec.write(struct.pack("<II", MAGIC, len(content)) + content + bytes(-len(content) % 4))


class WholePicture:
    """Takes every picture for one face."""

    name = "whole"

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        points = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)
        return [
            Detection(np.array([[0, 0, *image.size]], np.float32), (points * image.width)[None], np.ones(1, np.float32))
            for image in images
        ]


class PeakMemory(threading.Thread):
    """Watches the resident memory of this process and its children; `peak` in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.me = 0.0, psutil.Process()

    def run(self) -> None:
        while True:
            total = 0
            for process in [self.me, *self.me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total / 1e6)
            time.sleep(0.25)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its finished children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(folder: Path, records: int, workers: int) -> None:
    """Run one size in this process and print its figures as JSON."""
    os.environ["DVC_ROOT"] = str(folder)  # where half-done work goes
    params = load_params()
    source = PlainSource(name="made", kind="identities", path="raw", labeled=False, align="similarity")
    watch = PeakMemory()
    watch.start()
    align = params.align.model_copy(update={"size": SIDE})
    start, start_cpu = time.monotonic(), cpu_seconds()
    built = build_faces(source, folder, folder / "faces" / "made", align, workers, detector=WholePicture)
    aligned, aligned_cpu = time.monotonic(), cpu_seconds()
    assert built is not None
    align_peak, watch.peak = watch.peak, 0.0
    corpus = params.corpus.model_copy(update={"min_side": 0})
    counts, _ = build_corpus([source], corpus, folder / "faces", folder / "corpus", align.shard_size)
    done, done_cpu = time.monotonic(), cpu_seconds()
    hashes = parse_hashes(read_manifest(folder / "faces" / "made").column("phash"))
    rows = np.random.default_rng(0).permutation(len(hashes))
    sample = hashes[rows[~np.isin(rows % 50, (EXACT, NEAR))][:11000]]
    pairs = HammingIndex(sample, corpus.near_duplicate_bits).pairs(sample, before=True)
    figures = {
        "align": aligned - start,
        "corpus": done - aligned,
        "align_cpu": aligned_cpu - start_cpu,
        "corpus_cpu": done_cpu - aligned_cpu,
        "align_peak": align_peak,
        "corpus_peak": watch.peak,
        "near": sum(len(i) for i, _ in pairs) / (len(sample) * (len(sample) - 1) / 2) * 1e6,
        **counts,
    }
    print(json.dumps(figures))


def extrapolate(photos: Path, records: int) -> None:
    """Time the whole of `align` with one process on the first real photos and print what `records` would take."""
    from ssfer.datasets.identities import IdentitySource
    from ssfer.faces.crops import FaceProcessor
    from ssfer.faces.detectors.build import build_detector

    params = load_params()
    source = IdentitySource(photos)
    some = source.records()[:400]
    processor = FaceProcessor("photos", "similarity", params.align, build_detector(params.align.detector))
    list(processor.process(some[:32], source.read))  # warm up
    start = time.monotonic()
    found = sum(face.row["face_found"] for face in processor.process(some, source.read))
    rate = len(some) / (time.monotonic() - start)
    print(
        f"\nDetection included, one core, {params.align.detector}, {len(some)} photos of {photos.name}: {rate:.1f} "
        f"images/s, a face in {found}; {records:,} photos: {records / rate / 3600:.1f} core hours."
    )


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[12_000, 120_000, 1_200_000])
    parser.add_argument("--folder", type=Path, default=Path(".scratch/corpus_scale"), help="6 GB for 1.2 million")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--photos", type=Path, help="real photos for the extrapolation of detection")
    parser.add_argument("--distinct", action="store_true", help="pictures without look-alikes")
    parser.add_argument("--keep", action="store_true", help="keep the .rec files for the next time")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not PARAMS_FILE.exists():
        sys.exit("run it in the project's root folder")
    if args.one:
        measure(args.folder, args.one, args.workers)
        return
    print("| photos | kept | hash, crop, store | corpus | CPU time a photo | peak memory | near pairs of 1 M |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for records in args.records:
        folder = args.folder / str(records)
        if not (folder / "done").exists():
            write_records(folder / "raw", records, args.distinct)
            (folder / "done").touch()
        command = [sys.executable, "-m", "benchmarks.corpus_scale", "--one", str(records)]
        command += ["--folder", str(folder), "--workers", str(args.workers)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        f = json.loads(result.stdout.splitlines()[-1])
        print(
            f"| {records:,} | {f['kept']:,} | {f['align']:.0f} s | {f['corpus']:.0f} s | "
            f"{f['align_cpu'] / records * 1e6:.0f} + {f['corpus_cpu'] / records * 1e6:.0f} us | "
            f"{f['align_peak']:.0f}, {f['corpus_peak']:.0f} MB | "
            f"{f['near']:.1f} |",
            flush=True,
        )
        for name in ("faces", "corpus", ".scratch"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if not args.keep:
            shutil.rmtree(folder)
    if args.photos:
        extrapolate(args.photos, args.records[-1])


if __name__ == "__main__":
    main()
