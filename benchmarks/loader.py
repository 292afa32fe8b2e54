"""Images a second from stored JPEGs to training batches: the authors' loader and this one, on the same files.

    python -m benchmarks.loader
    python -m benchmarks.loader --images 1024 --workers 0 2 4
    python -m benchmarks.loader --photos photos.zip --side 64 --size 32

Writes the same JPEGs as a tree of class folders and as shards with a manifest into a temporary folder. The authors'
loader is torchvision's: ImageFolder, PIL, RandomResizedCrop(scale 0.2-1, bicubic), flip, ToTensor, Normalize. Both
loaders run with the same number of workers and one thread per process, and take turns, round by round. `per core` is
images per second of CPU time of all processes, so that other work on the machine shows little; `wall` is by the clock.
The rows below the loaders are parts of the work, on one core.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.photos import from_path
from ssfer.boxes import fallback_box
from ssfer.data.dataset import FaceDataset, StepBatches, Stream
from ssfer.data.decode import decode_rgb, decode_with_pillow, fast_decoder
from ssfer.data.transforms import View, Weak, normalize
from ssfer.errors import SsferError
from ssfer.images import encode_jpeg
from ssfer.manifest import MANIFEST_NAME, SCHEMA, write_manifest
from ssfer.runtime import stage_main
from ssfer.shards import ShardWriter

MEAN, STD = (0.588, 0.459, 0.402), (0.228, 0.202, 0.190)
MIN_SCALE = 0.2
CLASSES = 4  # folders of the class tree


def made_up(count: int, side: int) -> list[Image.Image]:
    """Return pictures with as much detail as photos of faces: 10.8 kB as a JPEG of 224 px and quality 95."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        octaves = [cv2.resize(rng.normal(0, 1, (n, n, 3)).astype(np.float32), (side, side)) for n in (4, 12, 36)]
        noise = rng.normal(0, 1, (side, side, 1))
        picture = 128 + 40 * octaves[0] + 14 * octaves[1] + 4 * octaves[2] + 0.6 * noise
        found.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    return found


def write_tree(files: Sequence[bytes], folder: Path) -> None:
    """Write the files as ImageFolder wants them."""
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


class Authors:
    """Batches of normalised float32 (B, 3, S, S)."""

    def __init__(self, folder: Path, size: int, batch: int, workers: int) -> None:
        self.files = ImageFolder(str(folder), authors_transform(size))
        self.batch, self.workers = batch, workers

    def __call__(self, steps: int) -> int:
        """Make `steps` batches and return the number of images."""
        sampler = RandomSampler(self.files, num_samples=steps * self.batch)
        loader = DataLoader(self.files, batch_size=self.batch, sampler=sampler, num_workers=self.workers)
        return sum(len(images) for images, _ in loader)


class Ours:
    """Batches of uint8 (B, 3, S, S), fetched as `ssfer.engine` does, which normalises them on the device.

    Args:
        normalized: do that as well, on the CPU, one image after the other as the authors' loader does.
    """

    def __init__(self, folder: Path, size: int, batch: int, workers: int, normalized: bool = False) -> None:
        transform = Normalized(size, MIN_SCALE) if normalized else Weak(size, MIN_SCALE)
        stream = Stream("ulb", FaceDataset([folder]), batch, {"w": transform}, seed=0)
        self.batches, self.workers, self.done = StepBatches([stream], epochs=10**6), workers, 0

    def __call__(self, steps: int) -> int:
        """Make the next `steps` batches and return the number of images."""
        first, self.done = self.done, self.done + steps
        loader = DataLoader(self.batches, batch_size=None, sampler=range(first, self.done), num_workers=self.workers)
        return sum(len(batch["x_ulb_w"]) for batch in loader)


class Normalized(Weak):
    """`Weak`, then what the engine leaves to the device."""

    def __call__(self, image: torch.Tensor, box: torch.Tensor, key: int) -> View:
        """Return the view with an image of float32."""
        view = super().__call__(image, box, key)
        return View(normalize(view.image[None], MEAN, STD)[0], view.box)


