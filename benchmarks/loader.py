"""Images per second from stored JPEGs to training batches: the authors' loader and this one, on the same files.

    python -m benchmarks.loader
    python -m benchmarks.loader --images 1024 --workers 0 2 4
    python -m benchmarks.loader --photos photos.zip --side 64 --size 32

Writes the same JPEGs as a tree of class folders and as shards with a manifest into a temporary folder. The authors'
loader is torchvision's: ImageFolder, PIL, RandomResizedCrop(scale 0.2-1, bicubic), flip, ToTensor, Normalize. Both
loaders run in turns, with the same number of workers and one thread per process; results are medians. `per core` is
images per second of CPU time of all processes, so that other work on the machine matters little. Ours returns bytes,
which the device normalizes; in the rows `normalized there` the loader also normalizes, image by image as the authors'
does. The rows `strong view` are the loader's with RandAugment and without it, where machine.augment leaves it to the
device, and what the device then does; their ratio is to the first of them. The last rows are parts of the work, on one
core.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.photos import from_path
from ssfer.core.errors import SsferError
from ssfer.core.images import encode_jpeg, fallback_box
from ssfer.core.pixels import normalize
from ssfer.core.process import stage_main
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.decode import decode_rgb, decode_with_pillow, fast_decoder
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, write_manifest
from ssfer.formats.shards import ShardWriter
from ssfer.train.settings import SemisupSettings

MEAN, STD = (0.588, 0.459, 0.402), (0.228, 0.202, 0.190)
MIN_SCALE = 0.2
RANDAUGMENT = SemisupSettings().randaugment
CLASSES = 4  # folders of the class tree
WARM_UP = 8  # batches (in the parts: images) before the clock starts


def made_up(count: int, side: int) -> list[Image.Image]:
    """Return synthetic images with as much detail as face photos: 10.8 kB as a JPEG of 224 px at quality 95."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        octaves = [cv2.resize(rng.normal(0, 1, (n, n, 3)).astype(np.float32), (side, side)) for n in (4, 12, 36)]
        noise = rng.normal(0, 1, (side, side, 1))
        picture = 128 + 40 * octaves[0] + 8 * octaves[1] + 2 * octaves[2] + 0.35 * noise
        found.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    return found


def write_tree(files: Sequence[bytes], folder: Path) -> None:
    """Write the files as ImageFolder reads them."""
    for i, data in enumerate(files):
        path = folder / f"class{i % CLASSES}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_shards(files: Sequence[bytes], side: int, folder: Path) -> None:
    """Write the files as `align` stores crops."""
    rows = []
    with ShardWriter(folder / "shard-00000.tar") as shard:
        for i, data in enumerate(files):
            name, offset, size = shard.add(f"{i:06d}.jpg", data)
            row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
            row |= {"sample_id": f"made-up/{i:06d}", "source": "made-up", "path": f"{i:06d}.jpg", "usage": "none"}
            row |= {"status": "ok", "face_found": True, "num_faces": 1, "crop_size": side}
            rows.append(row | {"shard": name, "offset": offset, "size": size})
    write_manifest(rows, folder / MANIFEST_NAME)


def authors_transform(size: int) -> transforms.Compose:
    """Return the authors' augmentation, as their pretraining script composes it."""
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(MIN_SCALE, 1.0), interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


# A way starts its work when called, and yields the number of images of every batch.
Way = Callable[[], Iterator[int]]


def authors(folder: Path, size: int, batch: int, workers: int) -> Way:
    """Return the authors' loader: batches of normalized float32 (B, 3, S, S)."""
    files = ImageFolder(str(folder), authors_transform(size))

    def work() -> Iterator[int]:
        sampler = RandomSampler(files, num_samples=10**6 * batch, replacement=True)
        for images, _ in DataLoader(files, batch_size=batch, sampler=sampler, num_workers=workers):
            yield len(images)

    return work


class Normalized(StepBatches):
    """Batches of images normalized one by one, which the training loop leaves to the device."""

    def _batch(self, step: int) -> dict[str, torch.Tensor]:
        batch = super()._batch(step)
        for row, image in enumerate(batch["x_ulb_w"]):
            found = normalize(image[None], MEAN, STD)[0]
            if row == 0:
                room = self._room(len(batch["x_ulb_w"]), found)
            room[row] = found
        return {**batch, "x_ulb_w": room}


def ours(
    folder: Path,
    transform: Weak,
    batch: int,
    workers: int,
    on_device: bool = False,
    kind: type[StepBatches] = StepBatches,
) -> Way:
    """Return our loader, as `ssfer.train.loop` uses it: batches of uint8 (B, 3, S, S), normalized on the device."""
    stream = Stream("ulb", FaceDataset([folder]), batch, {"w": transform}, seed=0)
    batches = kind([stream], epochs=10**5, on_device=on_device)

    def work() -> Iterator[int]:
        for parts in DataLoader(batches, batch_size=None, sampler=range(len(batches)), num_workers=workers):
            yield len(parts["x_ulb_w"])

    return work


