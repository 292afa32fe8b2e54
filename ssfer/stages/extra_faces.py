"""Extra unlabeled faces for stage semisup: those of the corpus that several models agree on (params semisup.extra).

SSFER names an ensemble that labels more faces as future work. Here the ensemble only chooses the faces; the method
gives them pseudo-labels in each step, as it does for the other unlabeled faces.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from ssfer.config.schema import Params
from ssfer.copies.find import decontaminate
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_file, write_json
from ssfer.core.places import CORPUS, FACES, WEIGHTS
from ssfer.core.progress import Progress
from ssfer.core.workers import HERE, Workers, workers_of
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import open_test_part
from ssfer.evaluation.inference import predict
from ssfer.formats.manifest import EVALUATED, fingerprint, read_manifest
from ssfer.formats.weights import named_file
from ssfer.stages.common import Split, load_classifier
from ssfer.train.device import Machine

_BATCHES = 64  # of faces in a task


@dataclass(frozen=True)
class Ensemble:
    """Weights files and their hashes, by name in params or data/weights/finetune, and the corpus's fingerprint."""

    models: Mapping[str, tuple[Path, str]]
    corpus: str

    def identity(self) -> dict[str, Any]:
        """Return the inputs, besides params and split, that decide which faces are chosen."""
        return {"models": {name: sha256 for name, (_, sha256) in self.models.items()}, "corpus": self.corpus}


def find_ensemble(params: Params) -> Ensemble | None:
    """Return the models that choose extra faces; None: semisup.extra.faces is 0, and data/corpus is not read.

    Paths are relative to the project's root. Without a list they are the models of stage finetune, except the baseline
    from scratch, which is less accurate.

    Raises:
        SsferError: a file that is missing, has another hash, or is in the folder that stage semisup replaces.
    """
    p = params.semisup.extra
    if not p.faces:
        return None
    key, advice = "semisup.extra.ensemble", "name classifiers that exist, or []"
    models = {m.file: named_file(key, m.file, m.sha256, advice, ("semisup",)) for m in p.ensemble}
    if not models:
        own = sorted((WEIGHTS / "finetune").glob("*.safetensors"))
        models = {path.stem: (path, sha256_file(path)) for path in own if not path.stem.startswith("scratch_")}
    return Ensemble(models, fingerprint(read_manifest(CORPUS)))


def add_extra_faces(
    unlabeled: FaceDataset, ensemble: Ensemble, params: Params, split: Split, machine: Machine, folder: Path
) -> tuple[FaceDataset, dict[str, Any]]:
    """Return the unlabeled faces followed by the chosen ones, whose true class is unknown (-1), and the counts.

    Args:
        unlabeled: of the split.
        folder: in the scratch folder of the stage; stores the choice, so that a continued run, perhaps on another
            machine, trains on the same faces and need not classify a million of them again.
    """
    path = folder / "faces.json"
    if not gather_object([path.exists()])[0]:  # the first process decides for all
        choice = _choose(ensemble, params, split, machine)
        if machine.rank == 0:
            write_json(path, choice)
        machine.wait_for_all()
    choice = read_json(path)
    ids = [*unlabeled.ids, *choice["ids"]]
    folders = [FACES / name for name in dict.fromkeys([*split["sources"], *choice["sources"]])]
    both = FaceDataset(folders, ids, split["classes"], params.machine.cache_gib)
    both.labels = np.concatenate([unlabeled.labels, np.full(len(choice["ids"]), -1)])
    return both, choice["counts"]


def most_confident(probs: NDArray[np.float64], faces: int, threshold: float) -> NDArray[np.int64]:
    """Return the chosen rows of `probs` (N, K): confidence above `threshold`, at most `faces` of them, in row order.

    Classes take turns, each with its most confident remaining face, so predicted classes are as balanced as possible.
    """
    confidence, predicted = probs.max(axis=1), probs.argmax(axis=1)
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] > threshold]
    turn = np.empty(len(order), np.int64)
    for k in range(probs.shape[1]):
        own = predicted[order] == k
        turn[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(turn, kind="stable")][:faces])


