"""Images a second of batched RetinaFace, of the library's one-by-one `predict_jsons`, and of MTCNN, in one run.

The published ResNet-50 is large to download and speed does not depend on values, so random ones are used unless
--weights names a file; their scores are set so that a handful of boxes passes, as on photos.

Examples:
    python -m benchmarks.detection_speed --threads 2
    python -m benchmarks.detection_speed photos.zip --side 250 --mobilenet retinaface-mobilenet.safetensors
    python -m benchmarks.detection_speed --device cuda --peak 989
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.photos import from_path, rendered
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.faces.detectors.mtcnn import MtcnnDetector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.faces.detectors.retinaface_network import RESNET50, Network
from ssfer.faces.detectors.retinaface_weights import read_weights
from ssfer.faces.workers import worker_count
from ssfer.train.speed import finish

MIN_SCORE, NMS_IOU = 0.7, 0.4  # the library's defaults


def random_weights(path: Path, image: Image.Image, side: int) -> None:
    """Write a ResNet-50 with random values of which about twenty anchors of `image` score above MIN_SCORE."""
    torch.manual_seed(0)
    net = Network(RESNET50).eval()
    pixels = torch.from_numpy(np.array(image.resize((side, side)))).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        _, classes, _ = net((pixels - 117) / 58)
    logit = (classes[0, :, 1] - classes[0, :, 0]).sort(descending=True).values[20]
    with torch.no_grad():
        for head in net.ClassHead:
            head.conv1x1.bias.view(-1, 2)[:, 1] += np.log(MIN_SCORE / (1 - MIN_SCORE)) - float(logit)
    torch.save(net.state_dict(), path)


def library(weights: Path, side: int) -> Callable[[Sequence[Image.Image]], list[list[dict]]]:
    """Return the library's detector as a function of images, on the same weights, without rounding."""
    from retinaface import predict_single

    predict_single.ROUNDING_DIGITS = 9
    model = predict_single.Model(max_size=side)
    model.model.load_state_dict(read_weights(weights).state, strict=False)
    model.eval()
    return lambda images: [model.predict_jsons(np.asarray(image), MIN_SCORE, NMS_IOU) for image in images]


def differences(ours: RetinaFaceDetector, peer: Callable, images: Sequence[Image.Image]) -> str:
    """Return in words how far boxes, landmarks and scores differ at most."""
    worst, boxes = np.zeros(3), 0
    for found, faces in zip(ours.detect_as_library(images), peer(images), strict=True):
        faces = [face for face in faces if face["bbox"]]
        if len(faces) != len(found):
            return f"different numbers of boxes: {len(found)} and {len(faces)}"
        boxes += len(faces)
        for i, face in enumerate(faces):
            pairs = (
                (found.boxes[i], face["bbox"]),
                (found.landmarks[i], face["landmarks"]),
                (found.scores[i], face["score"]),
            )
            worst = np.maximum(worst, [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs])
    return (
        f"largest differences from the library over {boxes} boxes: boxes {worst[0]:.1e} px, "
        f"landmarks {worst[1]:.1e} px, scores {worst[2]:.1e}"
    )


def interleaved(ways: dict[str, Callable], images: Sequence[Image.Image], rounds: int) -> dict[str, float]:
    """Return seconds per image (median over rounds) of each way; all ways take turns, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(images)
            if turn:
                seconds[name].append((time.perf_counter() - start) / len(images))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def flops(side: int) -> int:
    """Return the floating point operations (two per multiplication with addition) of ResNet-50's network per image."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        Network(RESNET50).eval()(torch.empty(1, 3, side, side))
    return counter.get_total_flops()


