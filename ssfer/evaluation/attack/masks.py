"""The two parts of an image that are attacked: where the model looks, and the rest."""

from torch import Tensor

REGIONS = ("focused", "unfocused")


def regions(cam: Tensor, threshold: float) -> dict[str, Tensor]:
    """Return region -> mask (B, 1, H, W), bool: focused = CAM > threshold, unfocused = all other pixels.

    Args:
        cam: (B, H, W) in 0..1.
    """
    focused = (cam > threshold)[:, None]
    return dict(zip(REGIONS, (focused, ~focused), strict=True))
