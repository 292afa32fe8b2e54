"""The cascade of MTCNN (Zhang et al. 2016, arXiv 1604.02878), with the networks and weights of facenet-pytorch.

P-Net proposes squares on a pyramid of reduced pictures, R-Net rejects and refines them, O-Net refines them again and
adds five landmarks. The results are those of facenet-pytorch's `MTCNN.detect` (a test compares them), which spends most
of its time on reducing each candidate pixel by pixel. Here the mean of any rectangle takes four look-ups in an integral
image (Crow 1984), and all candidates of a batch are reduced in one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

FACTOR = 0.709  # from one picture of the pyramid to the next (a half in area)
_STRIDE, _CELL = 2, 12  # P-Net answers for squares of 12 pixels, every 2 pixels
_R_SIDE, _O_SIDE = 24, 48  # inputs of R-Net and O-Net
_BATCH = 512  # candidates at once


class Found(NamedTuple):
    """Faces of one picture: boxes (n, 4) x1, y1, x2, y2, scores (n,), landmarks (n, 5, 2), all float32."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


_NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


class _Candidates(NamedTuple):
    """Squares of all pictures: boxes (k, 4), scores (k,), float32, and the picture of each (k,), int64."""

    boxes: Tensor
    scores: Tensor
    picture: Tensor

    def at(self, which: Tensor) -> _Candidates:
        return _Candidates(*(field[which] for field in self))


class Cascade:
    """The three networks.

    Args:
        device: of torch.
        mirrored: O-Net also sees each candidate mirrored, and the landmarks are the means of both answers.
    """

    def __init__(self, device: str = "cpu", *, mirrored: bool = False) -> None:
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet  # imported here because it is slow to import

        self._device, self._mirrored = torch.device(device), mirrored
        # Max pooling and these narrow convolutions run twice as fast on CPU with the channels innermost.
        self._propose, self._reject, self._refine = (
            network().eval().to(self._device, memory_format=torch.channels_last) for network in (PNet, RNet, ONet)
        )

    @torch.no_grad()
    def find(self, pictures: Sequence[np.ndarray], smallest: float, thresholds: Sequence[float]) -> list[Found]:
        """Return the faces of each picture, best first.

        Args:
            pictures: of one size, uint8 (H, W, 3), RGB.
            smallest: side of the smallest face, pixels.
            thresholds: lowest score in P-Net, R-Net and O-Net.
        """
        sums = _integral_images(pictures).to(self._device)
        found = self._proposals(sums, _CELL / smallest, thresholds[0])
        crops, found = _crops(sums, found, _R_SIDE)
        if not len(crops):
            return [_NOTHING] * len(pictures)
        shifts, scores = _in_parts(self._reject, crops)
        found, which = _confident(found, scores, thresholds[1])
        kept = batched_nms(*found, 0.7)
        found, shifts = found.at(kept), shifts[which][kept]
        found = found._replace(boxes=_square(_shifted(found.boxes, shifts)))
        crops, found = _crops(sums, found, _O_SIDE)
        if not len(crops):
            return [_NOTHING] * len(pictures)
        shifts, points, scores = _in_parts(self._refine, crops)
        found, which = _confident(found, scores, thresholds[2])
        points = points[which]
        if self._mirrored and len(points):
            others = _in_parts(self._refine, crops[which].flip(3))[1]
            points = (points + _mirrored(others)) / 2
        landmarks = _landmarks(found.boxes, points)
        found = found._replace(boxes=_shifted(found.boxes, shifts[which]))
        return _per_picture(found, landmarks, len(pictures))

    def _proposals(self, sums: Tensor, scale: float, threshold: float) -> _Candidates:
        """Return the squares that P-Net proposes on all pictures of the pyramid, without those that overlap much."""
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        whole = torch.tensor([[0, 0, width, height]], device=sums.device).expand(len(sums), 4)
        pictures = torch.arange(len(sums), device=sums.device)
        levels: list[tuple[_Candidates, Tensor]] = []
        shortest = min(height, width) * scale
        while shortest >= _CELL:
            reduced = _area_means(sums, pictures, whole, (int(height * scale + 1), int(width * scale + 1)))
            shifts, scores = self._propose(_normalized(reduced))
            picture, row, column = torch.nonzero(scores[:, 1] >= threshold, as_tuple=True)
            corner = _STRIDE * torch.stack([column, row], dim=1).float()
            boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + _CELL) / scale).floor()], dim=1)
            level = _Candidates(boxes, scores[picture, 1, row, column], picture)
            kept = batched_nms(*level, 0.5)
            levels.append((level.at(kept), shifts[picture, :, row, column][kept]))
            scale, shortest = scale * FACTOR, shortest * FACTOR
        if not levels:
            return _Candidates(sums.new_zeros(0, 4).float(), sums.new_zeros(0).float(), pictures[:0])
        found = _Candidates(*(torch.cat(fields) for fields in zip(*(level for level, _ in levels), strict=True)))
        kept = batched_nms(*found, 0.7)
        found, shifts = found.at(kept), torch.cat([shift for _, shift in levels])[kept]
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        return found._replace(boxes=_square(found.boxes + shifts * sides.repeat(1, 2)))


