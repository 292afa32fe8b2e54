"""Ray casting of the head on the CPU: RGB image and ground truth of a person, an expression and a shot.

Pixel coordinates: x right, y down, the center of the top left pixel is (0, 0). Colors are linear RGB.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import warp as wp

from ssfer.rendered.mesh import HeadMesh, load_head
from ssfer.rendered.people import Array, Person, Shot
from ssfer.rendered.ray_casting import Scene, start_warp, to_device, trace

SAMPLES = 2  # rays per pixel side: 2 x 2 rays are averaged


class Renderer:
    """Holds the head and its acceleration structure; one per process, about 60 MB."""

    def __init__(self) -> None:
        start_warp()
        self.head: HeadMesh = load_head()
        faces = self.head.faces
        self._faces = to_device(faces, int)
        self._part = to_device(self.head.part, int)
        self._rest = to_device(self.head.rest, wp.vec3)
        self._mesh = wp.Mesh(to_device(self.head.rest, wp.vec3), to_device(faces.ravel(), int))

    def render(
        self, person: Person, actions: Mapping[str, float], shot: Shot, background: Array
    ) -> tuple[Array, dict[str, Any]]:
        """Return the picture (H, W, 3) in linear RGB and its ground truth.

        The truth holds `box` (x1, y1, x2, y2) around the face from hairline to chin, `landmarks` 5 x (x, y): eyes,
        nose, mouth corners, image-left first, both in pixels, and yaw, pitch, roll in degrees.

        Args:
            person: whose head it is.
            actions: facial actions (name -> weight).
            shot: camera and light.
            background: (H, W, 3), H = W, linear RGB; not changed.
        """
        size = len(background)
        head = self.head
        posed = head.perform(person.neutral, actions)
        vertices, focal, center = place(head, person, posed, shot, size)
        scene = Scene()
        scene.samples, scene.focal, scene.distance = SAMPLES, focal, shot.distance
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
        inputs = [self._mesh.id, scene, self._faces, self._part, self._rest, to_device(head.normals(vertices), wp.vec3)]
        inputs += [to_device(_shade_mouth(head, posed, person.paint), wp.vec3), to_device(background, wp.vec3)]
        wp.launch(trace, dim=(size, size), inputs=inputs, outputs=[image], device="cpu")
        points = np.stack(project(vertices, focal, center, shot.distance), axis=1)
        return image.numpy().astype(np.float64), _truth(head, points, shot)


def place(
    head: HeadMesh, person: Person, posed: Array, shot: Shot, size: int
) -> tuple[Array, float, tuple[float, float]]:
    """Return the vertices (V, 3) turned about the face's middle, now the origin; focal length and center in pixels.

    Args:
        head: topology and regions.
        person: whose head it is.
        shot: camera and light.
        size: side of the picture in pixels.
        posed: (V, 3) the person's mesh with an expression; scale and position come from the neutral face, so an open
            mouth does not shrink the head.
    """
    front = person.neutral[head.front]
    low, high = front.min(axis=0), front.max(axis=0)
    middle = (low + high) / 2
    focal = shot.height * size * (shot.distance - (high[2] - middle[2])) / (high[1] - low[1])
    center = ((size - 1) / 2 + shot.shift[0] * size, (size - 1) / 2 + shot.shift[1] * size)
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


def _shade_mouth(head: HeadMesh, posed: Array, paint: Array) -> Array:
    """Return the paint with teeth and tongue darkened, because little light enters a nearly closed mouth."""
    upper, lower = head.lip_edges
    gap = posed[upper, 1] - posed[lower, 1]
    return np.where(head.inner[:, None], paint * np.clip(0.1 + gap / 0.12, 0.1, 1.0), paint)


def _truth(head: HeadMesh, points: Array, shot: Shot) -> dict[str, Any]:
    """Return box, landmarks and pose of a head whose vertices project to pixels (V, 2)."""
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
