"""The paper's figures from a project's own results: `ssfer figure NAME` writes data/reports/figures/NAME.png.

Faces are drawn only if report.gallery is true, and git ignores data/reports. This is not a stage of the pipeline:
nothing depends on these pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import write_bytes
from ssfer.core.pixels import normalize
from ssfer.core.places import CORPUS, METRICS, WEIGHTS
from ssfer.data.augmentations.eval import Eval
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.attack.forward import predicted_class
from ssfer.evaluation.attack.gradcam import grad_cam
from ssfer.evaluation.inference import eval_views
from ssfer.evaluation.reconstruction import SHOWN, reconstruct
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_state, load_weights
from ssfer.models.classifier import body_of
from ssfer.models.features import features
from ssfer.models.vit import build_mae
from ssfer.report import attack_pictures, figures
from ssfer.stages.common import load_classifier, stored_faces
from ssfer.stages.robustness import even_choice, load_batches, one_per_class, weight_files
from ssfer.tables.catalogue import catalogue
from ssfer.tables.plan import Study, cells
from ssfer.tables.records import Record, check_comparable, find_record, read_records

FOLDER = Path("data/reports/figures")  # ignored by git, not an output of DVC
RATIOS = (0.25, 0.5, 0.75, 0.9)
POINTS = 2000  # most faces in the embedding
TABLE, ROW = "table2", "SSFER"  # whose records have the confusion matrices
SEED = 2024  # of t-SNE


@dataclass(frozen=True)
class Figure:
    """One figure: what draws it, and whether faces can be recognized in it."""

    draw: Callable[[Params, str], bytes]
    faces: bool = False


def write_figure(name: str, params: Params, dataset: str = "demo") -> Path:
    """Draw a figure and return its file.

    Args:
        name: a key of `FIGURES`.
        params: settings of the project.
        dataset: of the catalogue; only the confusion matrices, which come from its records, depend on it.

    Raises:
        SsferError: unknown name, faces that must not be shown, or missing results.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if FIGURES[name].faces and not params.report.gallery:
        raise SsferError(
            f"figure {name} shows faces, but report.gallery is false; set it to true only for faces that may be shown"
        )
    png = FIGURES[name].draw(params, dataset)
    path = FOLDER / f"{name}.png"
    write_bytes(path, png)
    return path


def reconstructions(params: Params, _: str) -> bytes:
    """Draw faces of the corpus, and for each mask ratio the masked input and the reconstruction."""
    path = WEIGHTS / "pretrain" / "mae.safetensors"
    if not path.is_file():
        raise SsferError(f"no {path}, the masked autoencoder with its decoder; run dvc repro pretrain")
    mae = build_mae(params.model, params.pretrain).eval()
    load_state(mae, load_weights(path, "mae")[0], str(path))
    faces = FaceDataset([CORPUS], cache_gib=params.machine.cache_gib)
    view = Eval(params.model.img_size)
    images = torch.stack([view(faces.image(int(i)), torch.zeros(4), 0).image for i in even_choice(len(faces), SHOWN)])
    rows: list[tuple[str, list[NDArray[np.float32]]]] = []
    for ratio in RATIOS:
        seen, made, original = (
            list(x.permute(0, 2, 3, 1).numpy()) for x in reconstruct(mae, images, params.model, ratio)
        )
        rows = rows or [("face", original)]
        rows += [(f"{ratio:.0%} masked", seen), ("reconstructed", made)]
    return figures.faces_png(rows)


def confusions(params: Params, dataset: str) -> bytes:
    """Draw the confusion matrices of SSFER at every label budget that has records, summed over their seeds."""
    study = Study(catalogue(), dataset)
    records = read_records(dataset)
    seeds = sorted({record.seed for record in records})
    found: dict[str, list[Record]] = {}
    older = False
    for cell in (c for c in cells(study.catalogue, TABLE, dataset) if c.name == ROW):
        for seed in seeds:
            record = find_record(records, study.experiment(cell, seed), study.defaults, cell.stages)
            if record is not None and record.confusion is not None:
                found.setdefault(cell.budget.text, []).append(record)
            older |= record is not None and record.confusion is None
    used = [record for group in found.values() for record in group]
    if not used:
        again = " --again" if older else ""  # a row with a record counts as done
        raise SsferError(
            f"no record of {dataset} has a confusion matrix; "
            f"ssfer experiments run {TABLE} --dataset {dataset} --row {ROW}{again} makes them"
        )
    check_comparable(used)
    kept = {record.name: record.confusion or {} for record in used}
    panels = [
        (f"{labels} labels", np.sum([kept[record.name]["counts"] for record in group], axis=0))
        for labels, group in found.items()
    ]
    return figures.confusions_png(panels, kept[used[0].name]["classes"])


def gradcam(params: Params, _: str) -> bytes:
    """Draw the first test face of each class with its Grad-CAM."""
    model, test, split = _tested(params)
    shown, p = one_per_class(test.labels, np.arange(len(test))), params.model
    images, labels, _positions = next(load_batches(test, shown, len(shown), p.img_size))
    cam = grad_cam(model, images, p.mean, p.std).numpy()
    said = predicted_class(model, images, p.mean, p.std).tolist()
    columns = [
        attack_pictures.Face(split["classes"][truth], (image, split["classes"][told]), looks, {})
        for image, truth, told, looks in zip(
            images.permute(0, 2, 3, 1).numpy(), labels.tolist(), said, cam, strict=True
        )
    ]
    return attack_pictures.faces_png(columns, params.robustness.cam_threshold, 0.0)


def fgsm(params: Params, _: str) -> bytes:
    """Draw accuracy against epsilon, from the metrics of stage robustness."""
    if not (path := METRICS / "robustness.json").is_file():
        raise SsferError(f"{path} is missing; dvc repro robustness writes it")
    found = read_metrics("robustness")
    return attack_pictures.accuracy_png(found["models"], found["chance"])


def embedding(params: Params, _: str) -> bytes:
    """Draw the test faces' features in two dimensions (t-SNE, initialized by PCA)."""
    from sklearn.manifold import TSNE

    model, test, split = _tested(params)
    chosen = even_choice(len(test), POINTS)
    p, found = params.model, []
    with torch.inference_mode():
        for images, _labels, _index in eval_views(test, p.img_size, params.machine.eval_batch_size, chosen):
            found.append(features(body_of(model), normalize(images, p.mean, p.std)).float().numpy())
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=SEED).fit_transform(np.concatenate(found))
    return figures.embedding_png(points, test.labels[chosen], split["classes"])


def _tested(params: Params) -> tuple[torch.nn.Module, FaceDataset, Mapping[str, Any]]:
    """Return the first model that stage robustness attacks (eval mode, CPU), the test part and the split."""
    split = load_split()
    path = next(iter(weight_files(params.robustness.models).values()))
    model = load_classifier(path, params, split).eval().requires_grad_(False)
    return model, stored_faces(split, open_test_part(split), params), split


FIGURES = {
    "reconstructions": Figure(reconstructions, faces=True),
    "confusions": Figure(confusions),
    "gradcam": Figure(gradcam, faces=True),
    "fgsm": Figure(fgsm),
    "embedding": Figure(embedding),
}
