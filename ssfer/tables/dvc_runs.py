"""Start or queue DVC experiments in folders of their own, and read their results from git.

`dvc exp run --temp` does not touch the user's files, params.yaml and HEAD, even after a kill -9; without it all three
are changed. Interrupted training resumes from its snapshots in .scratch of the project's root. `--force` is not used:
it would train everything again, pretraining included.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssfer.config.identity import FOLDER, settings
from ssfer.config.pipeline import need_dvc, run_dvc
from ssfer.config.profiles import encode, missing_sources
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json
from ssfer.core.places import ENCODER, SPLIT_FILE
from ssfer.core.yaml import parse_yaml
from ssfer.rendered.settings import SYNTHETIC
from ssfer.tables.plan import Experiment
from ssfer.tables.settings import MEASURING

PRETRAINED = ENCODER.parent.as_posix()
FACES_IDENTITY = FOLDER / "align.json"
LOCK = Path("dvc.lock")
LEFTOVERS = Path(".dvc/tmp/exps/standalone")
SOURCES = ("ssfer", "stages", "dvc.yaml", "params.yaml")  # git must know all of these, or experiments run without them


def git(*args: str, check: bool = True) -> str | None:
    """Return the output of a git command in the working directory; None if it fails and `check` is off.

    Raises:
        SsferError: with `check`: it fails, no git is installed, or the folder is in no git repository.
    """
    try:
        ran = subprocess.run(["git", *args], capture_output=True, text=True)
    except FileNotFoundError as error:
        if check:
            raise SsferError("runs are read from git, which is not installed here; install it") from error
        return None
    if ran.returncode and check:
        if git("rev-parse", "--git-dir", check=False) is None:
            raise SsferError(
                f"runs are read from git, and {Path.cwd()} is in no git repository; go to a project that is in one, or "
                "begin one in the project's folder: git init && git add . && git commit -m start"
            )
        raise SsferError(f"git {' '.join(args)} failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
    return None if ran.returncode else ran.stdout


def check_repository() -> None:
    """Check that `dvc exp run --temp` would neither fail late nor lose its results.

    Raises:
        SsferError: no DVC, no commit, a shallow clone, or code that git does not track.
    """
    need_dvc()
    if git("rev-parse", "--verify", "HEAD", check=False) is None:
        raise SsferError(
            "experiments need a git repository with at least one commit: git init && git add . && git commit -m start"
        )
    if (git("rev-parse", "--is-shallow-repository") or "").strip() == "true":
        raise SsferError("DVC loses experiments of a shallow clone: git fetch --unshallow")
    status = git("status", "--porcelain", "--untracked-files=all", "--", *SOURCES) or ""
    unknown = [line[3:] for line in status.splitlines() if line.startswith("??")]
    if unknown:
        raise SsferError(f"an experiment would run without {unknown[0]}, which git does not know: commit it first")


def check_cache() -> None:
    """Check that DVC can give an experiment's folder its cache: it writes the path with ASCII characters only.

    Raises:
        SsferError: the cache's path has other characters.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        cache = repo.cache.local_cache_dir
    if not cache.isascii():
        raise SsferError(
            "DVC cannot run experiments whose cache lies below a path with characters other than ASCII ones, found "
            f"{cache}; move or rename the folder"
        )


def check_faces(params: Params, profiles: Sequence[str]) -> None:
    """Check that data/faces was made with the experiments' settings: their folders have no raw photos to make it from.

    Rendered faces need no check, because DVC can generate them in any folder.

    Raises:
        SsferError: data/identity is missing or holds other settings; the message says how to make the faces.
    """
    if params.data.raw == SYNTHETIC:
        return
    if not FACES_IDENTITY.exists() or read_json(FACES_IDENTITY)["settings"] != settings("align", params):
        absent = missing_sources(params)
        write = f"ssfer profile {' '.join(profiles)} --write && " if profiles else ""
        raw = f", nor is {absent[0]} there (profiles/*.yaml say what belongs there)" if absent else ""
        raise SsferError(
            f"data/faces does not hold the faces of these settings ({params.data.raw}, {params.align.size} px){raw}; "
            f"first: {write}dvc repro align"
        )


def command(experiment: Experiment, stages: Sequence[str], queue: bool = False) -> list[str]:
    """Return the arguments of DVC that run an experiment, or queue it."""
    flags = [word for key, value in experiment.flags.items() for word in ("-S", f"{key}={encode(value)}")]
    missing = [] if experiment.params.data.raw == SYNTHETIC else ["--allow-missing"]  # raw photos are not copied
    how = "--queue" if queue else "--temp"
    return ["exp", "run", how, "-n", experiment.name, *missing, *flags, *stages]