def candidates(params: Params, split: Split, workers: Workers) -> tuple[pa.Table, int]:
    """Return the faces of the corpus that may be added, as rows of data/faces, and how many copies were left out.

    They are those of unlabeled sources: faces of labeled ones are already in the split. Stage corpus has removed all
    evaluation images and their copies. If a fold of the training set is the test part, its copies are removed here.

    Raises:
        SsferError: the corpus holds an evaluation image, or only faces of labeled sources.
    """
    table = read_manifest(CORPUS).select(["sample_id", "source", "usage"])
    table = table.filter(pc.invert(pc.is_in(table["source"], value_set=pa.array(split["sources"]))))
    tested = pa.array([*open_test_part(split), *split["valid"]], pa.string())
    wrong = pc.or_(
        pc.is_in(table["usage"], value_set=pa.array(EVALUATED)), pc.is_in(table["sample_id"], value_set=tested)
    )
    if pc.any(wrong).as_py():
        found = table.filter(wrong)["sample_id"]
        raise SsferError(
            f"data/corpus holds {len(found)} images that are evaluated on (e.g. '{found[0]}'); it is not of this data: "
            "run dvc repro corpus"
        )
    if not table.num_rows:
        raise SsferError("data/corpus has faces of labeled sources only; semisup.extra.faces needs an unlabeled source")
    rows = _rows_of_faces(pc.unique(table["source"]).to_pylist(), table["sample_id"])
    test = _rows_of_faces(split["sources"], tested)
    clean = decontaminate(
        rows, test, FACES, params.corpus.near_duplicate_bits, params.corpus.near_duplicate_correlation, workers
    )
    return rows.filter(pa.array(clean)), int((~clean).sum())


def _rows_of_faces(sources: list[str], ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    table = pa.concat_tables([read_manifest(FACES / name) for name in sources])
    return table.filter(pc.is_in(table["sample_id"], value_set=ids))


@dataclass(frozen=True)
class _Labeling:
    """What labels faces in any process; picklable."""

    model: Path
    params: Params
    split: Split
    faces: FaceDataset

    @cached_property
    def machine(self) -> Machine:
        return Machine(self.params.machine)

    @cached_property
    def network(self) -> nn.Module:
        return load_classifier(self.model, self.params, self.split).to(self.machine.device)


def _label(job: _Labeling, rows: range) -> NDArray[np.float64]:
    """Return the probabilities (N, K) of some faces."""
    return predict(job.network, job.faces, machine=job.machine, model=job.params.model, chosen=rows)


def _choose(ensemble: Ensemble, params: Params, split: Split, machine: Machine) -> dict[str, Any]:
    p, classes, m = params.semisup.extra, split["classes"], params.machine
    first = machine.rank == 0
    with workers_of(m.cluster if first else None, m.num_workers, "semisup") as workers:
        found = candidates(params, split, workers) if first else None
        table, copies = gather_object([found])[0]  # the first process looks for copies for all
        ids, sources = table["sample_id"].to_pylist(), pc.unique(table["source"]).to_pylist()
        if first:
            print(
                f"semisup: {len(ensemble.models)} models look at {len(ids):,} more faces", file=sys.stderr, flush=True
            )
        own = ids[machine.rank :: machine.world]
        faces = FaceDataset([FACES / name for name in sources], own)
        if machine.world > 1:  # they share the faces by themselves
            workers = HERE
        probs = np.zeros((len(ids), len(classes)))
        for path, _ in ensemble.models.values():
            labeled = _labels(path, params, split, faces, workers, first)
            probs[machine.rank :: machine.world] += labeled / len(ensemble.models)
        faces.close()
    probs = np.sum(gather_object([probs]), axis=0)  # the others' rows are zero in each process's part
    chosen = most_confident(probs, p.faces, p.threshold)
    if not len(chosen):
        raise SsferError(
            f"the models are sure of none of the {len(ids)} faces of data/corpus: the highest mean probability is "
            f"{probs.max():.3f}, semisup.extra.threshold {p.threshold}; lower it"
        )
    predicted = np.bincount(probs[chosen].argmax(axis=1), minlength=len(classes)).tolist()
    counts = {
        "candidates": len(ids),
        "copies_of_test_images": copies,
        "confident": int((probs.max(axis=1) > p.threshold).sum()),
        "faces": len(chosen),
        "predicted": dict(zip(classes, predicted, strict=True)),
        "models": list(ensemble.models),
    }
    return {"ids": [ids[i] for i in chosen], "sources": sources, "counts": counts}


def _labels(
    path: Path, params: Params, split: Split, faces: FaceDataset, workers: Workers, shown: bool
) -> NDArray[np.float64]:
    """Return a model's probabilities (N, K) of all faces."""
    m = params.machine
    device = workers.device(m.device)
    loading = (
        m.num_workers if workers.number == 1 or device == "cuda" else 0
    )  # on a cluster's CPUs, tasks load for themselves
    own = m.model_copy(update={"device": device, "threads": "auto", "num_workers": loading})
    known = {key: split[key] for key in ("classes", "hash")}
    job = _Labeling(path, params.model_copy(update={"machine": own}), known, faces)
    size = _BATCHES * m.eval_batch_size
    tasks = (range(start, min(start + size, len(faces))) for start in range(0, len(faces), size))
    probs = np.zeros((len(faces), len(split["classes"])))
    with Progress(f"label with {path.stem}", len(faces), enabled=shown) as progress:
        for rows, found in workers.map(_label, job, tasks, gpu=device == "cuda"):
            probs[rows.start : rows.stop] = found
            progress.advance(len(rows))
    return probs
