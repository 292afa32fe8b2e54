"""Random people, poses, lights and backgrounds.

Every draw gets its own generator, so a person or a picture depends only on the seed and its number.
Colors are linear RGB in 0..1 (not gamma encoded), angles are degrees, lengths of the head are decimeters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssfer.rendered.makehuman import Array
from ssfer.rendered.mesh import LOCAL_CHANGES, HeadMesh, macro_weights

# Standard deviation of the symmetric local shape changes; with larger ones heads do not look human.
LOCAL_SIGMA = 0.12
# Display values; a person's color lies between two neighbors.
# fmt: off
_SKIN = ((0.92, 0.74, 0.65), (0.86, 0.66, 0.54), (0.76, 0.56, 0.43), (0.62, 0.43, 0.31), (0.46, 0.31, 0.22),
         (0.34, 0.22, 0.16))
_HAIR = ((0.08, 0.06, 0.05), (0.18, 0.11, 0.07), (0.33, 0.21, 0.12), (0.55, 0.38, 0.20), (0.45, 0.20, 0.10),
         (0.55, 0.53, 0.51))
_IRIS = ((0.25, 0.15, 0.08), (0.33, 0.22, 0.11), (0.30, 0.38, 0.24), (0.32, 0.45, 0.58), (0.40, 0.43, 0.45))
# fmt: on


@dataclass(frozen=True)
class Person:
    """The properties that are equal in all pictures of one identity.

    Attributes:
        neutral: (V, 3) mesh at rest. paint: (V, 3) albedo of every vertex.
        brow: albedo; brow_half: half thickness; brow_lift: offset upwards; brow_arch: height of the bow.
        iris: albedo. cloth: albedo.
    """

    neutral: Array
    paint: Array
    brow: Array
    brow_half: float
    brow_lift: float
    brow_arch: float
    iris: Array
    cloth: Array


@dataclass(frozen=True)
class Shot:
    """One picture's camera and light.

    Attributes:
        yaw, pitch, roll: degrees; positive turns the nose to image-right, lifts it, tilts the crown to image-right.
        height: of the face box relative to the image side. shift: (2,) of the face's middle from the image's middle,
            relative to the image side, x right, y down.
        distance: from the camera to the middle of the face.
        light: (3,) unit vector to the key light. key, sky, ground: colors of the light from there, above and below.
    """

    yaw: float
    pitch: float
    roll: float
    height: float
    shift: tuple[float, float]
    distance: float
    light: Array
    key: Array
    sky: Array
    ground: Array


def linear(srgb: Array | tuple[float, ...]) -> Array:
    """Return linear RGB of display values, clipped to 0..1 (plain gamma 2.2)."""
    return np.clip(np.asarray(srgb, np.float64), 0, 1) ** 2.2


def display(colors: Array) -> NDArray[np.uint8]:
    """Return 8-bit display values of linear colors."""
    return np.rint(255 * np.clip(colors, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def draw_person(rng: np.random.Generator, head: HeadMesh) -> Person:
    """Return a random adult: shape, skin, hair, brows, eyes."""
    gender = float(np.clip(rng.normal(rng.integers(2), 0.2), 0, 1))
    age = float(rng.beta(1.2, 2.0))
    macro = macro_weights(gender, age, float(np.clip(rng.normal(0, 0.3), -0.8, 0.8)), rng.dirichlet([0.8, 0.8, 0.8]))
    neutral = head.identity(macro, rng.normal(0, LOCAL_SIGMA, len(LOCAL_CHANGES)))
    skin = linear(_blend(_SKIN, rng.uniform(0, len(_SKIN) - 1)) * rng.normal(1, 0.03, 3))
    hair = linear(np.clip(_blend(_HAIR, rng.uniform(0, len(_HAIR) - 1)) * rng.uniform(0.7, 1.1), 0, 1))
    lips = skin * linear(np.array([0.90, 0.66, 0.66]) + rng.normal(0, 0.03, 3) - (0, 0.06 * gender, 0.06 * gender))
    scalp = _scalp(head, hairline=rng.normal(0, 0.06))
    thickness = rng.uniform(0.03, 0.16) if rng.random() > 0.12 else None
    waves = _bumps(rng, head.rest, frequency=2.5)
    if thickness is not None:
        grown = (scalp * thickness * (1 + 0.3 * waves))[:, None] * head.normals(neutral)
        neutral = neutral + grown
    paint = _paint(head, skin, lips, hair, scalp if thickness is not None else 0.25 * scalp, rng)
    return Person(
        neutral=neutral,
        paint=paint,
        brow=np.minimum(hair * 0.5, skin * rng.uniform(0.06, 0.2)),
        brow_half=rng.uniform(0.034, 0.052) - 0.008 * gender,
        brow_lift=rng.normal(0, 0.008),
        brow_arch=rng.uniform(0.02, 0.05),
        iris=linear(_blend(_IRIS, rng.uniform(0, len(_IRIS) - 1))),
        cloth=linear(rng.uniform(0.15, 0.8) + rng.uniform(-0.2, 0.2, 3)),
    )


def draw_shot(rng: np.random.Generator, height: float | None = None, shift_x: float = 0.0) -> Shot:
    """Return a random nearly frontal portrait: pose sigma 6 to 7 degrees, face 58 to 72 % of the image's height."""
    azimuth, elevation = np.radians([rng.normal(0, 32), rng.uniform(5, 50)])
    tint = rng.normal(1, 0.04, 3)
    key, fill = rng.uniform(0.65, 1.05), rng.uniform(0.22, 0.45)
    return Shot(
        yaw=float(np.clip(rng.normal(0, 7), -20, 20)),
        pitch=float(np.clip(rng.normal(0, 5.5), -15, 15)),
        roll=float(np.clip(rng.normal(0, 6), -18, 18)),
        height=float(rng.uniform(0.58, 0.72)) if height is None else height,
        shift=(
            shift_x + float(np.clip(rng.normal(0, 0.03), -0.08, 0.08)),
            float(np.clip(rng.normal(0.01, 0.03), -0.07, 0.08)),
        ),
        distance=float(rng.uniform(7, 13)),
        light=np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]),
        key=key * tint,
        sky=fill * rng.normal(1, 0.05, 3) * 1.2,
        ground=fill * rng.normal(1, 0.05, 3) * 0.7,
    )


