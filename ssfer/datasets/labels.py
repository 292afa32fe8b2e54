"""Check of the sources' labels against the classes of a run."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.labels import CLASS_SETS, SYNONYMS
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import open_source


def check_labels(sources: Sequence[SourceSettings], root: Path, classes: Sequence[str] | None) -> None:
    """Refuse labels that are neither a class of the run nor known to ssfer: a misspelling would lose its images.

    A benchmark's expression or group that is not a class of the run (contempt, with seven classes) is accepted: its
    images are left out, and the split counts them.

    Args:
        sources: the labeled ones.
        root: folder that their paths are relative to.
        classes: of the run; None: any label is a class.

    Raises:
        SsferError: see above, or a source cannot be opened.
    """
    if classes is None:
        return
    known = {*classes, *(name for names in CLASS_SETS.values() for name in names)}
    for source in sources:
        labels = [record.label for record in open_source(source, root, max_missing=1).records() if record.label]
        found = Counter(label for label in labels if label not in known)
        if found:
            shown = ", ".join(f"'{label}' ({n:,} images)" for label, n in found.most_common(8))
            close = difflib.get_close_matches(next(iter(found)), {*classes, *SYNONYMS}, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'? If not, " if close else ""
            raise SsferError(
                f"source '{source.name}' has labels that are none of data.classes: {shown}; {hint}say what they "
                "mean with 'labels' in the source's entry of params.yaml (null leaves images out), list them in "
                "data.classes, or set data.classes: auto"
            )