def matmul_speed() -> float:
    """Return the FLOP/s of a large matrix product with the threads in use: what the network could reach at best."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def on_cpu(images: list[Image.Image], weights: Path, mobilenet: Path | None, side: int, rounds: int) -> None:
    """Print the comparison."""
    peer = library(weights, side)
    ours = RetinaFaceDetector(weights, max_side=side, min_score=MIN_SCORE, nms_iou=NMS_IOU)
    ways: dict[str, Callable] = {
        "retinaface-pytorch predict_jsons": peer,
        "ours, batched": ours.detect,
        "ours, one by one": lambda images: [ours.detect([image]) for image in images],
        "MTCNN": MtcnnDetector().detect,
    }
    if mobilenet:
        ways["ours, batched, mobilenet0.25"] = RetinaFaceDetector(mobilenet, max_side=side).detect
    seconds = interleaved(ways, images, rounds)
    first = next(iter(seconds.values()))
    print("| detector | ms an image | images/s | x library |\n|---|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value:.1f} | {1 / value:.1f} | {first / value:.2f} |")
    work, speed = flops(side), matmul_speed()
    print(
        f"\n{differences(ours, peer, images)}\nResNet-50's network: {work / 1e9:.1f} GFLOP an image; a matrix product "
        f"runs at {speed / 1e9:.0f} GFLOP/s here, so {1000 * work / speed:.0f} ms an image are the limit, "
        f"{first * speed / work:.2f} x library"
    )


def on_device(images: list[Image.Image], weights: Path, device: str, sides: Sequence[int], peak: float | None) -> None:
    """Print images/s of the whole detector and of the network alone, and the arithmetic reached."""
    print("| side | detect images/s | network images/s | TFLOP/s | share of peak |\n|---|---|---|---|---|")
    for side in sides:
        detector = RetinaFaceDetector(weights, device, max_side=side, min_score=MIN_SCORE, nms_iou=NMS_IOU)
        whole = interleaved({"detect": detector.detect}, images, 3)["detect"]
        alone = network_seconds(detector, side, device)
        reached = flops(side) / alone / 1e12
        share = f"{100 * reached / peak:.1f}%" if peak else "-"
        print(f"| {side} | {1 / whole:.0f} | {1 / alone:.0f} | {reached:.2f} | {share} |")


def network_seconds(detector: RetinaFaceDetector, side: int, device: str) -> float:
    """Return seconds per image of the network on pixels that already are on the device."""
    batch = max(1, detector.batch_pixels // side**2)
    pixels = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, device=device)
    best = np.inf
    with torch.inference_mode():
        for _ in range(6):
            finish(pixels.device)
            start = time.perf_counter()
            detector.forward(pixels)
            finish(pixels.device)
            best = min(best, (time.perf_counter() - start) / batch)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder or zip of photos (default: rendered faces)")
    parser.add_argument("--images", type=int, help="how many (default 24, on CUDA 2048)")
    parser.add_argument("--side", type=int, default=250, help="photos are resized to this square on CPU (default 250)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=worker_count("auto"), help="default: all CPUs")
    parser.add_argument("--weights", type=Path, help="RetinaFace ResNet-50 weights (default: random)")
    parser.add_argument("--mobilenet", type=Path, help="RetinaFace MobileNet weights, measured as well")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda measures at 256 and 640 px")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the GPU (dense bf16), to give the share reached")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SsferError("no CUDA device; expected one for --device cuda")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    on_cuda = args.device.startswith("cuda")
    count = args.images or (2048 if on_cuda else 24)
    some = min(count, 24)
    photos = from_path(args.photos, some) if args.photos else [p for p, _ in rendered(some, args.side, 11)]
    images = [photos[i % len(photos)].resize((args.side, args.side)) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights or Path(folder) / "random.pth"
        if not args.weights:
            random_weights(weights, images[0], args.side)
        print(f"{count} photos, {args.device}, {args.threads} threads, torch {torch.__version__}\n")
        if on_cuda:
            on_device(images, weights, args.device, (256, 640), args.peak)
        else:
            on_cpu(images, weights, args.mobilenet, args.side, args.rounds)


if __name__ == "__main__":
    stage_main("detection_speed", main)
