"""The importers by the name used in params `data.sources[].kind`, and how a source of params.yaml is opened."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry
from ssfer.datasets.base import MAX_MISSING, Source, SourceSettings, count_table
from ssfer.datasets.contract import check_source

SOURCES: Registry[Source] = Registry("kind of data set", "ssfer.datasets", Source)  # type: ignore[type-abstract]


@cache
def recognition_order() -> tuple[str, ...]:
    """Return the kinds by rank; a path is taken for the first kind whose `recognize` accepts it."""
    return tuple(sorted(SOURCES, key=lambda name: SOURCES[name].rank))


def absent_sources(sources: Sequence[SourceSettings], root: Path) -> list[SourceSettings]:
    """Return the optional sources whose path below `root` does not exist; the run continues without them.

    A labeled source is never optional, because the run needs its labels.
    """
    return [s for s in sources if s.optional and not s.labeled and not (root / s.path).exists()]


def open_source(params: SourceSettings, root: Path, max_missing: float = MAX_MISSING) -> Source:
    """Open the source described by `params` below `root` (data/raw/<data.raw>).

    Args:
        params: its entry of data.sources.
        root: the folder that its path is relative to.
        max_missing: share of the listed files that may be missing.

    Raises:
        SsferError: the data is missing, does not have the layout of its kind, or not the published number of images.
    """
    path = root / params.path
    if not path.exists():
        raise SsferError(
            f"source '{params.name}' expects its data at {path}, found nothing there; put the data set there, or "
            "change its 'path' in params.yaml"
        )
    source = SOURCES[params.kind](path, params)
    if SOURCES.is_foreign(params.kind):
        check_source(source)
    if len(source.missing) > max_missing * len(source.records()):
        raise SsferError(
            f"source '{params.name}' at {path} lists {len(source.records()):,} images, {len(source.missing):,} of them "
            f"are missing, the first is '{source.missing[0]}'; complete it, or accept a larger share than "
            f"{max_missing:g} with data.max_missing"
        )
    counts = source.counts()
    if params.counts == "published" and any(c.expected != c.found for c in counts):
        raise SsferError(
            f"source '{params.name}' at {path} is {source.variant}, but not the published number of images (complete "
            f"it, or accept it with 'counts: any' in its entry of params.yaml):\n{count_table(counts)}"
        )
    if params.labeled and not any(r.usage == "train" for r in source.records()):
        raise SsferError(
            f"source '{params.name}' at {path} ({source.variant}) has no training image; expected a training part"
        )
    return source
