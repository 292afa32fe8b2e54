"""Progress of the whole pipeline: which stage of how many runs, and how long it and the later ones took last time.

The times are of this project on this machine; they lie in .scratch and decide nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ssfer.core.files import project_root, write_json
from ssfer.core.progress import clock
from ssfer.core.yaml import read_yaml

PIPELINE = Path("dvc.yaml")


@contextmanager
def stage_progress(stage: str) -> Iterator[None]:
    """Print the stage's place in the pipeline when it starts; remember its time when it ends without an error."""
    path = project_root() / ".scratch" / "stage_seconds.json"
    stages, seconds = list(read_yaml(PIPELINE)["stages"]), _read(path)
    print(f"ssfer: {place(stage, stages, seconds)}", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    with suppress(OSError):  # the work is done, and times decide nothing
        write_json(path, {**_read(path), stage: round(time.monotonic() - start, 1)})


def place(stage: str, stages: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Return "stage 7 of 12, finetune; last time 9:10 from here to the end".

    Args:
        stages: all of them, in order.
        seconds: how long each took last time; without the time of this or a later stage, no time is printed.
    """
    number = stages.index(stage)
    text = f"stage {number + 1} of {len(stages)}, {stage}"
    left = stages[number:]
    if not all(name in seconds for name in left):
        return text
    return f"{text}; last time {clock(sum(seconds[name] for name in left))} from here to the end"


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
