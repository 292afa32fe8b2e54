"""Judge an examination: findings with a severity, each one sentence.

Severities: "error" (results would be wrong: test images among training images, counts that differ from the published
ones, a class without images, data that cannot be opened or read), "warning" (to be checked: damaged files,
repeated images, one picture with two labels, files that belong to no data set), "info".
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ssfer.core.images import undecodable
from ssfer.datasets.base import MAX_MISSING
from ssfer.doctor.empty_folders import empty_folders
from ssfer.doctor.examination import DataSet, Examination, Shared
from ssfer.doctor.overlap import LEVELS
from ssfer.doctor.tables import table_remarks

SEVERITIES = ("error", "warning", "info")  # exit status 2, 1, 0
_ADVICE = {
    "test_in_training": " and must be left out of training (the stages split and corpus do so)",
    "validation_in_training": " and should be left out of training",
}
_REASONS = {
    "missing": "missing",
    "unreadable": "damaged",
    "too_large": "too large",
    "too_small": "too small",
    "empty": "empty",
}


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    severity: str
    code: str  # stable, for programs
    data_sets: tuple[str, ...]
    text: str  # one sentence
    count: int = 1  # of images, classes or files it is about
    examples: tuple[str, ...] = ()  # relative paths, never more than asked for


def findings(result: Examination) -> list[Finding]:
    """Return all findings, the severest first."""
    found = [
        *(Finding("error", "not_opened", (o.name,), f"{o.importer.title}: {o.problem}") for o in result.failed),
        *(
            Finding("warning", "not_recognized", (str(p),), f"{p} is not recognized as any data set and was left out")
            for p in result.unknown
        ),
    ]
    if result.absent:
        text = f"optional and not there, a run goes on without: {', '.join(result.absent)}"
        found.append(Finding("info", "absent", (), text, len(result.absent)))
    for data_set in result.sets:
        found += _of_data_set(data_set, result.settings.examples)
    found += [_of_shared(shared, result) for shared in result.shared]
    if result.unaligned:
        text = (
            f"mirrored, turned and cropped copies were not looked for among {result.unaligned:,} images; do so with "
            f"--faces {result.unaligned} (the stages corpus and split always do)"
        )
        found.append(Finding("info", "faces_not_compared", (), text, result.unaligned))
    found += _of_labels(result)
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def exit_status(found: list[Finding]) -> int:
    """Return 2 with errors, 1 with warnings, else 0."""
    severities = {f.severity for f in found}
    return 2 if "error" in severities else 1 if "warning" in severities else 0


def _of_data_set(data_set: DataSet, examples: int) -> Iterator[Finding]:
    name = (data_set.name,)
    differing = [c for c in data_set.source.counts() if c.expected != c.found]
    if differing:
        first = ", ".join(f"{c.part} {c.name} {c.found:,} instead of {c.expected:,}" for c in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        text = f"{data_set.name} does not have the published number of images: {first}{more}"
        yield Finding("error", "counts_differ", name, text, len(differing))
    yield from _empty_classes(data_set)
    dropped = {reason: n for reason, n in data_set.source.dropped.items() if n}
    place = data_set.opened.place
    remarks = table_remarks(place.path, place.kind, data_set.source)
    for remark, severity in remarks.items():
        yield Finding(severity, "table", name, f"{data_set.name}: {remark}")
    for remark in empty_folders(place.path, data_set.records) if place.kind == "class_folders" else ():
        yield Finding("info", "empty_folder", name, f"{data_set.name}: {remark}")
    if (other := dropped.pop("not_an_image", 0) - len(remarks)) > 0:
        text = f"{data_set.name}: {other:,} {'file has' if other == 1 else 'files have'} no name of an image, left out"
        yield Finding("warning", "not_images", name, text, other)
    if dropped:
        reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in dropped.items())
        text = f"{data_set.name}: left out by the data set's own rules: {reasons}"
        yield Finding("info", "left_out", name, text, sum(dropped.values()))
    if missing := undecodable(record.path for record in data_set.records):
        yield Finding("warning", "no_decoder", name, f"{data_set.name}: {missing}")
    for note in data_set.source.notes:
        yield Finding("info", "note", name, f"{data_set.name}: {note}")
    status = data_set.status()
    if status is None:
        return
    bad = np.flatnonzero(status != "ok")
    if len(bad):
        kinds = Counter(status[bad].tolist())
        why = ", ".join(f"{n:,} {_REASONS.get(s, s)}" for s, n in kinds.most_common())
        all_of_them = len(bad) == len(data_set.records)
        # Sources of params.yaml may have another data.max_missing.
        refused = place.settings is None and len(data_set.source.missing) > MAX_MISSING * len(data_set.records)
        text = f"{len(bad):,} of {len(data_set.records):,} images of {data_set.name} cannot be used: {why}"
        paths = tuple(data_set.records[i].path for i in bad[:examples].tolist())
        if refused:
            text += f"; a run refuses a larger share of missing ones than data.max_missing, {MAX_MISSING:g}"
        code = "nothing_readable" if all_of_them else "unreadable"
        yield Finding("error" if all_of_them or refused else "warning", code, name, text, len(bad), paths)


def _empty_classes(data_set: DataSet) -> Iterator[Finding]:
    """Find classes that one part has and another lacks. Published classes are among the counts already."""
    by_usage: dict[str, set[str]] = defaultdict(set)
    for record in data_set.records:
        if record.label is not None:
            by_usage[record.usage].add(record.label)
    known = set().union(*by_usage.values())
    published = {(c.part, c.name) for c in data_set.source.counts()}
    for usage, classes in by_usage.items():
        missing = sorted(c for c in known - classes if (usage, c) not in published)
        if missing and usage != "none":
            text = f"the {usage} part of {data_set.name} has no image of: {', '.join(missing)}"
            severity = "warning" if usage == "valid" else "error"
            yield Finding(severity, "class_without_images", (data_set.name,), text, len(missing))


def _of_shared(shared: Shared, result: Examination) -> Finding:
    of, where = shared.of, shared.where
    names = tuple(dict.fromkeys((of.data_set.name, where.data_set.name)))
    if of is where:
        text = f"{_images(shared)} repeat an earlier one: {_levels(shared)}"
        return Finding("warning", "repeated", names, text, shared.images.total(), _examples(shared, result))
    if (of.usage == "test" and where.trains) or (where.usage == "test" and of.trains):
        severity, code = "error", "test_in_training"
    elif {of.usage, where.usage} & {"valid"} and (of.trains or where.trains):
        severity, code = "warning", "validation_in_training"
    elif of.data_set is where.data_set and not (of.trains and where.trains):
        severity, code = "warning", "test_in_validation"
    else:
        severity, code = "info", "shared"
    if of.trains and not where.trains:  # name the evaluated part first
        shared = Shared(where, of, shared.there, shared.images)
        of, where = where, of
    if of.data_set is where.data_set:
        place = f"the {_part(where.usage)} images"
    else:
        place = f"the {_part(where.usage)} images of {where.data_set.name}"
    text = (
        f"{_images(shared)} are also among {place}: {_levels(shared)}; {shared.there.total():,} "
        f"{_part(where.usage)} images are such copies{_ADVICE.get(code, '')}"
    )
    return Finding(severity, code, names, text, shared.images.total(), _examples(shared, result))


def _of_labels(result: Examination) -> Iterator[Finding]:
    """Find equal pixels with different labels, inside a data set or between two that share class names."""
    if result.equal is None:
        return
    classes = [{r.label for r in s.records} - {None} for s in result.sets]
    rows_of = _repeated_pictures(result.equal.picture)
    by_sets: dict[tuple[str, ...], list[list[tuple[str, str]]]] = defaultdict(list)
    for rows in rows_of:
        located = ((result.sets.index(result.data_set(row)), result.at(row)[1]) for row in rows.tolist())
        here = [(i, r) for i, r in located if r.label is not None]
        inside = {i for i, _ in here if len({r.label for j, r in here if j == i}) > 1}
        between = {i for i, a in here for j, b in here if i != j and a.label != b.label and classes[i] & classes[j]}
        for group in [*((i,) for i in sorted(inside)), *([tuple(sorted(between))] if between - inside else [])]:
            names = tuple(result.sets[i].name for i in group)
            by_sets[names].append([(r.path, str(r.label)) for i, r in here if i in group])
    for names, pictures in by_sets.items():
        count = sum(map(len, pictures))
        text = (
            f"{len(pictures):,} pictures have different labels in their copies in {' and '.join(names)} "
            f"({count:,} images with equal pixels)"
        )
        shown = (" / ".join(f"{path} ({label})" for path, label in p) for p in pictures)
        yield Finding("warning", "labels_differ", names, text, count, tuple(islice(shown, result.settings.examples)))


def _repeated_pictures(picture: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each picture that occurs more than once."""
    order = np.argsort(picture, kind="stable")
    order = order[picture[order] >= 0]
    starts = np.flatnonzero(np.diff(picture[order], prepend=-1))
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]


def _examples(shared: Shared, result: Examination) -> tuple[str, ...]:
    assert result.equal is not None
    order = np.argsort(shared.images.level, kind="stable")  # the surest first
    lines = []
    for k in order[: result.settings.examples].tolist():
        row = int(shared.images.rows[k])
        other = result.equal.partner(row, shared.where.number)
        sign = " ~ " if LEVELS[shared.images.level[k]] == "near" else " = "
        lines.append(sign.join(result.at(r)[1].path for r in (row, other) if r is not None))
    return tuple(lines)


def _images(shared: Shared) -> str:
    count, of = shared.images.total(), shared.of
    return f"{count:,} of {of.images:,} {_part(of.usage)} images of {of.data_set.name} ({count / of.images:.1%})"


def _levels(shared: Shared) -> str:
    words = {"same_file": "the same file", "same_pixels": "the same pixels", "near": "nearly the same"}
    return ", ".join(f"{n:,} {words[level]}" for level, n in shared.images.counts().items() if n)


def _part(usage: str) -> str:
    return "unlabeled" if usage == "none" else usage
