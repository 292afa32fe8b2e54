"""How alike two small pictures are, of whole photos or of crops, if their photos are one.

The second of two witnesses for a near duplicate: perceptual hashes within a few bits make a candidate, and the
pictures, registered onto each other, must agree in grey values and in details (`ssfer.copies.registration`, whose measure the
pipeline uses). A whole photo is compared with a crop by cutting the same crop out of it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ssfer.copies.scan import SIDE, small_picture
from ssfer.faces import alignment as align
from ssfer.faces.alignment import resize_matrix

_FINER = 4  # a crop is cut at this multiple of SIDE, then averaged, as stored crops are


def likeness(a: np.ndarray, b: np.ndarray, matrices: np.ndarray, sizes: np.ndarray) -> float:
    """Return the lower of the correlations of grey values and details, -1 where the pictures cannot be compared.

    Args:
        a, b: (SIDE, SIDE) uint8.
        matrices: (2, 2, 3) photo -> picture; NaN for whole photos.
        sizes: (2, 2) width and height of the photos.
    """
    from ssfer.copies.registration import registered  # imports torch, which the processes that read images do without

    to_a, to_b = (_square(m, size) for m, size in zip(matrices, sizes, strict=True))
    return min(registered(a, b, to_a @ _rescale(sizes[1], sizes[0]) @ np.linalg.inv(to_b)))


def crop_like(photo: Image.Image, matrix: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture (SIDE, SIDE) uint8 and matrix (2, 3) of the crop that another copy of the photo has.

    The whole photo at SIDE px would be too coarse: of crops that show half a photo's width one in six would be missed,
    of those that show 0.3 of it nine in ten (250 press photos, copies of 70 % size and JPEG quality 60).

    Args:
        matrix: (2, 3) other photo -> its picture.
        size: width and height of the other photo.
    """
    to_picture = (_square(matrix, size) @ _rescale(np.array(photo.size), size))[:2]
    finer = _square(resize_matrix(SIDE, SIDE, _FINER * SIDE), size) @ np.vstack([to_picture, [0.0, 0.0, 1.0]])
    return small_picture(align.warp(photo, finer[:2], _FINER * SIDE)), to_picture


def _rescale(size: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the (3, 3) map of resizing a photo; edges map to edges."""
    x, y = new / size
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _square(matrix: np.ndarray, size: np.ndarray) -> np.ndarray:
    if np.isnan(matrix).any():
        matrix = resize_matrix(int(size[0]), int(size[1]), SIDE)
    return np.vstack([matrix, [0.0, 0.0, 1.0]])
