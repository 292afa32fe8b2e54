"""The face boxes of training views, detected on every view instead of mapped from the stored crop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssfer.faces.crops import crop_box
from ssfer.faces.detectors.base import Detector


def view_boxes(detector: Detector, min_score: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function that finds the one face of each view (SSFER specification, section 4.1, box_source detect).

    It takes images (B, 3, S, S) with pixels in 0..1 and returns boxes (B, 4) float32 and found (B,) bool. The rule is
    that of stored crops (`crop_box`): exactly one face of at least `min_score`, corners rounded. Without a face or with
    several, the box is zeros. Detectors read 8-bit pictures, so values outside 0..1 are clipped.
    """

    def find(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        found = detector.detect([Image.fromarray(np.ascontiguousarray(p)) for p in pixels])
        boxes = [crop_box(d.above(min_score), images.shape[-1]) for d in found]
        array = np.stack([np.zeros(4) if box is None else box for box in boxes])
        one_face = torch.tensor([box is not None for box in boxes])
        return torch.from_numpy(array).float().to(images.device), one_face.to(images.device)

    return find
