"""Are two photos one picture? Decided on their stored face crops, shrunk to 32 x 32 grey pixels: their looks.

If both photos are one picture up to scale, their alignment matrices say where each pixel of one crop lies in the other.
From there the crops are registered (an affine map, `cv2.findTransformECC`), because copies are often cut a little
differently, and must agree twice: in their grey values and in their details (what is left when the local mean is taken
away). Grey values alone do not do: well aligned faces of two people correlate with up to 0.95. Mirrored copies and
those that are cut so differently that their perceptual hashes disagree are not found.

Measured on pairs within 8 bits, 64 px crops: of FER2013, whose copies are many, 3,526 pairs pass; 40 of those seen at
the lower end, where both correlations are hardly above 0.85, were all true copies, and nine in ten of the other pairs
stay below 0.75. Of 3,306 press photos nine pairs pass, of 9,086 rendered faces the six planted ones and two others.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from PIL import Image

from ssfer.core.process import available_cpus
from ssfer.faces.alignment import resize_matrix
from ssfer.formats.shards import ShardReader

SIDE = 32
_PAIRS = 256  # compared together: few enough for the caches
_BLACK = 8  # grey values up to here are outside the photo
_SIGMA = 2.0  # of the local mean, px of a look
_MIN_OVERLAP = 0.25  # of the look; less means that another face of the photo was chosen
# Cheap first look: correlation of details in the best shift. Of FER2013's 3,623 true pairs it loses 2 in 100, of other
# candidates it leaves 1 in 10.
_FIRST_DETAIL, _SHIFT = 0.5, 4
_MAX_TURN, _MAX_STRETCH = 0.06, 1.1
_GAUSSIAN = np.exp(-0.5 * (np.subtract.outer(np.arange(SIDE), np.arange(SIDE)) / _SIGMA) ** 2).astype(np.float32)
_ECC = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)


class Looks:
    """The looks of manifest rows, read from the shards when they are asked for and kept in a temporary file.

    Args:
        table: manifest rows with source, shard, offset, size, matrix, crop_size, width and height.
        faces: folder that holds one folder of shards per source.
    """

    def __init__(self, table: pa.Table, faces: Path) -> None:
        self._rows = table.select(["source", "shard", "offset", "size"]).combine_chunks()
        self._readers = {s: ShardReader(faces / s) for s in pc.unique(table.column("source")).to_pylist()}
        self.matrix, self.photo = _geometry(table)
        self.usable = np.isfinite(self.matrix).all(axis=(1, 2)) & pc.is_valid(table.column("shard")).to_numpy(
            zero_copy_only=False
        )
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the mapping
        self._file.truncate(max(1, table.num_rows) * SIDE * SIDE)
        self._pixels = np.memmap(self._file, np.uint8, "r+", shape=(table.num_rows, SIDE, SIDE))
        self._known = np.zeros(table.num_rows, dtype=bool)

    def load(self, rows: np.ndarray) -> None:
        """Read the pictures of usable rows that are not known yet."""
        new = np.unique(rows)
        new = new[~self._known[new]]
        for row, place in zip(new.tolist(), self._rows.take(pa.array(new)).to_pylist(), strict=True):
            source = place.pop("source")
            self._pixels[row] = small_grey(self._readers[source].read(**place))
        self._known[new] = True

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return the grey pictures of loaded rows, (n, 32, 32) uint8."""
        assert self._known[rows].all()
        return np.asarray(self._pixels[rows])


