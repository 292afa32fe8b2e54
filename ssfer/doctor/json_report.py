"""Convert an examination to plain values, for `ssfer doctor --json` and for the report as text."""

import shlex
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ssfer.doctor.entry import use_of
from ssfer.doctor.examination import DataSet, Examination, Settings, Shared
from ssfer.doctor.findings import SEVERITIES, exit_status, findings
from ssfer.formats.manifest import STATUSES

VERSION = 1


def as_values(result: Examination) -> dict[str, Any]:
    """Return the whole report; keys are stable within a version.

    - version, exit_status, severity (of the worst finding, null without one)
    - settings: scanned, near_bits, correlation
    - findings: [{severity, code, data_sets, text, count, examples}], severest first; codes are those of
      `ssfer.doctor.findings`
    - data_sets: [{name, path, kind, title, variant, terms, notes, images, people, labels: {usage: {label: images}},
      dropped: {reason: rows}, counts: [{part, name, expected, found}], files, use, init_options}]; label "" means none;
      `files` (null without a scan): {status: {status: images}, width and height: [min, median, max] of the readable
      ones}; `use` (null without labels): sections of params.yaml; `init_options`: the --kind and --labels given, for
      `ssfer init`
    - copies: [{data_set, usage, images, in_data_set, in_usage, same_file, same_pixels, near, there}]: images of the
      first part that are also in the second, by their strongest likeness; `there`: how many of the second are copies
      of the first. Both parts the same: images that repeat an earlier one.
    - not_opened: [{name, path, kind, title, problem}]; not_recognized: [path]
    """
    found = findings(result)
    return {
        "version": VERSION,
        "exit_status": exit_status(found),
        "severity": next((s for s in SEVERITIES if any(f.severity == s for f in found)), None),
        "settings": {
            "scanned": result.settings.scan,
            "near_bits": result.settings.near_bits,
            "correlation": result.settings.correlation,
        },
        "findings": [{**asdict(f), "data_sets": list(f.data_sets), "examples": list(f.examples)} for f in found],
        "data_sets": [{**_data_set(s), "init_options": _options(result.settings)} for s in result.sets],
        "copies": [_copies(shared) for shared in result.shared],
        "not_opened": [
            {
                "name": o.name,
                "path": o.place.shown,
                "kind": o.place.kind,
                "title": o.importer.title,
                "problem": o.problem,
            }
            for o in result.failed
        ],
        "not_recognized": [str(p) for p in result.unknown],
    }


def _data_set(data_set: DataSet) -> dict[str, Any]:
    source, opened = data_set.source, data_set.opened
    labels: dict[str, Counter[str]] = {usage: Counter() for usage in data_set.usages()}
    for record in data_set.records:
        labels[record.usage][record.label or ""] += 1
    return {
        "name": data_set.name,
        "path": opened.place.shown,
        "kind": opened.place.kind,
        "title": opened.importer.title,
        "variant": source.variant,
        "terms": opened.importer.terms,
        "notes": list(source.notes),
        "images": len(data_set.records),
        "people": len({r.identity for r in data_set.records} - {None}),
        "labels": {usage: dict(count) for usage, count in labels.items()},
        "dropped": {reason: n for reason, n in source.dropped.items() if n},
        "counts": [asdict(c) for c in source.counts()],
        "files": _files(data_set),
        "use": use.settings if (use := use_of(opened)) else None,
    }


def _options(settings: Settings) -> str:
    labels = ",".join(f"{word}={name or 'null'}" for word, name in (settings.labels or {}).items())
    given = {"--kind": settings.kind, "--labels": labels}
    return "".join(f" {option} {shlex.quote(text)}" for option, text in given.items() if text)


def _files(data_set: DataSet) -> dict[str, Any] | None:
    if data_set.rows is None:
        return None
    status = data_set.rows.column("status")
    readable = data_set.rows.filter(pc.equal(status, "ok"))
    sizes = {
        name: [int(f(readable.column(name))) for f in (np.min, np.median, np.max)] if readable.num_rows else None
        for name in ("width", "height")
    }
    counts = Counter(status.to_pylist())
    return {"status": {s: counts[s] for s in STATUSES if counts[s]}, **sizes}


def _copies(shared: Shared) -> dict[str, Any]:
    return {
        "data_set": shared.of.data_set.name,
        "usage": shared.of.usage,
        "images": shared.of.images,
        "in_data_set": shared.where.data_set.name,
        "in_usage": shared.where.usage,
        **shared.images.counts(),
        "there": shared.there.total(),
    }
