"""Decide whether two thumbnails show one photo: register them onto each other and compare two correlations.

If both photos are equal up to scale, their maps from photo to thumbnail pixels give the position of each pixel of one
thumbnail in the other. Registration (an affine map, `cv2.findTransformECC`) starts there, because copies are often
cropped slightly differently. Then gray values and details (gray values minus their local mean) must correlate. Gray
values alone are not enough: well aligned faces of two people correlate with up to 0.95. `ssfer.copies.changed` finds
mirrored copies, and copies cropped so differently that their perceptual hashes disagree.

Measured on pairs within 8 bits, 64 px crops: of FER2013, which has many copies, 3,526 pairs pass. 40 of those with the
lowest correlations, hardly above 0.85, were inspected, and all were true copies; nine in ten of the other pairs stay
below 0.75. Of 3,306 press photos nine pairs pass, of 9,086 rendered faces the six planted ones and two others.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ssfer.copies.thumbnails import SIDE
from ssfer.core.process import available_cpus

_PAIRS = 256  # compared together: few enough for the processor's caches
_BLACK = 8  # gray values up to here are outside the photo
_SIGMA = 2.0  # of the local mean, px
_MIN_OVERLAP = 0.25  # share of the thumbnail; a smaller overlap means that another face of the photo was chosen
# Cheap first test: correlation of details at the best shift. It loses 2 in 100 of FER2013's 3,623 true pairs and keeps
# 1 in 10 of the other candidates.
_FIRST_DETAIL, _SHIFT = 0.5, 4
_MAX_TURN, _MAX_STRETCH = 0.06, 1.1
_GAUSSIAN = np.exp(-0.5 * (np.subtract.outer(np.arange(SIDE), np.arange(SIDE)) / _SIGMA) ** 2).astype(np.float32)
_ECC = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)


def same_picture(
    a: np.ndarray, b: np.ndarray, over: np.ndarray, correlation: float, threads: int | None = None
) -> np.ndarray:
    """Return (n,) bool: which pairs show one photo; see the module docstring.

    Args:
        a: (n, SIDE, SIDE) uint8 thumbnails.
        b: likewise.
        over: (n, 3, 3) expected maps from pixels of b to those of a.
        correlation: lowest correlation of gray values and of details, 0 to 1.
        threads: that compare; None: one per CPU.
    """
    import torch  # imported here, so that commands that compare nothing start without it

    result = np.zeros(len(a), dtype=bool)

    def work(start: int) -> None:
        block = slice(start, start + _PAIRS)
        for k in start + np.flatnonzero(_may_match(a[block], b[block], over[block])):
            result[k] = min(registered(a[k], b[k], over[k])) >= correlation

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # blocks run in parallel instead
    try:
        with ThreadPoolExecutor(threads or available_cpus()) as pool:  # OpenCV and torch release Python's lock
            list(pool.map(work, range(0, len(a), _PAIRS)))
    finally:
        torch.set_num_threads(before)
    return result


def _may_match(a: np.ndarray, b: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Return (n,) bool: pairs to register, whose details correlate well after the expected map and the best shift.

    The best of all shifts by up to _SHIFT pixels counts; Fourier transforms compute all shifts at once.
    """
    import torch
    import torch.nn.functional as F

    y, x = (v.ravel() for v in np.mgrid[0:SIDE, 0:SIDE])
    at = over[:, :2] @ np.stack([x, y, np.ones_like(x)])  # (n, 2, 1024), x and y in thumbnail a
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


def _details(thumbnails: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (n, SIDE, SIDE) float32 thumbnails without their local mean over the pixels of weight 1 (not 0)."""
    # A Gaussian mean along rows and columns is a matrix on either side; its scale cancels out in the ratio.
    mean, counted = (_GAUSSIAN @ v.astype(np.float32) @ _GAUSSIAN for v in (thumbnails * weights, weights))
    mean /= np.maximum(counted, 1e-6)
    return (thumbnails - mean) * weights


def _correlations(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the correlations (n,) of rows of (n, m) float32 arrays over the bool `mask`; -1 for constant rows."""
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(np.float32)
    x, y = (np.where(mask, v, np.float32(0)) for v in (x, y))
    x, y = ((v - v.sum(axis=1, keepdims=True) / count) * mask for v in (x, y))
    dot, xx, yy = (np.einsum("ij,ij->i", p, q) for p, q in ((x, y), (x, x), (y, y)))
    norm = np.sqrt(xx * yy)
    return np.where(norm > 1, dot / np.maximum(norm, 1), -1.0)


def _is_plausible(change: np.ndarray) -> bool:
    """Return whether a registration is plausible for a copy: slightly stretched, but hardly rotated or sheared.

    An unrestricted affine map can make one face look like another. `change` is its (2, 2) linear part relative to the
    expected one. Of FER2013's copies one in a hundred is rotated or sheared by more than 0.025, or stretched by more
    than 1.07.
    """
    stretch = np.linalg.svd(change, compute_uv=False)
    return max(abs(change[0, 1]), abs(change[1, 0])) <= _MAX_TURN and stretch[0] <= _MAX_STRETCH * stretch[1]


def registered(a: np.ndarray, b: np.ndarray, over: np.ndarray) -> tuple[float, float]:
    """Return the correlations of gray values and of details of two thumbnails after registration.

    Args:
        a: (SIDE, SIDE) uint8.
        b: likewise.
        over: (3, 3) expected map from pixels of b to those of a, where the registration starts.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    start = over[:2].astype(np.float32)
    try:
        _, best = cv2.findTransformECC(b, a, start.copy(), cv2.MOTION_AFFINE, _ECC, None, 3)  # type: ignore[call-overload]
    except cv2.error:  # no convergence, so probably different photos: compare at the expected position
        best = start
    if not _is_plausible(best[:, :2] @ np.linalg.inv(start[:, :2])):
        return -1.0, -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(a, best, (SIDE, SIDE), flags=flags)
    inside = cv2.warpAffine(np.ones_like(a), best, (SIDE, SIDE), flags=flags) > 0.99
    both = inside & (moved > _BLACK) & (b > _BLACK)
    inside &= (moved > _BLACK) | (b > _BLACK)  # black in both: outside the photos
    if inside.mean() < _MIN_OVERLAP:
        return -1.0, -1.0
    details = _details(np.stack([moved, b]), np.stack([both, both]))
    pairs = ((moved, b, inside), (*details, both))
    gray, detail = (float(_correlations(*(v.reshape(1, -1) for v in p))[0]) for p in pairs)
    return gray, detail