def parts(files: Sequence[bytes], size: int, batch: int) -> dict[str, Callable[[int], int]]:
    """Return the parts of both loaders' work, each as a function of the number of batches."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    images = [torch.from_numpy(decode_rgb(data)).permute(2, 0, 1) for data in files]
    crop, flip, *to_tensor = authors_transform(size).transforms
    views = [crop(picture) for picture in pictures]
    weak, box = Weak(size, MIN_SCALE), torch.tensor(fallback_box(images[0].shape[1]))
    fast = "simplejpeg" if fast_decoder() else "Pillow: no simplejpeg that gives the same bytes"

    def every(do: Callable[[int], object]) -> Callable[[int], int]:
        return lambda steps: len([do(i % len(files)) for i in range(steps * batch)])

    return {
        "authors: decode (Pillow)": every(lambda i: decode_with_pillow(files[i])),
        "authors: crop, resize, flip": every(lambda i: flip(crop(pictures[i]))),
        "authors: ToTensor, Normalize": every(lambda i: to_tensor[1](to_tensor[0](views[i]))),
        f"ours: decode ({fast})": every(lambda i: decode_rgb(files[i])),
        "ours: crop, resize, flip, box": every(lambda i: weak(images[i], box, i)),
    }


def timed(work: Callable[[int], int], steps: int) -> tuple[float, float]:
    """Return images per CPU second (of this process and of the workers it started and saw end) and per second."""
    before, clock = os.times(), time.perf_counter()
    count = work(steps)
    clock, after = time.perf_counter() - clock, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return count / max(cpu, 0.01), count / clock


def interleaved(ways: dict[str, Callable[[int], int]], steps: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the medians of `timed`; all ways take turns, after one short round to warm up."""
    for work in ways.values():
        work(2)
    turns = [{name: timed(work, steps) for name, work in ways.items()} for _ in range(rounds)]
    return {name: tuple(np.median([turn[name] for turn in turns], axis=0)) for name in ways}


def print_rows(rows: dict[str, tuple[float, float]]) -> None:
    """Print table rows; the ratio is to the first."""
    first = next(iter(rows.values()))[0]
    for name, (per_core, wall) in rows.items():
        ratio = f"{per_core / first:.2f}" if "loader" in name else ""
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
    parser.add_argument("--steps", type=int, default=24, help="batches in a turn (default 24)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of each loader (default 0 2)")
    args = parser.parse_args()
    if args.images < args.batch:
        raise SsferError(f"expected at least --batch {args.batch} images, got --images {args.images}")
    torch.set_num_threads(1)
    side, count = args.side, args.images
    found = from_path(args.photos, count) if args.photos else made_up(count, side)
    pictures = [found[i % len(found)].resize((side, side), Image.Resampling.BICUBIC) for i in range(count)]
    files = [encode_jpeg(picture, args.quality) for picture in pictures]
    mean = sum(map(len, files)) / count / 1000
    with tempfile.TemporaryDirectory() as name:
        tree, shards = Path(name) / "tree", Path(name) / "shards"
        write_tree(files, tree)
        write_shards(files, side, shards)
        print(f"{count} JPEGs of {side} px, {mean:.1f} kB each, views of {args.size} px, torch {torch.__version__}\n")
        print("| what | images/s per core | images/s | x authors |\n|---|---|---|---|")
        for workers in args.workers:
            given, suffix = (args.size, args.batch, workers), f"{workers} workers"
            print_rows(
                interleaved(
                    {
                        f"authors' loader, {suffix}": Authors(tree, *given),
                        f"our loader, {suffix}": Ours(shards, *given),
                        f"our loader, normalised on the CPU, too, {suffix}": Ours(shards, *given, normalized=True),
                    },
                    args.steps,
                    args.rounds,
                )
            )
        print_rows(interleaved(parts(files, args.size, args.batch), args.steps, args.rounds))


if __name__ == "__main__":
    stage_main("loader", main)
