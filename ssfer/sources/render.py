"""Ray casting of the head on the CPU: RGB image and ground truth of a person, an expression and a shot.

Pixel coordinates: x right, y down, the centre of the top left pixel is (0, 0). Colours are linear RGB.
Warp compiles the kernel once (seconds) into its cache, `WARP_CACHE_PATH` or the user's cache folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from ssfer.sources.appearance import Array, Person, Shot
from ssfer.sources.head_mesh import EYE, SKIN, HeadMesh, load_head

SAMPLES = 2  # rays per pixel side: 2 x 2 rays are averaged
# The cosine of the angle from the eye's axis at the rim of iris and pupil (eyeball radius 0.147: iris 0.066).
_IRIS_COS, _PUPIL_COS = 0.895, 0.980


@wp.struct
class Scene:
    """The kernel's view of a person and a shot; names as there."""

    size: int
    samples: int
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
    t = wp.clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def brow_weight(scene: Scene, rest: wp.vec3):
    """How much a point of the skin is brow: a bow over each eye, thinner and fainter outwards."""
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
    """White, iris with a dark rim, pupil: by the angle from the eye's axis, so they turn with the mesh."""
    center = scene.left_eye
    if rest[0] > 0.0:
        center = scene.right_eye
    cosine = wp.normalize(rest - center)[2]
    rim = 0.45 + 0.55 * smooth(wp.static(_IRIS_COS), wp.static(_IRIS_COS + 0.02), cosine)
    white = wp.vec3(0.78, 0.76, 0.74)
    color = wp.lerp(white, scene.iris * rim, smooth(wp.static(_IRIS_COS - 0.012), wp.static(_IRIS_COS + 0.006), cosine))
    return wp.lerp(color, wp.vec3(0.006, 0.006, 0.006), smooth(wp.static(_PUPIL_COS - 0.006), wp.static(_PUPIL_COS + 0.004), cosine))


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
        gloss, power = 0.05, int(3)
        if part[hit.face] == wp.static(EYE):
            color = eye_color(scene, point)
            gloss, power = 0.7, int(6)
        elif part[hit.face] == wp.static(SKIN):
            color = wp.lerp(color, scene.brow, brow_weight(scene, point))
            if point[1] < 5.8 - 0.2 * smooth(0.3, 1.1, point[2]):
                color = scene.cloth
        shine = wp.max(wp.dot(normal, wp.normalize(scene.light - ray)), 0.0)
        for _ in range(power):
            shine = shine * shine
        up = 0.5 + 0.5 * normal[1]
        glow = wp.lerp(scene.ground, scene.sky, up) + scene.key * wp.max(wp.dot(normal, scene.light), 0.0)
        total += wp.cw_mul(color, glow) + scene.key * (gloss * shine)
    image[row, column] = total / float(scene.samples * scene.samples)


