"""The face box that stands in where there is none: used by alignment, and by training when a crop cuts a box away."""

from __future__ import annotations

_FRAME = 224
_BOX = (25.0, 25.0, 220.0, 220.0)


def fallback_box(size: int) -> tuple[float, float, float, float]:
    """Return the constant box (x1, y1, x2, y2) for a crop of `size` px (SSFER specification, section 3)."""
    x1, y1, x2, y2 = (v * size / _FRAME for v in _BOX)
    return x1, y1, x2, y2
