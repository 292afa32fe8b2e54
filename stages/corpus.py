"""Select the unlabeled corpus for pretraining: data/faces/* -> data/corpus.

Reads params sections data, align.shard_size, corpus. Writes data/corpus/{manifest.parquet,shard-*.tar} (row order = a
seeded shuffle), data/reports/corpus/{index.html,dropped.parquet} (what was left out and why) and metrics/corpus.json.
Run in the project's root: python -m stages.corpus. It takes seconds for ten thousand faces. SSFER specification 2.3:
images of the test sets, and copies of them, are left out.
"""

from __future__ import annotations

import time
from pathlib import Path

from ssfer.config.schema import load_params
from ssfer.core.places import CORPUS, FACES
from ssfer.core.process import stage_main
from ssfer.core.workers import workers_of
from ssfer.corpus.selection import build_corpus
from ssfer.formats.metrics import write_metrics
from ssfer.report.corpus_page import write_report
from ssfer.tracking.tracker import Tracker

REPORT = Path("data/reports/corpus")


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    start = time.monotonic()
    machine = params.machine
    with Tracker("corpus", params) as tracker, workers_of(machine.cluster, machine.num_workers, "corpus") as workers:
        counts, fate = build_corpus(params.data.sources, params.corpus, FACES, CORPUS, params.align.shard_size, workers)
        write_report(counts, fate, FACES, REPORT, params.corpus.examples)
        write_metrics("corpus", counts)
        tracker.log_metrics(counts)
    absent = f", without {', '.join(counts['absent'])}" if "absent" in counts else ""
    print(f"corpus: {counts['kept']} of {counts['considered']} faces kept{absent}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    stage_main("corpus", main)