class Renderer:
    """Holds the head and its acceleration structure; one per process, about 60 MB."""

    def __init__(self) -> None:
        _start_warp()
        self.head: HeadMesh = load_head()
        faces = self.head.faces
        self._faces = _device(faces, int)
        self._part = _device(self.head.part, int)
        self._rest = _device(self.head.rest, wp.vec3)
        self._mesh = wp.Mesh(_device(self.head.rest, wp.vec3), _device(faces.ravel(), int))

    def render(
        self, person: Person, actions: Mapping[str, float], shot: Shot, background: Array
    ) -> tuple[Array, dict[str, Any]]:
        """Return the picture (H, W, 3) in linear RGB and its ground truth.

        The truth holds `box` (x1, y1, x2, y2) around the face from hairline to chin, `landmarks` 5 x (x, y): eyes,
        nose, mouth corners, image-left first, both in pixels, and yaw, pitch, roll in degrees.

        Args:
            background: (H, W, 3), H = W: what is seen beside the head; not changed.
        """
        size = len(background)
        head = self.head
        vertices, focal, center = place(head, person, head.perform(person.neutral, dict(actions)), shot, size)
        scene = Scene()
        scene.size, scene.samples, scene.focal, scene.distance = size, SAMPLES, focal, shot.distance
        scene.center = wp.vec2(*center)
        for name in ("light", "key", "sky", "ground"):
            setattr(scene, name, wp.vec3(*getattr(shot, name)))
        for name in ("brow", "iris", "cloth"):
            setattr(scene, name, wp.vec3(*getattr(person, name)))
        scene.brow_half, scene.brow_lift, scene.brow_arch = person.brow_half, person.brow_lift, person.brow_arch
        scene.left_eye, scene.right_eye = (wp.vec3(*point) for point in head.eye_centers)
        self._mesh.points.assign(vertices.astype(np.float32))
        self._mesh.refit()
        image = wp.empty((size, size), dtype=wp.vec3, device="cpu")
        inputs = [self._mesh.id, scene, self._faces, self._part, self._rest, _device(head.normals(vertices), wp.vec3)]
        inputs += [_device(person.paint, wp.vec3), _device(background, wp.vec3)]
        wp.launch(trace, dim=(size, size), inputs=inputs, outputs=[image], device="cpu")
        points = np.stack(project(vertices, focal, center, shot.distance), axis=1)
        return image.numpy().astype(np.float64), _truth(head, points, shot)


def place(head: HeadMesh, person: Person, posed: Array, shot: Shot, size: int) -> tuple[Array, float, tuple[float, float]]:
    """Return vertices (V, 3) turned about the face's middle at the origin, focal length and principal point (pixels)."""
    front = person.neutral[head.front]
    low, high = front.min(axis=0), front.max(axis=0)
    middle = (low + high) / 2
    focal = shot.height * size * (shot.distance - (high[2] - middle[2])) / (high[1] - low[1])
    center = tuple((size - 1) / 2 + shift * size for shift in shot.shift)
    return (posed - middle) @ rotation(shot.yaw, shot.pitch, shot.roll).T, float(focal), center


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Return the matrix (3, 3) that turns by yaw, then pitch, then roll (degrees, signs as in Shot)."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def project(points: Array, focal: float, center: tuple[float, float], distance: float) -> tuple[Array, Array]:
    """Return pixel coordinates x (N,) and y (N,) of points (N, 3)."""
    scale = focal / (distance - points[:, 2])
    return center[0] + scale * points[:, 0], center[1] - scale * points[:, 1]


def _truth(head: HeadMesh, points: Array, shot: Shot) -> dict[str, Any]:
    """Return box, landmarks and pose of a head whose vertices are seen at pixels (V, 2)."""
    front = points[head.front]
    lids = [points[(head.lids > 0.5) & (head.rest[:, 0] * side > 0)].mean(axis=0) for side in (-1, 1)]
    landmarks = [*lids, points[head.nose_tip], points[head.corners[0]], points[head.corners[1]]]
    return {
        "box": [round(float(v), 3) for v in (*front.min(axis=0), *front.max(axis=0))],
        "landmarks": [[round(float(v), 3) for v in point] for point in landmarks],
        "yaw": round(shot.yaw, 3),
        "pitch": round(shot.pitch, 3),
        "roll": round(shot.roll, 3),
    }


def _device(array: NDArray[Any], dtype: Any) -> wp.array:
    """Copy to a Warp array in host memory."""
    kind = np.int32 if dtype is int else np.float32
    return wp.array(np.ascontiguousarray(array, kind), dtype=dtype, device="cpu")


def _start_warp() -> None:
    """Initialise Warp silently, with code for a generic CPU: no fused operations, the same bytes on other machines."""
    wp.config.log_level = wp.LOG_ERROR
    wp.config.enable_backward = False
    wp.config.cpu_compiler_flags = ""
    with _silent_stderr():
        wp.init()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr; Warp complains there about every machine without a CUDA driver."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
