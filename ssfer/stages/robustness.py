"""Stage robustness: FGSM on the pixels a model focuses on, on the others and on random ones (SSFER, Table 7).

It measures trained weights on the test part and selects nothing. It always computes in float32, whatever
machine.eval_precision says, because an attack takes the signs of gradients.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.device import exact_float32
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import new_dir, write_bytes, write_csv
from ssfer.core.places import CURVES, WEIGHTS
from ssfer.core.progress import Progress
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.attack.batch import AttackedBatch, Setting
from ssfer.evaluation.attack.forward import predicted_class, to_pixels
from ssfer.evaluation.attack.masks import REGIONS
from ssfer.evaluation.inference import eval_views
from ssfer.evaluation.metrics import wilson_interval
from ssfer.formats.metrics import write_metrics
from ssfer.report.attack_pictures import Face, accuracy_png, faces_png
from ssfer.stages.common import load_classifier, passed_on, stored_faces
from ssfer.tracking.tracker import Tracker
from ssfer.train.device import Machine
from ssfer.train.settings import MachineSettings

REPORT = Path("data/reports/robustness")
Indices = NDArray[np.int64]
Views = tuple[Tensor, Tensor, Tensor]  # images, labels, positions in the test part


def run_robustness(params: Params) -> dict[str, Any]:
    """Attack the test part of every chosen model; write metrics, curve and pictures; return the metrics.

    Pictures of faces are made only if params.report.gallery is true.

    Raises:
        SsferError: no test image, a model that was not trained, weights of another split.
    """
    p, m, split, machine = params.robustness, params.model, load_split(), Machine(params.machine)
    tested = open_test_part(split)
    if not tested:
        raise SsferError("the split has no test image; a labeled source must have images with usage 'test'")
    setting = Setting(p.cam_threshold, p.space, m.mean, m.std)
    paths = weight_files(p.models)
    with Tracker("robustness", params, split["hash"]) as tracker, exact_float32(), new_dir(REPORT) as folder:
        test = stored_faces(split, tested, params)
        chosen = even_choice(len(test), p.images)
        size = images_at_once(params.machine)
        models: dict[str, Any] = {}
        for name, path in paths.items():
            model = load_classifier(path, params, split)
            model = model.to(machine.device).eval().requires_grad_(False)
            batches = load_batches(test, chosen, size, m.img_size, machine)
            with Progress(f"robustness {name}", len(chosen)) as progress:
                models[name] = measure(model, batches, p.epsilons, setting, progress)
            if params.report.gallery:
                shown = one_per_class(test.labels, chosen)
                views = next(load_batches(test, shown, len(shown), m.img_size, machine))
                columns = faces(model, views, p.epsilons[-1], setting, split["classes"])
                write_bytes(folder / f"faces_{name}.png", faces_png(columns, p.cam_threshold, p.epsilons[-1]))
        chance = round(1 / len(split["classes"]), 6)
        result = {
            "split": split["hash"],
            "test_images": len(chosen),
            "chance": chance,
            "space": p.space,
            "cam_threshold": p.cam_threshold,
            "models": models,
        }
        write_bytes(folder / "accuracy.png", accuracy_png(models, chance))
        write_metrics("robustness", result)
        write_csv(CURVES / "robustness.csv", curve_rows(models))
        tracker.log_metrics(result)
        tracker.log_file(CURVES / "robustness.csv")
    return result


def weight_files(names: Sequence[str]) -> dict[str, Path]:
    """Return name -> weights of the last epoch; "auto" is the teacher, or the student of a method that has none.

    If the method trained nothing, "auto" is the arm of stage finetune whose weights were passed on.

    Raises:
        SsferError: a name without weights; lists the names that have weights.
    """
    folders = (WEIGHTS / "finetune", WEIGHTS / "semisup")
    known = {path.stem.removesuffix("_last"): path for f in folders for path in sorted(f.glob("*_last.safetensors"))}
    auto = "teacher" if "teacher" in known else "student"
    auto = passed_on(auto) or auto
    wanted = list(dict.fromkeys(auto if name == "auto" else name for name in names))
    for name in wanted:
        if name not in known:
            raise unknown_name("model in robustness.models", name, known)
    return {name: known[name] for name in wanted}


def even_choice(total: int, at_most: int | None) -> Indices:
    """Return `at_most` of `total` positions (None: all), evenly spaced because lists may be sorted by class."""
    count = total if at_most is None else min(at_most, total)
    return np.arange(count, dtype=np.int64) * total // count


def one_per_class(labels: Indices, chosen: Indices) -> Indices:
    """Return the first chosen position of each class that occurs."""
    return chosen[np.unique(labels[chosen], return_index=True)[1]]


def images_at_once(machine: MachineSettings) -> int:
    """Return the batch size; gradients with respect to pixels need as much memory as training."""
    return min(machine.eval_batch_size, machine.max_batch or machine.eval_batch_size)


def load_batches(
    dataset: FaceDataset, chosen: Indices, size: int, side: int, machine: Machine | None = None
) -> Iterator[Views]:
    """Yield images (B, 3, side, side) in 0..1 under the eval transform, their labels and positions (B,), in order.

    Args:
        dataset, chosen: the faces.
        size: B.
        side: of the network's input, pixels.
        machine: where they go, and whose workers prepare them; None: this process, on the CPU.
    """
    for batch in eval_views(dataset, side, size, chosen, machine):
        device = "cpu" if machine is None else machine.device
        images, labels, index = (part.to(device, non_blocking=True) for part in batch)
        yield to_pixels(images), labels, index


def measure(
    model: nn.Module,
    batches: Iterator[Views],
    epsilons: Sequence[float],
    setting: Setting,
    progress: Progress,
) -> dict[str, Any]:
    """Return region -> epsilon -> accuracy with its interval, and the size of the focused region.

    `focused_share` is its mean share of an image's pixels; `without_focus` is the number of images without a focused
    pixel, which the attack on the focused region does not change.
    """
    hits = np.zeros((len(REGIONS), len(epsilons)), dtype=np.int64)
    total, empty, share = 0, 0, 0.0
    for images, labels, positions in batches:
        batch = AttackedBatch(model, images, labels, positions, setting)
        for r, region in enumerate(REGIONS):
            for e, epsilon in enumerate(epsilons):
                hits[r, e] += int((batch.predicted(region, epsilon) == labels).sum())
        focused = batch.masks["focused"].double().mean(dim=(1, 2, 3))
        total, empty = total + len(labels), empty + int((focused == 0).sum())
        share += float(focused.sum())
        progress.advance(len(labels))
    accuracy = {
        region: {f"{epsilon:g}": _accuracy(int(n), total) for epsilon, n in zip(epsilons, row, strict=True)}
        for region, row in zip(REGIONS, hits, strict=True)
    }
    return {**accuracy, "focused_share": round(share / total, 6), "without_focus": empty}


def faces(model: nn.Module, views: Views, epsilon: float, setting: Setting, classes: Sequence[str]) -> list[Face]:
    """Return the columns that `faces_png` draws for a few images."""
    images, labels, positions = views
    batch = AttackedBatch(model, images, labels, positions, setting)
    clean = predicted_class(model, images, setting.mean, setting.std).tolist()
    attacked = {r: (batch.images(r, epsilon), batch.predicted(r, epsilon).tolist()) for r in REGIONS}
    return [
        Face(
            truth=classes[truth],
            clean=(_array(images[i]), classes[clean[i]]),
            cam=batch.cam[i].cpu().numpy(),
            attacked={r: (_array(x[i]), classes[found[i]]) for r, (x, found) in attacked.items()},
        )
        for i, truth in enumerate(labels.tolist())
    ]


def curve_rows(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the accuracies as rows: model, region, epsilon, accuracy."""
    return [
        {"model": name, "region": region, "epsilon": epsilon, "accuracy": found["accuracy"]}
        for name, measured in models.items()
        for region in REGIONS
        for epsilon, found in measured[region].items()
    ]


def _accuracy(hits: int, total: int) -> dict[str, Any]:
    interval = [round(bound, 6) for bound in wilson_interval(hits, total)]
    return {"accuracy": round(hits / total, 6), "accuracy_ci95": interval}


def _array(image: Tensor) -> NDArray[np.float32]:
    return image.permute(1, 2, 0).cpu().numpy()
