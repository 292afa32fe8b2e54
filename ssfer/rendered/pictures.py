"""One image of the rendered data set, as a JPEG file and a manifest row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from ssfer.core.images import pixel_sha256
from ssfer.core.labels import HAPPINESS, NEUTRAL
from ssfer.rendered.expressions import RENDERED, draw_actions
from ssfer.rendered.people import Person, display, draw_background, draw_person, draw_shot
from ssfer.rendered.render import Renderer

PARTS = ("train", "test", "people")
# Kinds of pictures: regular, three difficult ones, copies. Each kind of each part has its own random streams and
# identities.
KINDS = ("", "two_heads", "no_head", "truncated", "copy")
INTENSITY = (0.5, 1.0)  # of expressions; a lower minimum makes the data set harder
QUALITY = 95  # of the JPEG files
_KEPT = (0.6, 0.3, 0.0)  # share of the bytes that truncated files keep, in turn


@dataclass(frozen=True)
class Picture:
    """An image to render: number `index` of its part and kind."""

    part: str
    index: int
    identity: int
    expression: str | None = None  # None: drawn
    kind: str = ""
    original: Picture | None = None  # of a copy
    exact: bool = False

    @property
    def stream(self) -> tuple[int, int]:
        """Part and kind as numbers, for the seed of its random draws."""
        return PARTS.index(self.part), KINDS.index(self.kind)

    @property
    def identity_name(self) -> str:
        """Name of the person, unique over all parts."""
        part, kind = self.stream
        return f"id{part + 1}{kind}{self.identity:05d}"

    @property
    def source(self) -> str:
        """Folder of the data set: "expressions" or "people"."""
        return "people" if self.part == "people" else "expressions"

    @property
    def path(self) -> str:
        """Path inside the source."""
        folder = self.identity_name if self.part == "people" else f"{self.part}/{self.expression}"
        return f"{folder}/{self.identity_name}_{self.index:06d}.jpg"

    @property
    def sample_id(self) -> str:
        """Id in the manifest."""
        return f"{self.source}/{self.path}"

    @property
    def trouble(self) -> str | None:
        """The difficulty of the image, for the manifest's truth; None for regular ones."""
        if self.original is not None:
            return f"{'exact' if self.exact else 'near'}_duplicate_of:{self.original.sample_id}"
        return self.kind or None


def make_image(seed: int, size: int, picture: Picture) -> tuple[dict[str, Any], bytes]:
    """Return the manifest row (without its place in a shard) and the file's bytes of one picture."""
    data, truth = _photo(seed, size, picture.original or picture)
    if picture.original is not None and not picture.exact:
        data = _disturb(data, truth, picture.index)
    if picture.kind == "truncated":
        data = data[: int(len(data) * _KEPT[picture.index % len(_KEPT)])]
    row: dict[str, Any] = {
        "sample_id": picture.sample_id,
        "source": picture.source,
        "path": picture.path,
        "label": picture.expression if picture.part != "people" else None,
        "usage": picture.part if picture.part != "people" else "none",
        "identity": picture.identity_name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "status": "ok",
        "face_found": False,
        "num_faces": 0,
        "truth": json.dumps({**truth, "trouble": picture.trouble}),
    }
    if picture.kind != "truncated":
        image = Image.open(BytesIO(data))
        row["width"], row["height"] = image.size
        row["pixel_sha256"] = pixel_sha256(image)
    return row, data


def _photo(seed: int, size: int, picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """Return a JPEG file and its ground truth."""
    renderer = _renderer()
    rng = np.random.default_rng([seed, *picture.stream, 0, picture.index])
    expression = picture.expression or _everyday(rng)
    intensity = float(rng.uniform(*INTENSITY))
    actions, shot, image = draw_actions(rng, expression, intensity), draw_shot(rng), draw_background(rng, size)
    truth: dict[str, Any] = {"heads": 0, "identity": picture.identity_name}
    truth |= dict.fromkeys(("box", "landmarks", "yaw", "pitch", "roll", "expression", "intensity"))
    if picture.kind == "two_heads":  # another person behind, smaller, to the right
        shot = draw_shot(rng, height=0.5, shift_x=-0.23)
        other = draw_person(np.random.default_rng([seed, *picture.stream, 2, picture.index]), renderer.head)
        behind = draw_shot(rng, height=0.42, shift_x=0.25)
        image, _ = renderer.render(other, draw_actions(rng, _everyday(rng), 0.8), behind, image)
        truth["heads"] = 1
    if picture.kind != "no_head":
        image, seen = renderer.render(_person(seed, picture.stream, picture.identity), actions, shot, image)
        truth |= {**seen, "expression": expression, "intensity": round(intensity, 3), "heads": truth["heads"] + 1}
    buffer = BytesIO()
    Image.fromarray(display(image)).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue(), truth


def _everyday(rng: np.random.Generator) -> str:
    """Return a random expression as in everyday photos: neutral and happy three times as often as others."""
    often = np.array([3.0 if name in (NEUTRAL, HAPPINESS) else 1.0 for name in RENDERED])
    return RENDERED[int(rng.choice(len(RENDERED), p=often / often.sum()))]


def _disturb(data: bytes, truth: dict[str, Any], index: int) -> bytes:
    """Return a near duplicate: encoded again at low quality, slightly smaller, or slightly brighter, by index.

    Box and landmarks in `truth` are scaled with the image.
    """
    image = Image.open(BytesIO(data)).convert("RGB")
    if index % 3 == 1:
        width = image.width
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.BICUBIC)
        for name in ("box", "landmarks"):
            scaled = (np.array(truth[name]) + 0.5) * (image.width / width) - 0.5  # pixel centers are whole numbers
            truth[name] = scaled.round(3).tolist()
    elif index % 3 == 2:
        image = ImageEnhance.Brightness(image).enhance(1.08)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=60 if index % 3 == 0 else 90)
    return buffer.getvalue()


@cache
def _renderer() -> Renderer:
    return Renderer()


@lru_cache(maxsize=16)
def _person(seed: int, stream: tuple[int, int], identity: int) -> Person:
    return draw_person(np.random.default_rng([seed, *stream, 1, identity]), _renderer().head)
