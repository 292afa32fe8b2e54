"""Whose faces the report may show: git tracks it, so faces of licensed data sets never enter it.

Not beside the pictures in `gallery`, whose code also makes the corpus's own page.
"""

from __future__ import annotations

from ssfer.config.schema import Params
from ssfer.datasets.registry import SOURCES
from ssfer.report.model_card import kind_of

SHOWABLE = ("rendered", "class_folders", "csv")  # the others built in are data sets whose terms forbid it


def licensed(params: Params, *, unlabeled: bool = False) -> list[str]:
    """Return the names of the sources whose photos the terms of a data set forbid to show.

    Args:
        params: the run's configuration.
        unlabeled: name all sources, whose faces the corpus has, not only the labeled ones, which are tested on.
    """
    sources = [s for s in params.data.sources if s.labeled or unlabeled]
    return [s.name for s in sources if kind_of(s, params.data) in {*SOURCES} - {*SHOWABLE}]
