"""Caps on what is imported: images beyond them are never decoded, aligned or stored."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.formats.manifest import EVALUATED


def capped(records: Sequence[RawRecord], settings: SourceSettings) -> Sequence[RawRecord]:
    """Return the records kept by import_max_per_identity and import_max, in their order.

    A hash of each record's path decides which records are kept, so it does not depend on their order. Validation and
    test images are always kept and not counted; records without an identity are not capped per person.
    """
    if settings.import_max is None and settings.import_max_per_identity is None:
        return records
    order = sorted(range(len(records)), key=lambda i: hashlib.sha256(records[i].path.encode()).digest())
    kept: set[int] = set()
    taken, of_person = 0, defaultdict[str, int](int)
    for i in order:
        record = records[i]
        if record.usage in EVALUATED:
            kept.add(i)
            continue
        if settings.import_max is not None and taken >= settings.import_max:
            continue
        if record.identity is not None and settings.import_max_per_identity is not None:
            if of_person[record.identity] >= settings.import_max_per_identity:
                continue
            of_person[record.identity] += 1
        kept.add(i)
        taken += 1
    return [record for i, record in enumerate(records) if i in kept]