def start(experiment: Experiment, stages: Sequence[str], queue: bool = False) -> bool:
    """Run or queue an experiment, its output on the terminal; return whether DVC succeeded."""
    head = (git("rev-parse", "HEAD") or "").strip()
    git("update-ref", "-d", f"refs/exps/{head[:2]}/{head[2:]}/{experiment.name}")  # DVC refuses a name that is taken
    return run_dvc(command(experiment, stages, queue)) == 0


def queued() -> set[str]:
    """Return the names of the queued experiments, waiting or running."""
    from dvc.repo import Repo

    with Repo() as repo:
        status = repo.experiments.celery_queue.status()
    return {entry["name"] for entry in status if entry["status"] in ("Queued", "Running")}


def finished(name: str) -> list[str]:
    """Return the commits of finished experiments of this name, newest first; DVC keeps one per parent commit."""
    found = git("for-each-ref", "--sort=-committerdate", "--format=%(objectname)", f"refs/exps/*/*/{name}") or ""
    return found.split()


def origin(commit: str) -> str:
    """Return the commit that an experiment started from, with "-dirty" if its code differs from that commit."""
    parent = (git("rev-parse", f"{commit}^") or "").strip()
    changed = git("diff", "--name-only", parent, commit, "--", "ssfer", "stages")
    return parent + ("-dirty" if changed else "")


def read_text(commit: str, path: str) -> str | None:
    """Return the text of a file in a commit; None if it is not there."""
    return git("show", f"{commit}:./{path}", check=False)  # "./": the project may be a subfolder of the repository


def read_split(commit: str) -> Any:
    """Return the content of an experiment's data/splits/split.json from DVC's cache.

    Raises:
        SsferError: no longer in the cache.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        with dvc.api.open(SPLIT_FILE.as_posix(), repo=".", rev=commit) as file:
            return json.load(file)
    except (DvcException, OSError) as error:
        raise SsferError(f"the split of experiment {commit[:10]} has left DVC's cache; use --again") from error


def is_current(commit: str, stage: str) -> bool:
    """Return whether a stage's metrics in a commit belong to the other stages' outputs in that commit.

    An experiment that did not run a stage still has its parent's metrics file.
    """
    lock = _locked(commit)
    made = {out["path"]: out.get("md5") for content in lock.values() for out in content.get("outs", [])}
    if stage not in lock:
        return False
    return all(made.get(dep["path"], dep.get("md5")) == dep.get("md5") for dep in lock[stage].get("deps", []))


def pretrained(commit: str) -> str | None:
    """Return DVC's hash of the pretrained weights that an experiment started from."""
    outs = _locked(commit).get("pretrain", {}).get("outs", [])
    return next((out.get("md5") for out in outs if out["path"] == PRETRAINED), None)


def identities(commit: str | None, measured: Collection[str]) -> dict[str, str]:
    """Return stage -> hash of the settings, code and files that decided its result, for the stages of a record.

    Args:
        commit: of the experiment; None: the working tree.
        measured: stages whose metrics the record takes; the other measuring stages may be of another run.
    """
    lock = _locked(commit)
    rendered = any(dep["path"] == "data/raw/synthetic" for dep in lock.get("align", {}).get("deps", []))
    others = {*MEASURING, "report"} - set(measured) | (set() if rendered else {"generate"})
    stages = [stage for stage in lock if stage not in others]
    return {
        stage: dep["md5"]
        for stage in stages
        for dep in lock[stage].get("deps", [])
        if dep["path"] == f"{FOLDER.as_posix()}/{stage}.json"
    }


def outputs(commit: str) -> dict[str, str]:
    """Return path -> DVC's hash of faces, corpus, splits and weights."""
    outs = [out for stage in _locked(commit).values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if re.match(r"data/(faces|corpus|splits|weights/.*)$", out["path"])}


def leftovers() -> int:
    """Return how many folders killed experiments left behind."""
    return len(list(LEFTOVERS.glob("tmp*")))


def _locked(commit: str | None) -> Mapping[str, Any]:
    if commit is None:
        return _lock(LOCK.read_text() if LOCK.is_file() else "")
    return _committed(commit)


@lru_cache(maxsize=1)  # parsing is slow, and callers handle one commit after another
def _committed(commit: str) -> Mapping[str, Any]:
    return _lock(read_text(commit, LOCK.as_posix()) or "")


def _lock(text: str) -> Mapping[str, Any]:
    content = parse_yaml(text, "dvc.lock") or {}
    stages: Mapping[str, Any] = content.get("stages", {})
    return stages
