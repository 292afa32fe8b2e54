"""The published weights that `ssfer fetch NAME` can download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfer.core import download
from ssfer.core.errors import unknown_name
from ssfer.faces.detectors import published
from ssfer.formats import clip
from ssfer.models import published as networks

PUBLISHED = {**published.PUBLISHED, "clip": clip.PUBLISHED, **networks.PUBLISHED}


def fetch(name: str, out: Path | None = None, **options: Any) -> Path:
    """Download published weights by name and verify them; see `ssfer.core.download.fetch`.

    Raises:
        SsferError: unknown name, or see `ssfer.core.download.fetch`.
    """
    if name not in PUBLISHED:
        raise unknown_name("weights", name, PUBLISHED)
    return download.fetch(name, PUBLISHED[name], out, **options)
