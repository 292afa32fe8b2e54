"""What importers of the user's own must list, checked when a source is opened (more: `ssfer.testing.importers`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ssfer.core.errors import SsferError
from ssfer.datasets.base import RawRecord, Source
from ssfer.formats.manifest import USAGES


def check_source(source: Source) -> Sequence[RawRecord]:
    """Return an importer's records after a check of their form.

    Raises:
        SsferError: names the importer, the record and what was expected.
    """
    name, records = type(source).__name__, source.records()
    if not isinstance(records, Sequence):
        raise SsferError(f"importer {name}: records() is a {type(records).__name__}, expected a list of RawRecord")
    attributes = (
        ("missing", Collection, "a list"),
        ("dropped", Mapping, "a dict"),
        ("notes", Sequence, "a list"),
        ("variant", str, "a text"),
    )
    for attribute, kind, expected in attributes:
        if not isinstance(value := getattr(source, attribute, None), kind):
            raise SsferError(f"importer {name}: {attribute} is a {type(value).__name__}, expected {expected}")
    for record in records:
        if problem := wrong_record(record):
            raise SsferError(f"importer {name}, record '{getattr(record, 'path', record)!s:.80}': {problem}")
    return records


def wrong_record(record: Any) -> str:
    """Return what is wrong with the form of a record, "" if nothing is."""
    if not isinstance(record, RawRecord):
        return f"found a {type(record).__name__}, expected a RawRecord"
    for key in ("path", "label", "identity", "truth"):
        value = getattr(record, key)
        if not (isinstance(value, str) or (value is None and key != "path")):
            return f"{key} is {value!r:.40}, expected a text{'' if key == 'path' else ' or None'}"
    if record.usage not in USAGES:
        return f"usage {record.usage!r:.40} is none of {', '.join(USAGES)}"
    if record.face is not None and not (
        len(record.face) == 4 and record.face[0] < record.face[2] and record.face[1] < record.face[3]
    ):
        return f"face is {record.face!r:.60}, expected x1, y1, x2, y2"
    try:
        json.loads(record.truth or "null")
    except ValueError:
        return "truth is not JSON"
    return ""
