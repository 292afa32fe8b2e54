"""Similarity alignment of a face to the five-point template, and the geometry around it.

Points are (x, y) pixels with the center of the first pixel at (0, 0); matrices are 2x3 float64 and map input pixels to
crop pixels. Landmark order: left eye, right eye, nose, left mouth corner, right mouth corner (left = image-left).
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ssfer.faces.settings import Outside

# SSFER specification section 3: the common 112 px template times two, for a 224 px crop.
TEMPLATE_SIZE = 224
TEMPLATE = np.array(
    [[76.589, 103.393], [147.064, 103.003], [112.050, 143.473], [83.099, 184.731], [141.460, 184.408]], dtype=np.float64
)
# Points are rejected if the fit explains less than this share of the template's variance: mirrored points reach 0.05,
# random ones 0.5 at the 85th percentile; the lowest of 31,000 detected faces (FER2013, LFW, rendered) has 0.75.
_MIN_EXPLAINED = 0.5
_BLUR = 1 / 16  # of `outside` "blur": standard deviation as a share of the crop's side


def template(size: int) -> np.ndarray:
    """Return the five template points (5, 2) for a crop of `size` px."""
    return TEMPLATE * (size / TEMPLATE_SIZE)


def estimate_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the 2x3 similarity (rotation, uniform scale, shift; no reflection) that best maps source to target.

    Least squares in closed form. In complex numbers z = x + iy a similarity without reflection is z -> az + b, and the
    minimizer is a = sum(conj(s) t) / sum(|s|^2) over centered points: Umeyama's solution in two dimensions.

    Args:
        source, target: (n, 2) points, n >= 2.

    Raises:
        ValueError: points are not finite, coincide, or fit no similarity (mirrored, scrambled).
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise ValueError(f"expected two (n, 2) arrays with n >= 2, found {source.shape} and {target.shape}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks are not finite")
    s, t = source @ (1, 1j), target @ (1, 1j)
    s_mean, t_mean = s.mean(), t.mean()
    s, t = s - s_mean, t - t_mean
    spread, target_spread = float(np.sum(np.abs(s) ** 2)), float(np.sum(np.abs(t) ** 2))
    if spread < 1e-6 or target_spread < 1e-6:
        raise ValueError("landmarks coincide")
    a = np.sum(np.conj(s) * t) / spread
    if np.abs(a) ** 2 * spread < _MIN_EXPLAINED * target_spread:
        raise ValueError("landmarks do not resemble the template")
    b = t_mean - a * s_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def resize_matrix(width: int, height: int, size: int) -> np.ndarray:
    """Return the 2x3 matrix of resizing a whole image to a square crop; edges map to edges, hence the half pixels."""
    sx, sy = size / width, size / height
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2]])


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the 2x3 inverse of a 2x3 affine matrix (crop pixels -> input pixels)."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.hstack([inverse, -inverse @ matrix[:, 2:]])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return (n, 2) points mapped by a 2x3 matrix."""
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def transform_box(box: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the upright box (4,) around the mapped corners of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    corners = transform_points(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), matrix)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the intersection over union of (n, 4) boxes with one box (4,)."""
    inner = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shares: np.ndarray = inner / np.maximum(areas + (box[2:] - box[:2]).prod() - inner, 1e-9)
    return shares


def warp(image: Image.Image, matrix: np.ndarray, size: int, outside: Outside = "black") -> Image.Image:
    """Return the square RGB crop of an RGB image under a similarity matrix.

    Outside the image the crop is black, mirrored (`outside` "reflect"), or mirrored and blurred ("blur").

    Bicubic interpolation reads only 4x4 source pixels, so below half size it would skip pixels and alias. Therefore the
    image is first averaged over k x k blocks, k = floor(1 / scale), and the matrix is adapted, so that the bicubic step
    scales by a factor between one half and one.

    Args:
        image: RGB, any size.
        matrix: 2x3, input pixels -> crop pixels.
        size: side of the crop, pixels.
        outside: black | reflect | blur.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    k = int(1 / scale + 1e-6)
    if k > 1:
        image = image.reduce(k)
        # Block b covers source pixels k*b .. k*b + k - 1, whose center is k*b + (k - 1) / 2.
        matrix = np.hstack([matrix[:, :2] * k, (matrix @ [(k - 1) / 2, (k - 1) / 2, 1.0])[:, None]])
    crop = _warp(np.asarray(image), matrix, size, cv2.BORDER_CONSTANT if outside == "black" else cv2.BORDER_REFLECT_101)
    if outside == "blur":
        inside = _warp(np.ones((image.height, image.width, 1), np.float32), matrix, size, cv2.BORDER_CONSTANT)
        inside = np.clip(inside, 0, 1).reshape(size, size, 1)
        blurred = cv2.GaussianBlur(crop, (0, 0), _BLUR * size)
        crop = (inside * crop + (1 - inside) * blurred).round().astype(np.uint8)
    return Image.fromarray(crop)


def _warp(pixels: np.ndarray, matrix: np.ndarray, size: int, border: int) -> np.ndarray:
    moved = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=border, borderValue=0)
    return np.asarray(moved)


def resize(image: Image.Image, size: int) -> Image.Image:
    """Return the whole RGB image resized to a square (bicubic, antialiased by Pillow when shrinking)."""
    return image.resize((size, size), Image.Resampling.BICUBIC)