def on_the_device(folder: Path, transform: Strong, batch: int, device: torch.device) -> Way:
    """Return RandAugment of one loaded batch after another on the device."""
    stream = Stream("ulb", FaceDataset([folder]), batch, {"s": transform}, seed=0)
    batches = StepBatches([stream], epochs=10**5, on_device=True)
    made = [batches[i] for i in range(4)]

    def work() -> Iterator[int]:
        for parts in cycle(made):
            yield len(batches.arrived(parts, device)["x_ulb_s"].cpu())  # waits for the device

    return work


def parts_of_the_work(files: Sequence[bytes], size: int) -> dict[str, Way]:
    """Return the parts of both loaders' work."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    images = [torch.from_numpy(decode_rgb(data)).permute(2, 0, 1) for data in files]
    crop, flip, *to_tensor = authors_transform(size).transforms
    views = [crop(picture) for picture in pictures]
    weak, box = Weak(size, MIN_SCALE), torch.tensor(fallback_box(images[0].shape[1]))
    fast = "simplejpeg" if fast_decoder() else "Pillow: no simplejpeg that gives the same bytes"

    def every(do: Callable[[int], object]) -> Way:
        def work() -> Iterator[int]:
            for i in cycle(range(len(files))):
                do(i)
                yield 1

        return work

    return {
        "authors: decode (Pillow)": every(lambda i: decode_with_pillow(files[i])),
        "authors: crop, resize, flip": every(lambda i: flip(crop(pictures[i]))),
        "authors: ToTensor, Normalize": every(lambda i: to_tensor[1](to_tensor[0](views[i]))),
        f"ours: decode ({fast})": every(lambda i: decode_rgb(files[i])),
        "ours: crop, resize, flip, box": every(lambda i: weak(images[i], box, i)),
    }


def cpu_seconds() -> float:
    """Return the CPU time so far of this process and of its workers."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children()))


def timed(way: Way, seconds: float) -> tuple[float, float]:
    """Return a way's images per CPU second and per second, after some batches of warm-up."""
    work = way()
    for _ in range(WARM_UP):
        next(work)
    cpu, start, count = cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += next(work)
    cpu, clock = cpu_seconds() - cpu, time.perf_counter() - start
    work.close()  # type: ignore[attr-defined]  # ends the workers
    return count / cpu, count / clock


def interleaved(ways: dict[str, Way], seconds: float, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the medians of `timed`; all ways take turns."""
    turns = [{name: timed(way, seconds) for name, way in ways.items()} for _ in range(rounds)]
    return {name: tuple(np.median([turn[name] for turn in turns], axis=0)) for name in ways}


def print_rows(rows: dict[str, tuple[float, float]]) -> None:
    """Print table rows; the ratio is to the first."""
    first = next(iter(rows.values()))[0]
    for name, (per_core, wall) in rows.items():
        ratio = f"{per_core / first:.2f}" if "loader" in name or "Rand" in name else ""
        print(f"| {name} | {per_core:.0f} | {wall:.0f} | {ratio} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="different files (default 256)")
    parser.add_argument("--photos", type=Path, help="folder or zip of photos to use instead of made-up pictures")
    parser.add_argument("--side", type=int, default=224, help="of the stored crops (default 224)")
    parser.add_argument("--size", type=int, default=224, help="of the network's input (default 224)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs (default 95, as align.quality)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn (default 3)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of each loader (default 0 2)")
    parser.add_argument("--device", default="cpu", help="for RandAugment (default cpu)")
    args = parser.parse_args()
    if args.images < args.batch:
        raise SsferError(f"expected at least --batch {args.batch} images, got --images {args.images}")
    torch.set_num_threads(1)
    side, count = args.side, args.images
    found = list(from_path(args.photos, count)) if args.photos else made_up(count, side)
    pictures = [found[i % len(found)].resize((side, side), Image.Resampling.BICUBIC) for i in range(count)]
    files = [encode_jpeg(picture, args.quality) for picture in pictures]
    mean = sum(map(len, files)) / count / 1000
    with tempfile.TemporaryDirectory() as folder:
        tree, shards = Path(folder) / "tree", Path(folder) / "shards"
        write_tree(files, tree)
        write_shards(files, side, shards)
        print(f"{count} JPEGs of {side} px, {mean:.1f} kB each, views of {args.size} px, torch {torch.__version__}\n")
        print("| what | images/s per core | images/s | x authors |\n|---|---|---|---|")
        for workers in args.workers:
            name = f"loader, {workers} workers"
            ways = {
                f"authors' {name}": authors(tree, args.size, args.batch, workers),
                f"our {name}": ours(shards, Weak(args.size, MIN_SCALE), args.batch, workers),
                f"our {name}, normalized there": ours(
                    shards, Weak(args.size, MIN_SCALE), args.batch, workers, kind=Normalized
                ),
            }
            print_rows(interleaved(ways, args.seconds, args.rounds))
        strong = Strong(args.size, MIN_SCALE, RANDAUGMENT, MEAN)
        ways = {
            "strong view by the loader": ours(shards, strong, args.batch, 0),
            "strong view by the loader, RandAugment left": ours(shards, strong, args.batch, 0, on_device=True),
            f"RandAugment on {args.device}": on_the_device(shards, strong, args.batch, torch.device(args.device)),
        }
        print_rows(interleaved(ways, args.seconds, args.rounds))
        print_rows(interleaved(parts_of_the_work(files, args.size), args.seconds / 3, args.rounds))


if __name__ == "__main__":
    stage_main("loader", main)
