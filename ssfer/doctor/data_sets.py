"""Recognize and open the data sets at a path: one, a part of one, or a folder with several."""

import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.core.settings import has_control
from ssfer.datasets.base import Source, SourceSettings
from ssfer.datasets.registry import SOURCES, recognition_order
from ssfer.datasets.shared.archives import open_archive
from ssfer.doctor.tables import tables_at
from ssfer.doctor.unrecognized import why_not_recognized

Labels = Mapping[str, str | None]
# How deep a folder is searched for data sets.
_DEPTH = 3
# Settings that name the form in which a data set is on disk; all their values are tried.
_FORMS = ("label_source", "images")


@dataclass(frozen=True)
class Place:
    """A path and the kind of data set recognized there; several files may be parts of one data set.

    Attributes:
        path: where the data set lies.
        kind: of the data set.
        files: the given files, when they are parts of a data set that lies in `path`.
        settings: its entry of data.sources, where it was named by one.
    """

    path: Path
    kind: str
    files: tuple[Path, ...] = ()
    settings: SourceSettings | None = field(default=None, compare=False)

    @property
    def shown(self) -> str:
        """The path as it was given."""
        return " + ".join(map(str, self.files or (self.path,)))


@dataclass(frozen=True)
class Opened:
    """A data set that could be opened, or the sentence that says why not (then `source` is None)."""

    place: Place
    name: str  # short, unique in this report
    source: Source | None
    problem: str = ""
    settings: SourceSettings | None = None  # it was opened with

    @property
    def importer(self) -> type[Source]:
        """The class that reads its kind."""
        return SOURCES[self.place.kind]


def params_for(kind: str, path: Path, labels: Labels | None = None) -> Iterator[SourceSettings]:
    """Yield the settings a data set of this kind may be opened with: the defaults, then its other forms on disk.

    Counts are not enforced: the report shows them.

    Raises:
        SsferError: `labels` were given, and the kind has its own.
    """
    model = SOURCES[kind].Settings
    if labels and "labels" not in model.model_fields:
        raise SsferError(f"labels are given for a table or class folders, found {SOURCES[kind].title}; leave them out")
    given: dict[str, Any] = {
        "name": "doctor",
        "kind": kind,
        "path": str(path),
        "labeled": False,
        "align": "resize",
        "counts": "any",
    }
    given |= {"labels": dict(labels)} if labels else {}
    default = SOURCES[kind].suggest(path, model.model_validate(given))
    yield default
    for form in _FORMS:
        annotation = model.model_fields[form].annotation if form in model.model_fields else None
        if get_origin(annotation) is Literal:
            for value in get_args(annotation):
                if value != getattr(default, form):
                    yield default.model_copy(update={form: value})


def identify(paths: Sequence[Path], kind: str | None = None) -> tuple[list[Place], list[Path]]:
    """Return the data sets at the paths, and what lies beside them in a folder and is not recognized.

    Args:
        paths: folders, zips, tables or .rec files; files that are parts of one data set become one place.
        kind: of every path, instead of recognizing it.

    Raises:
        SsferError: a path does not exist or is not recognized, or the kind is unknown.
    """
    if kind is not None:
        SOURCES[kind]
    for path in paths:
        if has_control(str(path)):
            raise SsferError(f"the path {str(path)!a} has control characters, which no setting may have; rename it")
        if not path.exists():
            raise SsferError(f"expected a folder, a zip or a table at {path}, found nothing there; check the path")
    places: list[Place] = []
    unknown: list[Path] = []
    for path in dict.fromkeys(paths):
        found = [Place(path, kind)] if kind else list(_search(path, unknown, _DEPTH))
        if not found:
            raise SsferError(why_not_recognized(path))
        places += found
    return list(dict.fromkeys(places if kind else _join_parts(places))), unknown


def kind_of(names: Sequence[str]) -> str | None:
    """Return the first kind that recognizes these files, or None."""
    return next((kind for kind in recognition_order() if SOURCES[kind].recognize(names)), None)


