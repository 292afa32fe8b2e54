"""The face detectors by the name used in params `align.detector`."""

from __future__ import annotations

from ssfer.core.registry import Registry
from ssfer.core.settings import Section
from ssfer.faces.detectors.base import Detector
from ssfer.faces.settings import AlignSettings

DETECTORS: Registry[Detector] = Registry("detector", "ssfer.faces.detectors", Detector)  # type: ignore[type-abstract]


def build_detector(name: str, settings: Section | None = None, device: str = "cpu") -> Detector:
    """Return a detector by name.

    Args:
        name: as in align.detector.
        settings: its section; None: the defaults.
        device: of torch.

    Raises:
        SsferError: unknown name (the message lists the known ones), or missing or wrong weights.
    """
    found = DETECTORS[name]
    return found(settings or found.Settings(), device)


def detectors_of(align: AlignSettings) -> tuple[str, ...]:
    """Return the names of the detector and, where it is set, the second one."""
    return tuple(name for name in (align.detector, align.second_detector) if name is not None)