def draw_background(rng: np.random.Generator, size: int) -> Array:
    """Return (size, size, 3) linear colors: a gradient between two colors with soft blotches."""
    first, second = (linear(rng.uniform(0.2, 0.85) + rng.uniform(-0.18, 0.18, 3)) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, size)
    mix = np.clip(0.5 + np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None], 0, 1)[..., None]
    coarse = rng.normal(0, 1, (int(rng.integers(3, 9)),) * 2).astype(np.float32)
    blotches = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float64)[..., None]
    return np.clip((first * (1 - mix) + second * mix) * (1 + rng.uniform(0, 0.35) * blotches), 0, 1)


def _blend(table: tuple[tuple[float, ...], ...], position: float) -> Array:
    """Return the color between two neighbors of a table."""
    low = min(int(position), len(table) - 2)
    return np.array(table[low]) * (1 - position + low) + np.array(table[low + 1]) * (position - low)


def _bumps(rng: np.random.Generator, points: Array, frequency: float) -> Array:
    """Return (V,) smooth noise of about unit size: a few random waves in space."""
    directions = rng.normal(0, frequency, (4, 3))
    return np.sin(points @ directions.T + rng.uniform(0, 2 * np.pi, 4)).sum(axis=1) / 2**0.5


def _scalp(head: HeadMesh, hairline: float) -> Array:
    """Return (V,) in 0..1: where hair grows; `hairline` moves it up."""
    x, y, z = head.rest.T.astype(np.float64)
    # From the nape over the side behind the ear and the temple to the forehead.
    line = np.interp(z, [-0.4, 0.3, 0.55, 0.75, 0.95, 1.25, 1.5], [6.75, 6.9, 7.35, 7.5, 7.78, 7.98, 8.0]) + hairline
    ear = (np.abs(x) > 0.73) & (y < 7.55) & (z > 0.2) & (z < 0.85)
    return np.clip(0.5 + (y - line) / 0.12, 0, 1) * ~ear * ~head.inner


def _paint(head: HeadMesh, skin: Array, lips: Array, hair: Array, scalp: Array, rng: np.random.Generator) -> Array:
    """Return (V, 3) albedo: skin with blotches and red cheeks and nose, then lips, lids, mouth, hair on top."""
    rest = head.rest.astype(np.float64)
    blotches = 1 + 0.03 * _bumps(rng, rest, 4.0) + 0.02 * _bumps(rng, rest, 9.0)
    paint = skin * blotches[:, None]
    for center, radius in (((0.45, 6.95, 1.3), 0.25), ((-0.45, 6.95, 1.3), 0.25), (head.rest[head.nose_tip], 0.2)):
        near = np.exp(-((rest - center) ** 2).sum(axis=1) / radius**2) * rng.uniform(0.1, 0.5)
        paint = _over(paint, near, skin * (1.0, 0.72, 0.70))
    paint = _over(paint, head.lips, lips)
    paint = _over(paint, head.lids, skin * 0.12)
    paint = _over(paint, head.cavity, np.array([0.10, 0.015, 0.015]))
    paint = _over(paint, scalp, hair)
    paint = _over(paint, head.inner, np.array([0.80, 0.77, 0.68]))
    return _over(paint, head.tongue, np.array([0.42, 0.13, 0.13]))


def _over(paint: Array, weight: NDArray[Any], color: Array) -> Array:
    """Return `color` laid over `paint` with `weight` (V,)."""
    weight = np.asarray(weight, np.float64)[:, None]
    return paint * (1 - weight) + weight * color
