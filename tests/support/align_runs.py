"""Settings, inputs and processes for runs of stage align."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

from ssfer.core.process import stage_main
from ssfer.datasets.base import SourceSettings
from ssfer.faces.build import build_faces
from ssfer.faces.detectors.base import Detector
from ssfer.faces.settings import AlignSettings
from ssfer.faces.workers import LocalProcesses
from tests.support.image_files import encoded
from tests.support.rendered_photos import bright_photo

PARAMS = AlignSettings(
    detector="mtcnn",
    turned=False,
    size=64,
    quality=95,
    min_score=0.5,
    box_min_score=0.4,
    several_faces="highest_score",
    max_pixels=1_000_000,
    shard_size=16,
)


LEFT, RIGHT = (10, 20, 40, 60), (60, 30, 85, 65)


def write_people(root: Path, count: int = 40) -> SourceSettings:
    """A folder of bright photos: most with one face, some with two, none, or damaged."""
    folder = root / "people"
    for i in range(count):
        (folder / f"p{i % 5}").mkdir(parents=True, exist_ok=True)
        boxes = {3: (LEFT, RIGHT), 7: ()}.get(i % 10, (LEFT,))
        data = encoded(bright_photo(*boxes, seed=i))
        (folder / f"p{i % 5}" / f"{i:03d}.png").write_bytes(data[:50] if i % 10 == 9 else data)
    return people("people")


def people(path: str) -> SourceSettings:
    return SourceSettings(name="people", kind="identities", path=path, labeled=False, align="similarity")


def align(
    root: Path,
    detector: Callable[[], Detector],
    workers: int = 1,
    path: str = "people",
    settings: AlignSettings = PARAMS,
) -> None:
    """Work of a launch: align to root/out as stage align does."""
    fork = multiprocessing.get_context("fork")  # this process has imported everything and computed nothing
    multiprocessing.get_context = lambda *_: fork  # type: ignore[assignment,misc]

    def main() -> None:
        build_faces(people(path), root, root / "out", settings, executor=LocalProcesses(workers), detector=detector)

    stage_main("align", main)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
