"""Gray thumbnails of images, the part of the photo that they show, and the temporary file that stores them."""

import tempfile
from collections.abc import Callable, Iterable
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

SIDE = 32


class Thumbnails:
    """Gray thumbnails by row, 1 KB each, in a nameless file in the folder for temporary files (TMPDIR).

    It is written with write(), not through a memory mapping, so that a full disk is an OSError, not a killed process.

    Args:
        rows: number of thumbnails.
        load: returns the thumbnails of some rows, in order; called for rows that are read before they are written.
    """

    def __init__(self, rows: int, load: Callable[[np.ndarray], Iterable[np.ndarray]]) -> None:
        self._load = load
        self._known = np.zeros(rows, dtype=bool)
        self._file = tempfile.TemporaryFile(prefix="ssfer-copies-")  # noqa: SIM115 - lives as long as this object
        self._file.truncate(rows * SIDE * SIDE)  # a sparse file

    def write(self, row: int, thumbnails: np.ndarray) -> None:
        """Write (k, SIDE, SIDE) uint8 from `row` on."""
        self._file.seek(row * SIDE * SIDE)
        self._file.write(thumbnails.tobytes())
        self._known[row : row + len(thumbnails)] = True

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the thumbnails of some rows, (k, SIDE, SIDE) uint8."""
        new = np.unique(rows[~self._known[rows]])
        for row, image in zip(new.tolist(), self._load(new), strict=True):
            self.write(row, image[None])
        self._file.flush()
        mapped = np.memmap(self._file, np.uint8, "r", shape=(len(self._known), SIDE, SIDE))
        return np.array(mapped[rows])


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return the whole image as (SIDE, SIDE) uint8 gray values, each the mean of the pixels it covers."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def decode_thumbnail(crop: bytes) -> np.ndarray:
    """Return a stored crop as (SIDE, SIDE) uint8; large JPEG files are shrunk while they are decoded."""
    with Image.open(BytesIO(crop), formats=("JPEG", "PNG")) as image:
        image.draft("L", (2 * SIDE, 2 * SIDE))
        return thumbnail(image)


def resize_maps(scale: np.ndarray) -> np.ndarray:
    """Return the (n, 3, 3) maps of resizing images by factors (n, 2) in x and y; edges map to edges."""
    maps = np.zeros((len(scale), 3, 3))
    maps[:, [0, 1], [0, 1]], maps[:, :2, 2], maps[:, 2, 2] = scale, (scale - 1) / 2, 1.0
    return maps


def photo_maps(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n, 3, 3) maps from photo to thumbnail pixels and the photo sizes (n, 2), width first; NaN: unknown.

    Args:
        table: manifest rows with matrix, crop_size, width and height. Without a matrix the thumbnail shows the
            whole photo.
    """
    matrix, crop, width, height = (
        table.column(name).combine_chunks() for name in ("matrix", "crop_size", "width", "height")
    )
    sizes = np.stack([v.to_numpy(zero_copy_only=False).astype(np.float64) for v in (width, height)], axis=1)
    maps = resize_maps(SIDE / sizes)
    known = pc.is_valid(matrix).to_numpy(zero_copy_only=False)
    to_crop = np.zeros((int(known.sum()), 3, 3))
    to_crop[:, :2] = pc.list_flatten(matrix).to_numpy(zero_copy_only=False).reshape(-1, 2, 3)
    to_crop[:, 2, 2] = 1.0
    side = crop.to_numpy(zero_copy_only=False)[known].astype(np.float64)
    maps[known] = resize_maps(SIDE / np.stack([side, side], axis=1)) @ to_crop
    return maps, sizes


def expected_maps(maps: np.ndarray, sizes: np.ndarray, other_maps: np.ndarray, other_sizes: np.ndarray) -> np.ndarray:
    """Return (n, 3, 3) maps from the pixels of the other thumbnail to those of this one, for photos equal up to scale.

    Args:
        maps: (n, 3, 3) from photo to thumbnail pixels, see `photo_maps`.
        sizes: (n, 2) of the photos.
        other_maps: likewise, of the other side.
        other_sizes: likewise.
    """
    return maps @ resize_maps(sizes / other_sizes) @ np.linalg.inv(other_maps)
