"""Compare `ssfer predict` with a plain script: facenet-pytorch's MTCNN and the network in torch, photo by photo.

    python -m benchmarks.predict --photos photos.zip --model data/weights/model.safetensors

Both find all faces, with the same detector weights, and write probabilities of the same network into a CSV file. Each
round runs both on the same photos, one after the other, including loading models and starting processes.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from benchmarks.photos import from_path
from ssfer.core.pixels import normalize
from ssfer.core.process import available_cpus, stage_main
from ssfer.models import classifier
from ssfer.models.backbone import params_of
from ssfer.predict.run import Job, loaded, predict_paths


def plain(photos: Sequence[Path], model: Path, out: Path) -> int:
    """Write the faces of photos as a plain script would; return their number."""
    from facenet_pytorch import MTCNN
    from torchvision.transforms.functional import pil_to_tensor

    torch.set_num_threads(available_cpus())
    mtcnn = MTCNN(keep_all=True)
    network, meta = classifier.load(model)
    network.eval()
    side, faces = params_of(meta["arch"]).img_size, 0
    with open(out, "w", newline="") as file, torch.inference_mode():
        writer = csv.writer(file)
        writer.writerow(["input", *meta["classes"]])
        for path in photos:
            photo = Image.open(path).convert("RGB")
            boxes, _ = mtcnn.detect(photo)
            for box in boxes if boxes is not None else ():
                crop = photo.crop(tuple(box)).resize((side, side), Image.Resampling.BILINEAR)
                logits = network(normalize(pil_to_tensor(crop)[None], meta["mean"], meta["std"]))
                writer.writerow([path, *logits.softmax(dim=1)[0].tolist()])
                faces += 1
    return faces


def ours(photos: Sequence[Path], model: Path, out: Path, workers: int | None) -> int:
    """Write the faces of photos with `ssfer predict`; return their number."""
    loaded.cache_clear()
    return predict_paths(Job(str(model)), [str(photos[0].parent)], out, workers=workers).faces


def timed(run: Callable[[], int]) -> tuple[int, float]:
    """Return the number of faces and faces per second."""
    begin = time.perf_counter()
    faces = run()
    return faces, faces / (time.perf_counter() - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder or zip of photos")
    parser.add_argument("--model", type=Path, required=True, help="weights of a classifier")
    parser.add_argument("--images", type=int, default=300, help="photos taken (default 300)")
    parser.add_argument("--rounds", type=int, default=2, help="(default 2)")
    parser.add_argument("--workers", type=int, help="processes of ssfer (default: as the command chooses)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for i, photo in enumerate(from_path(args.photos, args.images)):
            photo.save(folder / "photos" / f"{i:05d}.jpg", quality=95)
        photos = sorted((folder / "photos").iterdir())
        print(f"{len(photos)} photos, {available_cpus()} CPUs\n\n| round | way | faces | faces/s |\n|---|---|---|---|")
        for number in range(1, args.rounds + 1):
            for way, run in (
                ("plain", lambda: plain(photos, args.model, folder / "plain.csv")),
                ("ssfer", lambda: ours(photos, args.model, folder / "o.csv", args.workers)),
            ):
                faces, speed = timed(run)
                print(f"| {number} | {way} | {faces} | {speed:.1f} |", flush=True)


if __name__ == "__main__":
    stage_main("predict", main)
