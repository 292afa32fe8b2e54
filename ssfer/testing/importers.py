"""The contract of an importer, as a check that its author's tests can run on a small copy of the data set.

    check_importer(SOURCES["./mine.py:Mine"](path, settings))

It raises AssertionError with one sentence. Published counts and labels need tests of their own.
"""

from __future__ import annotations

import pickle

from ssfer.core.errors import SsferError
from ssfer.core.labels import class_name
from ssfer.datasets.base import Source
from ssfer.datasets.contract import check_source

_READ = 20  # records whose bytes are read


def check_importer(source: Source) -> None:
    """Check everything that stage align relies on.

    Args:
        source: opened on files that can all be read.

    Raises:
        AssertionError: a rule is broken; names the rule and the record.
    """
    kind = type(source).__name__
    try:
        records = list(check_source(source))
    except SsferError as error:
        raise AssertionError(str(error)) from error
    assert records, f"{kind} lists no image"
    assert records == list(source.records()), f"{kind} lists other records, or another order, the second time"
    assert source.variant, f"{kind}.variant must be a text for people"
    assert all(isinstance(n, int) and n >= 0 for n in source.dropped.values()), f"{kind}.dropped must count files"
    assert all(isinstance(note, str) for note in source.notes), f"{kind}.notes must be sentences"
    paths = [record.path for record in records]
    assert len(set(paths)) == len(paths), f"{kind} lists a path twice"
    for record in records:
        where = f"{kind}, record '{record.path}'"
        assert not record.path.startswith("/") and "\\" not in record.path, f"{where}: paths are relative, with slashes"
        assert ".." not in record.path.split("/"), f"{where}: paths stay inside the data set"
        assert record.label is None or record.label == class_name(record.label) != "", (
            f"{where}: the label '{record.label}' must be as `ssfer.core.labels.class_name` writes it"
        )
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy.records()) == records, f"{kind} lists other records in a worker process"
    assert set(source.missing) <= set(paths), f"{kind}.missing must be paths of records"
    for record in [r for r in records if r.path not in source.missing][:_READ]:
        where = f"{kind}, record '{record.path}'"
        data, stamp = source.read(record), source.stamp(record)
        assert isinstance(data, bytes) and isinstance(stamp, str), f"{where}: read returns bytes, stamp a text"
        assert copy.read(record) == data, f"{where}: a worker process reads other bytes"
        assert copy.stamp(record) == stamp, f"{where}: the stamp differs although the file is the same"
