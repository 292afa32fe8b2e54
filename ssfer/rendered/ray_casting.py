# mypy: ignore-errors
"""The Warp kernel that casts rays at the head and shades what they hit, on the CPU.

Kernel code is Python syntax with Warp's types. It is compiled once (seconds) into `.scratch/warp` of the project, or
`WARP_CACHE_PATH`, for a generic CPU: that costs no time here and gives the same bytes on other machines.
Coordinates as in `mesh`, with the camera on the z axis; colors are linear RGB.
"""

# No `from __future__ import annotations` here: Warp reads the annotations of kernels as types.

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from ssfer.core.files import project_root
from ssfer.rendered.mesh import EYE, SKIN

# The cosine of the angle from the eye's axis at the rim of iris and pupil (eyeball radius 0.147: iris 0.066).
_IRIS_COS, _PUPIL_COS = 0.895, 0.980


@wp.struct
class Scene:
    """The kernel's input about a person and a shot; for the names see `Person` and `Shot`."""

    samples: int  # rays per pixel side
    focal: float
    center: wp.vec2
    distance: float
    light: wp.vec3
    key: wp.vec3
    sky: wp.vec3
    ground: wp.vec3
    brow: wp.vec3
    brow_half: float
    brow_lift: float
    brow_arch: float
    iris: wp.vec3
    cloth: wp.vec3
    left_eye: wp.vec3
    right_eye: wp.vec3


@wp.func
def smooth(low: float, high: float, x: float):
    """Return the smoothstep of x: 0 below `low`, 1 above `high`, cubic between."""
    t = wp.clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def brow_weight(scene: Scene, rest: wp.vec3):
    """Return the share of brow in a point of the skin: an arch over each eye, thinner and fainter outward."""
    t = (wp.abs(rest[0]) - 0.11) / 0.47  # 0 at the inner, 1 at the outer end
    bow = 1.0 - (2.2 * t - 1.3) * (2.2 * t - 1.3)
    middle = 7.465 + scene.brow_lift + scene.brow_arch * bow
    half = scene.brow_half * (1.0 - 0.6 * t * t)
    across = 1.0 - smooth(0.7 * half, 1.3 * half, wp.abs(rest[1] - middle))
    along = smooth(-0.04, 0.06, t) * (1.0 - smooth(0.9, 1.05, t))
    front = smooth(1.0, 1.1, rest[2])
    return 0.92 * across * along * front


@wp.func
def eye_color(scene: Scene, rest: wp.vec3):
    """Return the color of white, iris (with a dark rim) or pupil, by the angle from the eye's axis in the mesh."""
    center = scene.left_eye
    if rest[0] > 0.0:
        center = scene.right_eye
    cosine = wp.normalize(rest - center)[2]
    rim = 0.45 + 0.55 * smooth(wp.static(_IRIS_COS), wp.static(_IRIS_COS + 0.02), cosine)
    white = wp.vec3(0.78, 0.76, 0.74)
    color = wp.lerp(white, scene.iris * rim, smooth(wp.static(_IRIS_COS - 0.012), wp.static(_IRIS_COS + 0.006), cosine))
    pupil = smooth(wp.static(_PUPIL_COS - 0.006), wp.static(_PUPIL_COS + 0.004), cosine)
    return wp.lerp(color, wp.vec3(0.006, 0.006, 0.006), pupil)


@wp.kernel
def trace(
    mesh: wp.uint64,
    scene: Scene,
    faces: wp.array2d(dtype=int),
    part: wp.array(dtype=int),
    rest: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    paint: wp.array(dtype=wp.vec3),
    background: wp.array2d(dtype=wp.vec3),
    image: wp.array2d(dtype=wp.vec3),
):
    """Cast samples x samples rays per pixel and write the mean of the linear colors they hit to `image`."""
    row, column = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(scene.samples * scene.samples):
        x = float(column) - 0.5 + (float(k % scene.samples) + 0.5) / float(scene.samples)
        y = float(row) - 0.5 + (float(k / scene.samples) + 0.5) / float(scene.samples)
        ray = wp.normalize(wp.vec3((x - scene.center[0]) / scene.focal, (scene.center[1] - y) / scene.focal, -1.0))
        hit = wp.mesh_query_ray(mesh, wp.vec3(0.0, 0.0, scene.distance), ray, 1000.0)
        if not hit.result:
            total += background[row, column]
            continue
        a, b, c = faces[hit.face, 0], faces[hit.face, 1], faces[hit.face, 2]
        u, v, w = hit.u, hit.v, 1.0 - hit.u - hit.v
        point = u * rest[a] + v * rest[b] + w * rest[c]
        normal = wp.normalize(u * normals[a] + v * normals[b] + w * normals[c])
        color = u * paint[a] + v * paint[b] + w * paint[c]
        is_eye = part[hit.face] == wp.static(EYE)
        if is_eye:
            color = eye_color(scene, point)
        elif part[hit.face] == wp.static(SKIN):
            color = wp.lerp(color, scene.brow, brow_weight(scene, point))
            if point[1] < 5.8 - 0.2 * smooth(0.3, 1.1, point[2]):  # below the collar, lower in front
                color = scene.cloth
        shine = wp.max(wp.dot(normal, wp.normalize(scene.light - ray)), 0.0)
        for _ in range(wp.where(is_eye, 6, 3)):  # to the power of 64 or 8
            shine = shine * shine
        up = 0.5 + 0.5 * normal[1]
        glow = wp.lerp(scene.ground, scene.sky, up) + scene.key * wp.max(wp.dot(normal, scene.light), 0.0)
        total += wp.cw_mul(color, glow) + scene.key * (wp.where(is_eye, 0.7, 0.05) * shine)
    image[row, column] = total / float(scene.samples * scene.samples)


def to_device(array: NDArray[Any], dtype: Any) -> wp.array:
    """Copy to a Warp array in host memory."""
    kind = np.int32 if dtype is int else np.float32
    return wp.array(np.ascontiguousarray(array, kind), dtype=dtype, device="cpu")


def start_warp() -> None:
    """Initialize Warp without its messages; kernels are cached in the project, not in the home folder."""
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(project_root() / ".scratch" / "warp")
    wp.config.log_level = wp.LOG_ERROR
    wp.config.enable_backward = False
    wp.config.cpu_compiler_flags = ""
    with _silent_stderr():
        wp.init()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr: Warp warns there if there is no CUDA driver and has no switch for it."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