def small_grey(data: bytes) -> np.ndarray:
    """Return an image file as (32, 32) uint8; large JPEG files are shrunk while they are decoded."""
    image = Image.open(BytesIO(data))
    image.draft("L", (2 * SIDE, 2 * SIDE))
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def _geometry(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n, 3, 3) maps from photo to look pixels, NaN where there is no crop, and photo sizes (n, 2)."""
    columns = table.select(["matrix", "crop_size", "width", "height"]).combine_chunks()
    to_crop = np.full((table.num_rows, 3, 3), np.nan)
    known = pc.is_valid(columns.column("matrix")).to_numpy(zero_copy_only=False)
    values = pc.list_flatten(columns.column("matrix")).to_numpy(zero_copy_only=False)
    to_crop[known, :2] = values.reshape(-1, 2, 3)
    to_crop[known, 2] = (0.0, 0.0, 1.0)
    sizes = columns.column("crop_size").to_numpy(zero_copy_only=False)
    to_look = np.full((table.num_rows, 3, 3), np.nan)
    for size in np.unique(sizes[known]):
        to_look[known & (sizes == size)] = np.vstack([resize_matrix(int(size), int(size), SIDE), [0.0, 0.0, 1.0]])
    photo = np.stack([columns.column(c).to_numpy(zero_copy_only=False) for c in ("width", "height")], axis=1)
    return to_look @ to_crop, photo.astype(np.float64)


def same_picture(i: np.ndarray, j: np.ndarray, left: Looks, right: Looks, correlation: float) -> np.ndarray:
    """Return (n,) bool: which candidate pairs (left row i, right row j) are one picture; see the module docstring.

    Args:
        correlation: least correlation of grey values and of details, 0 to 1.
    """
    result = np.zeros(len(i), dtype=bool)
    usable = np.flatnonzero(left.usable[i] & right.usable[j])
    left.load(i[usable])
    right.load(j[usable])

    def work(block: np.ndarray) -> None:
        a, b = left.pixels(i[block]), right.pixels(j[block])
        over = _expected(left, i[block], right, j[block])
        for k in np.flatnonzero(_first_look(a, b, over)):
            result[block[k]] = min(registered(a[k], b[k], over[k])) >= correlation

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # blocks run side by side instead
    try:
        with ThreadPoolExecutor(available_cpus()) as pool:  # OpenCV and torch let go of Python's lock
            list(pool.map(work, (usable[start : start + _PAIRS] for start in range(0, len(usable), _PAIRS))))
    finally:
        torch.set_num_threads(threads)
    return result


def _expected(left: Looks, i: np.ndarray, right: Looks, j: np.ndarray) -> np.ndarray:
    """Return (n, 3, 3) maps from pixels of look j to those of look i, if both photos are one picture up to scale."""
    scale = left.photo[i] / right.photo[j]
    rescale = np.zeros((len(i), 3, 3))
    rescale[:, [0, 1], [0, 1]], rescale[:, :2, 2], rescale[:, 2, 2] = scale, (scale - 1) / 2, 1.0
    return left.matrix[i] @ rescale @ np.linalg.inv(right.matrix[j])


def _first_look(a: np.ndarray, b: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Return (n,) bool: pairs worth registering.

    Their details, laid over each other as the alignment matrices say, correlate well in the best of all shifts by up to
    _SHIFT pixels; all shifts at once by Fourier transforms.
    """
    y, x = (v.ravel() for v in np.mgrid[0:SIDE, 0:SIDE])
    at = over[:, :2] @ np.stack([x, y, np.ones_like(x)])  # (n, 2, 1024), x and y in look a
    grid = torch.from_numpy((at / ((SIDE - 1) / 2) - 1).astype(np.float32)).transpose(1, 2)
    both = np.concatenate([a, b]).astype(np.float32)
    details = torch.from_numpy(_details(both, both > _BLACK))
    moved = F.grid_sample(details[: len(a), None], grid.reshape(-1, SIDE, SIDE, 2), align_corners=True)[:, 0]
    padded = (SIDE + 2 * _SHIFT,) * 2  # so that a shift does not wrap around
    spectra = (torch.fft.rfft2(v, s=padded) for v in (moved, details[len(a) :]))
    products = torch.fft.irfft2(next(spectra) * next(spectra).conj(), s=padded)
    near = torch.cat([torch.arange(_SHIFT + 1), torch.arange(padded[0] - _SHIFT, padded[0])])
    best = products[:, near][:, :, near].amax(dim=(1, 2))
    norm = moved.flatten(1).norm(dim=1) * details[len(a) :].flatten(1).norm(dim=1)
    return ((norm > 1) & (best >= _FIRST_DETAIL * norm)).numpy()


def _details(looks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (n, 32, 32) float32 looks without their local mean, which counts pixels of weight 1, not of weight 0."""
    # A Gaussian mean along rows and columns is a matrix on either side; its scale cancels out in the ratio.
    mean, counted = (_GAUSSIAN @ v.astype(np.float32) @ _GAUSSIAN for v in (looks * weights, weights))
    mean /= np.maximum(counted, 1e-6)
    return (looks - mean) * weights


def _correlations(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of rows of (n, m) float32 arrays where bool `mask` holds; flat ones -1."""
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(np.float32)
    x, y = (np.where(mask, v, np.float32(0)) for v in (x, y))
    x, y = ((v - v.sum(axis=1, keepdims=True) / count) * mask for v in (x, y))
    dot, xx, yy = (np.einsum("ij,ij->i", p, q) for p, q in ((x, y), (x, x), (y, y)))
    norm = np.sqrt(xx * yy)
    return np.where(norm > 1, dot / np.maximum(norm, 1), -1.0)


def _is_plausible(change: np.ndarray) -> bool:
    """Say whether a copy may be cut this way: shifted, scaled, a little stretched, but hardly turned or sheared.

    An affine map with all its freedom makes one face look like another. `change` is its (2, 2) linear part relative to
    the expected one. Of FER2013's copies one in a hundred has turned or sheared by more than 0.025, or stretched by
    more than 1.07.
    """
    stretch = np.linalg.svd(change, compute_uv=False)
    return max(abs(change[0, 1]), abs(change[1, 0])) <= _MAX_TURN and stretch[0] <= _MAX_STRETCH * stretch[1]


def registered(a: np.ndarray, b: np.ndarray, over: np.ndarray) -> tuple[float, float]:
    """Return the correlations of grey values and of details of two looks after registration.

    Args:
        a, b: (32, 32) uint8.
        over: (3, 3) expected map from pixels of b to those of a, where the registration starts.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    start = over[:2].astype(np.float32)
    try:
        _, best = cv2.findTransformECC(b, a, start.copy(), cv2.MOTION_AFFINE, _ECC, None, 3)  # type: ignore[call-overload]
    except cv2.error:  # it does not converge: hardly one picture; judged where it is expected
        best = start
    if not _is_plausible(best[:, :2] @ np.linalg.inv(start[:, :2])):
        return -1.0, -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(a, best, (SIDE, SIDE), flags=flags)
    inside = cv2.warpAffine(np.ones_like(a), best, (SIDE, SIDE), flags=flags) > 0.99
    both = inside & (moved > _BLACK) & (b > _BLACK)
    inside &= (moved > _BLACK) | (b > _BLACK)  # what is black in both lies outside the photos
    if inside.mean() < _MIN_OVERLAP:
        return -1.0, -1.0
    details = _details(np.stack([moved, b]), np.stack([both, both]))
    pairs = ((moved, b, inside), (*details, both))
    grey, detail = (float(_correlations(*(v.reshape(1, -1) for v in p))[0]) for p in pairs)
    return grey, detail