def _search(path: Path, unknown: list[Path], depth: int) -> Iterator[Place]:
    if not path.is_dir() and not zipfile.is_zipfile(path):
        if kind := kind_of([path.name]):
            yield Place(path, kind)
        return
    if kind := None if path.is_dir() else kind_of([path.name]):
        yield Place(path, kind)
        return
    archive = open_archive(path)
    names = archive.names()
    kind = _kind_of_folder(names)
    tables = tables_at(path, archive, kind)
    inside: dict[str, list[str]] = defaultdict(list)
    for name in names:
        top, _, rest = name.partition("/")
        if rest and path.is_dir():
            inside[top].append(rest)
    # Almost every folder is recognized as photos of people: the more specific kind inside wins.
    order = [*recognition_order(), None]
    children = {top: _kind_of_folder(below) for top, below in inside.items()}
    several = tables.apart or any(order.index(child) < order.index(kind) for child in children.values())
    if tables.place and not several:
        yield Place(tables.place, "csv")
    elif kind and not several:
        yield Place(path, kind)
    elif depth:
        for top in children:
            yield from _search_or_note(path / top, unknown, depth - 1)
    # Zips beside a recognized data set that do not belong to it.
    for name in names if path.is_dir() else ():
        of_kind = kind and SOURCES[kind].recognize([name])
        if "/" not in name and name.lower().endswith(".zip") and not of_kind and name not in tables.zips:
            yield from _search_or_note(path / name, unknown, depth)


def _kind_of_folder(names: Sequence[str]) -> str | None:
    kind = kind_of(names)
    return None if kind == "csv" else kind  # what it lists is elsewhere


def _search_or_note(path: Path, unknown: list[Path], depth: int) -> Iterator[Place]:
    found = list(_search(path, unknown, depth))
    if not found:
        unknown.append(path)
    yield from found


def _join_parts(places: Sequence[Place]) -> Iterator[Place]:
    """Make one place of files in one folder that are recognized by their names as parts of one data set."""
    parts: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for place in places:
        if place.path.is_file() and SOURCES[place.kind].recognize([place.path.name]):
            parts[place.path.parent, place.kind].append(place.path)
    for place in places:
        siblings = parts.get((place.path.parent, place.kind), [])
        if place.path not in siblings or len(siblings) == 1:
            yield place
        elif place.path == siblings[0]:
            whole = Place(place.path.parent, place.kind, tuple(siblings))
            if open_place(whole, "").source is not None:
                yield whole
            else:
                yield from (Place(path, place.kind) for path in siblings)


def open_place(place: Place, name: str, labels: Labels | None = None) -> Opened:
    """Open a data set as its entry says, or in the first of its forms that can be opened.

    A single file may be a part of the data set in its folder; a table is the one that is meant, never another one
    beside it.

    Args:
        place: where it lies.
        name: for the report.
        labels: word -> class name, for kinds that take them.
    """
    importer = SOURCES[place.kind]
    problem = ""
    if place.settings is not None:
        try:
            return Opened(place, name, _as_its_entry_says(place.path, place.settings), settings=place.settings)
        except SsferError as error:
            return Opened(place, name, None, str(error))
    is_part = place.path.is_file() and place.kind != "csv" and importer.recognize([place.path.name])
    for path in (place.path, place.path.parent) if is_part else (place.path,):
        try:
            forms = list(params_for(place.kind, path, labels))
        except SsferError as error:
            problem = problem or str(error)
            continue
        for params in forms:
            try:
                return Opened(place, name, importer(path, params), settings=params)
            except SsferError as error:
                problem = problem or str(error)
    if "labels: {" in problem:
        problem += " In ssfer doctor and ssfer init: --labels 4=happiness,5=null, all of them."
    return Opened(place, name, None, problem)


def _as_its_entry_says(path: Path, settings: SourceSettings) -> Source:
    if settings.kind == "rendered" and not path.exists():
        raise SsferError("stage generate has not rendered it yet; run the stage: dvc repro generate")
    if not path.exists():
        raise SsferError(
            f"expected it at {path}, found nothing there; put or link it there, or change the source's path in "
            "params.yaml (ssfer doctor PATH prints the entry of a data set that lies elsewhere)"
        )
    if (path.is_dir() and not any(path.iterdir())) or path.name.lower().endswith(EXTENSIONS):
        raise SsferError(why_not_recognized(path))
    return SOURCES[settings.kind](path, settings)


def short_names(places: Sequence[Place]) -> list[str]:
    """Return a name for each place, for sentences: that of the data set, else of the folder or file, else its path."""
    titles = [SOURCES[place.kind].title for place in places]
    files = [place.path.resolve().name for place in places]
    names = []
    for place, title, file in zip(places, titles, files, strict=True):
        if place.settings is not None:
            names.append(place.settings.name)
        elif title[0].isupper() and titles.count(title) == 1:  # a proper name; the others are descriptions
            names.append(title)
        else:
            names.append(file if files.count(file) == 1 and not place.files else place.shown)
    return names
