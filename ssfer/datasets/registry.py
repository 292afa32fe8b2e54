"""Every kind of data set the pipeline reads: how it is opened, how it is recognized, and its terms in one line.

A new kind is one module in this package, one entry in KINDS and one class in ssfer.config.schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssfer.core.errors import SsferError, unknown_name
from ssfer.datasets.base import Source, count_table
from ssfer.datasets.settings import SourceSettings, TableParams


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    `open(path, params)` takes the kind's own params; `recognize(names)` says from the sorted POSIX names of the files
    below a path (one outer folder is possible; a path that is a plain file gives its own name) whether it is this kind.
    """

    title: str
    open: Callable[[Path, Any], Source]
    recognize: Callable[[Sequence[str]], bool]
    terms: str


def kinds() -> dict[str, Kind]:
    """Return all kinds; the first whose `recognize` says yes is what a path is taken for, so generic ones come last."""
    from ssfer.datasets import (
        adience,
        affectnet,
        casia_webface,
        celeba,
        class_folders,
        csv,
        ferplus,
        identities,
        rafdb,
        rendered,
        sfew,
        vggface2,
    )

    def kind(module: Any, open_: Callable[[Path, Any], Source]) -> Kind:
        return Kind(module.TITLE, open_, module.recognize, module.TERMS)

    return {
        "rendered": kind(rendered, lambda path, p: rendered.RenderedSource(path)),
        "rafdb": kind(rafdb, lambda path, p: rafdb.RafDbSource(path, p.images)),
        "affectnet": kind(affectnet, lambda path, p: affectnet.AffectNetSource(path, p.classes)),
        "ferplus": kind(ferplus, lambda path, p: ferplus.FerPlusSource(path, p.label_source, p.rule, p.test)),
        "sfew": kind(sfew, lambda path, p: sfew.SfewSource(path)),
        "celeba": kind(celeba, lambda path, p: celeba.CelebASource(path)),
        "adience": kind(adience, lambda path, p: adience.AdienceSource(path, p.attribute, p.fold, p.images)),
        "vggface2": kind(vggface2, lambda path, p: vggface2.VggFace2Source(path)),
        "casia_webface": kind(casia_webface, lambda path, p: casia_webface.CasiaWebFaceSource(path)),
        "csv": kind(csv, _open_table),
        "class_folders": kind(class_folders, lambda path, p: class_folders.ClassFolderSource(path, p.labels)),
        "identities": kind(identities, lambda path, p: identities.IdentitySource(path)),
    }


def _open_table(path: Path, p: TableParams) -> Source:
    from ssfer.datasets.csv import TableSource

    return TableSource(path, p.images, p.path_column, p.label_column, p.usage_column, p.identity_column, p.labels)


def open_source(params: SourceSettings, root: Path) -> Source:
    """Open the source described by `params` below `root` (data/raw/<data.raw>).

    Raises:
        SsferError: the data is missing, is not laid out as its kind demands, or is not the published number of images.
    """
    known = kinds()
    if params.kind not in known:
        raise unknown_name("kind of source", params.kind, known)
    path = root / params.path
    if not path.exists():
        raise SsferError(
            f"source '{params.name}' expects its data at {path}, found nothing there; put the data set there, or "
            "change its 'path' in params.yaml"
        )
    source = known[params.kind].open(path, params)
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
