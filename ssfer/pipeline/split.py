"""Stage split: which images are labelled, held out, unlabelled and test (SSFER specification, section 7)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.data.split import SPLIT_FILE, hold_out, save_split, seal, split_labeled
from ssfer.errors import SsferError
from ssfer.faces.duplicates import decontaminate
from ssfer.labels import class_set
from ssfer.manifest import fingerprint, read_manifest
from ssfer.params import Params
from ssfer.pipeline.common import FACES, METRICS
from ssfer.runtime import write_json
from ssfer.tracking import Tracker


def run_split(params: Params) -> dict[str, Any]:
    """Draw the split, write data/splits/split.json and metrics/split.json; return the metrics."""
    classes = class_set(params.data.class_set)
    sources = [s.name for s in params.data.sources if s.labeled]
    table = pa.concat_tables([read_manifest(FACES / name) for name in sources])
    with Tracker("split", params, fingerprint(table)) as tracker:
        split, dropped = draw_split(table, classes, params)
        split = seal({**split, "sources": sources, "faces_fingerprint": fingerprint(table)})
        label = dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        parts = ("labeled", "valid", "unlabeled", "test")
        counts = {part: Counter(label[i] for i in split[part]) for part in parts}
        result = {
            "hash": split["hash"],
            **{part: len(split[part]) for part in parts},
            "dropped": dropped,
            "per_class": {name: {part: counts[part][name] for part in parts} for name in classes},
        }
        save_split(split, SPLIT_FILE)
        write_json(METRICS / "split.json", {"split": result})
        tracker.log_metrics(result)
    return result


def draw_split(table: pa.Table, classes: tuple[str, ...], params: Params) -> tuple[dict[str, Any], dict[str, int]]:
    """Return (split without hash and sources, counts of the rows that take no part by reason).

    Training images that copy a test image, exactly or nearly, are left out. So are rows without a stored crop, with a
    label outside the class set, and an official validation part, whose labels are not in the budget.

    Raises:
        SsferError: a class without training images.
    """
    p = params.split
    label = np.array([classes.index(v) if v in classes else -1 for v in table["label"].to_pylist()])
    usage = np.array(table["usage"].to_pylist())
    stored = pc.is_valid(table["shard"]).to_numpy(zero_copy_only=False)
    usable = stored & (label >= 0)
    train, test = usable & (usage == "train"), usable & (usage == "test")
    dropped = {
        "not_stored": int((~stored).sum()),
        "label_outside_class_set": int((stored & (label < 0)).sum()),
        "official_validation": int((usable & (usage == "valid")).sum()),
        "copy_of_test_image": 0,
    }
    rows = np.flatnonzero(train)
    if test.any() and len(rows):
        near = (params.corpus.near_duplicate_bits, params.corpus.near_duplicate_correlation)
        clean = decontaminate(table.take(pa.array(rows)), table.filter(pa.array(test)), FACES, *near)
        dropped["copy_of_test_image"] = int((~clean).sum())
        rows = rows[clean]
    missing = [name for i, name in enumerate(classes) if not (label[rows] == i).any()]
    if missing:
        raise SsferError(
            f"no training image has the label {', '.join(missing)}; expected all of {', '.join(classes)}: "
            "check the source or choose another data.class_set"
        )
    labeled, unlabeled = split_labeled(
        label[rows], p.labeled_fraction, p.labeled_per_class, p.labeled_total, p.seed, p.rounding
    )
    kept, held = hold_out(label[rows][labeled], p.val_fraction)
    ids = np.array(table["sample_id"].to_pylist(), dtype=object)
    split = {
        "version": 1,
        "classes": list(classes),
        "params": {"class_set": params.data.class_set, **p.model_dump()},
        "labeled": ids[rows[labeled[kept]]].tolist(),
        "valid": ids[rows[labeled[held]]].tolist(),
        "unlabeled": ids[rows[unlabeled]].tolist(),
        "test": ids[test].tolist(),
    }
    return split, dropped