def _integral_images(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return the sums over all pixels above and left of each corner of pixels, int32 (N, H + 1, W + 1, 4).

    Where they exceed int32 they wrap around; their differences do not. The fourth channel makes a pixel 16 bytes long,
    which `_area_means` copies as one number: twice as fast as three.
    """
    height, width, _ = pictures[0].shape
    sums = np.empty((len(pictures), height + 1, width + 1, 4), np.int32)
    for picture, one in zip(pictures, sums, strict=True):
        cv2.integral(cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA), one)
    return torch.from_numpy(sums)


def _area_means(sums: Tensor, picture: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes of pictures reduced to `size` (height, width) by means, as interpolate's mode "area" does.

    Args:
        sums: integral images of `_integral_images`.
        picture: of each box, int64 (k,).
        boxes: int64 (k, 4), x1, y1, x2, y2 without the last row and column, not empty.
        size: rows and columns of the result.

    Returns:
        float32 (k, 3, *size), channels last in memory.
    """
    rows, columns = sums.shape[1], sums.shape[2]
    flat = sums.view(torch.complex128).flatten()
    left, right = _cells(boxes[:, 0], boxes[:, 2], size[1])
    top, bottom = _cells(boxes[:, 1], boxes[:, 3], size[0])
    first = (picture * rows)[:, None]

    def at(y: Tensor, x: Tensor) -> Tensor:
        places = ((first + y) * columns)[:, :, None] + x[:, None, :]
        return flat.index_select(0, places.flatten()).view(torch.int32)

    total = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    means = total.reshape(len(boxes), *size, 4)[..., :3].float()
    means = means / (bottom - top)[:, :, None, None] / (right - left)[:, None, :, None]
    return means.permute(0, 3, 1, 2)


def _cells(start: Tensor, end: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return where each of `count` cells of the intervals (k,) starts and ends, int64 (k, count); cells may overlap."""
    cell, length = torch.arange(count, device=start.device), (end - start)[:, None]
    starts = cell * length // count
    ends = -(-(cell + 1) * length // count)
    return start[:, None] + starts, start[:, None] + ends


def _crops(sums: Tensor, found: _Candidates, side: int) -> tuple[Tensor, _Candidates]:
    """Return the networks' inputs (k, 3, side, side) for the candidates that show part of their picture, and these."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    boxes = found.boxes.trunc().long()
    start = boxes[:, :2].clamp(min=1) - 1
    end = torch.stack([boxes[:, 2].clamp(max=width), boxes[:, 3].clamp(max=height)], dim=1)
    visible = (end > start).all(dim=1)
    inside = torch.cat([start, end], dim=1)[visible]
    return _normalized(_area_means(sums, found.picture[visible], inside, (side, side))), found.at(visible)


def _normalized(pixels: Tensor) -> Tensor:
    return (pixels - 127.5) * 0.0078125


def _in_parts(network: nn.Module, crops: Tensor) -> list[Tensor]:
    """Return the network's outputs for (k, 3, S, S), at most `_BATCH` candidates at once."""
    outputs = [network(part) for part in crops.split(_BATCH)]
    return [torch.cat(one) for one in zip(*outputs, strict=True)]


def _confident(found: _Candidates, scores: Tensor, threshold: float) -> tuple[_Candidates, Tensor]:
    """Return the candidates above the threshold with their new scores (k, 2), and the mask that chose them."""
    which = scores[:, 1] > threshold
    return found._replace(scores=scores[:, 1]).at(which), which


def _shifted(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Move the corners of boxes (k, 4) by shifts (k, 4), in units of the sides, which count both end pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + shifts * sides.repeat(1, 2)


def _square(boxes: Tensor) -> Tensor:
    """Return the squares with the centers and the longer sides of the boxes (k, 4)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(dim=1, keepdim=True).values
    start = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([start, start + longer], dim=1)


def _mirrored(points: Tensor) -> Tensor:
    """Return O-Net's points (k, 10) of mirrored candidates as the candidates' own: left and right change places."""
    x, y = points.split(5, dim=1)
    swapped = [1, 0, 2, 4, 3]
    return torch.cat([1 - x[:, swapped], y[:, swapped]], dim=1)


def _landmarks(boxes: Tensor, points: Tensor) -> Tensor:
    """Return the landmarks (k, 5, 2) of O-Net's points (k, 10), five x and five y in units of the boxes' sides."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return sides[:, None] * points.reshape(-1, 2, 5).transpose(1, 2) + boxes[:, None, :2] - 1


def _per_picture(found: _Candidates, landmarks: Tensor, count: int) -> list[Found]:
    boxes, scores, picture, points = (field.cpu().numpy() for field in (*found, landmarks))
    order = np.argsort(scores)[::-1]  # equal scores in facenet-pytorch's order, which is NumPy's
    results = []
    for i in range(count):
        members = order[picture[order] == i]
        kept = members[_without_contained(boxes[members])]
        results.append(Found(boxes[kept], scores[kept], points[kept]))
    return results


def _without_contained(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes (n, 4), best first, stay if each removes the later ones that share 0.7 of the smaller area."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    rest, kept = np.arange(len(boxes)), []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        shared = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2]) + 1
        overlap = np.prod(np.maximum(shared, 0), axis=1) / np.minimum(areas[best], areas[rest])
        rest = rest[overlap <= 0.7]
    return np.array(kept, int)
