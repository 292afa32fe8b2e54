"""The face detectors by the name used in params `align.detector`."""

from __future__ import annotations

from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry
from ssfer.core.settings import Section
from ssfer.faces.detectors.base import Detector
from ssfer.faces.settings import AlignSettings

DETECTORS: Registry[Detector] = Registry("detector", "ssfer.faces.detectors", Detector)  # type: ignore[type-abstract]


def build_detector(
    name: str, settings: Section | None = None, device: str = "cpu", min_face: float | None = None
) -> Detector:
    """Return a detector by name.

    Args:
        name: as in align.detector.
        settings: its section; None: the defaults.
        device: of torch.
        min_face: see `align.min_face`.

    Raises:
        SsferError: unknown name (the message lists the known ones), missing or wrong weights, or `min_face` for a
            detector that does not support it.
    """
    found = DETECTORS[name]
    detector = found(settings or found.Settings(), device)
    if min_face is not None:
        if not found.has_min_face:
            raise SsferError(f"detector {found.title} has no smallest face to set; leave align.min_face at null")
        detector.min_face = min_face
        detector.name = f"{detector.name}-min{min_face:g}"
    return detector


def detectors_of(align: AlignSettings) -> tuple[str, ...]:
    """Return the names of the detector and, if it is set, of the second one."""
    return tuple(name for name in (align.detector, align.second_detector) if name is not None)
