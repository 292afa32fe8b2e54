"""Run the pipeline with DVC; settings of an experiment (-S) are checked before DVC writes them to params.yaml."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssfer.config.schema import PARAMS_FILE, parse_params, read_params_file
from ssfer.core.errors import SsferError
from ssfer.core.process import run_to_end
from ssfer.core.provenance import git_commit
from ssfer.core.yaml import flatten


def run_pipeline(extra: Sequence[str], rest: Sequence[str] = ()) -> int:
    """Run the stale stages, with `key=value` settings as a DVC experiment; return DVC's exit status.

    Args:
        rest: more arguments of `dvc exp run`.

    Raises:
        SsferError: an unknown key, a wrong value, no DVC, or no git for an experiment.
    """
    check_overrides(extra)
    flags = [part for value in extra for part in ("-S", value)]
    if not flags and not rest:
        return run_dvc(["repro", "log"])
    need_dvc()
    if re.search(r"no_scm = true", _dvc_config()):
        raise SsferError(
            "experiments (-S) need git, and this project does without: git init && dvc config --unset core.no_scm && "
            "git add . && git commit -m start"
        )
    parse_params(_changed(extra), "-S")
    if git_commit() == "unknown":
        raise SsferError("experiments (-S) need git and a commit to start from: git add -A && git commit -m start")
    before = Path(PARAMS_FILE).read_bytes()
    status = run_dvc(["exp", "run", "log", *flags, *rest])
    if Path(PARAMS_FILE).read_bytes() != before:
        what = f"now holds {', '.join(extra)}" if extra else "has changed"
        print(f"{PARAMS_FILE} {what}; git checkout {PARAMS_FILE} takes it back", file=sys.stderr)
    return status


def _dvc_config() -> str:
    found = [Path(".dvc") / name for name in ("config", "config.local")]
    return "\n".join(path.read_text() for path in found if path.is_file())


def need_dvc() -> None:
    """Refuse to go on without DVC.

    Raises:
        SsferError: it is not installed.
    """
    if find_spec("dvc") is None:
        raise SsferError("dvc is not installed here; install the extra `pipeline`, or in a checkout run make setup")


def run_dvc(args: Sequence[str]) -> int:
    """Run a command of the DVC installed beside this package, its output on the terminal; return its exit status.

    Raises:
        SsferError: there is none.
    """
    need_dvc()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # stages call `python`
    return run_to_end([sys.executable, "-m", "dvc", *args], {**os.environ, "PATH": path})


def check_overrides(extra: Sequence[str]) -> None:
    """Refuse what -S cannot take before DVC starts, with the nearest key: DVC's own message names none.

    Raises:
        SsferError: no `key=value`, or a key that params.yaml does not have.
    """
    known: dict[str, None] = {}
    for key, _ in flatten(read_params_file()):
        parts = key.split(".")
        known |= dict.fromkeys(".".join(parts[: i + 1]) for i in range(len(parts)))
    for text in extra:
        key, equals, _ = text.partition("=")
        if not equals:
            raise SsferError(f"-S takes key=value, such as -S split.labeled_fraction=0.05, found '{text}'")
        outside = re.split(r"\[\d+\]|\.\d+", key)[0]  # of a list, whose items are checked by what reads them
        if outside not in known and key[:1] not in ("+", "~"):  # Hydra's add and remove
            if _can_be_added(text, extra):
                raise SsferError(f"-S: {PARAMS_FILE} has no key '{key}' yet; + adds it: -S +{text}")
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise SsferError(f"-S: {PARAMS_FILE} has no key '{key}'{hint} (`ssfer params --all` lists them)")


def _can_be_added(text: str, extra: Sequence[str]) -> bool:
    """Return whether params.yaml would be valid with `+text`, as for settings of components of the user's own."""
    try:
        parse_params(_changed([*(other for other in extra if other != text), f"+{text}"]), "-S")
    except SsferError:
        return False
    return True


def _changed(extra: Sequence[str]) -> Any:
    """Return params.yaml with the values of -S as DVC reads them; those that only DVC understands are left out."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    document = read_params_file()
    for text in extra:
        try:
            (read,) = OverridesParser.create().parse_overrides([text])
        except HydraException:
            continue
        added = read.is_add() or read.is_force_add()
        *sections, last = read.key_or_group.split(".")
        place = document
        for section in sections:
            if added and isinstance(place, dict) and place.get(section) is None:
                place[section] = {}
            place = place.get(section) if isinstance(place, dict) else None
        known = isinstance(place, dict) and (last in place or added)
        if known and not (read.is_sweep_override() or read.is_delete()):
            place[last] = _plain(read.value())
    return document


def _plain(value: Any) -> Any:
    """Return a value of Hydra's parser, whose quoted strings are objects."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if hasattr(value, "text") else value
