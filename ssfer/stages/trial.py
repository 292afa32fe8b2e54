"""One training step of each stage on noise, as the settings of a project say it."""

from collections.abc import Iterator

from ssfer.config.schema import Params
from ssfer.core.labels import EXPRESSIONS
from ssfer.core.rng import derive
from ssfer.methods.build import build_method
from ssfer.methods.context import Population
from ssfer.methods.facemix import FaceMix
from ssfer.methods.mae import MAE
from ssfer.models.settings import OWN_BACKBONE
from ssfer.models.vit import build_mae
from ssfer.stages.common import seeded_classifier
from ssfer.train.device import Machine
from ssfer.train.trial import Trial, noise_batch, timed, training_step

_PER_CLASS, _UNLABELED = 80, 5000  # images of a class and in all that methods may remember something of, at least
_SEED = 2024


def stage_trials(params: Params, machine: Machine, steps: int) -> Iterator[tuple[str, Trial]]:
    """Yield what a step of each stage takes with its own network, batch and method; only stages that train.

    FaceMix takes the crops' boxes as they are: no detector runs.
    """
    model, semisup = params.model, params.semisup
    names = params.data.class_list or EXPRESSIONS
    classes = len(names)
    totals = classes * max(_PER_CLASS, semisup.batch_size), max(_UNLABELED, semisup.batch_size * semisup.uratio)
    if model.backbone == OWN_BACKBONE and params.pretrain.epochs:
        p = params.pretrain
        batch = noise_batch(MAE, model, (0, p.batch_size), totals, classes, _SEED)
        mae = MAE(build_mae(model, p), p.mask_ratio)
        step = training_step(mae, batch, machine, p.weight_decay, _SEED)
        yield "pretrain", timed(step, p.batch_size, machine, steps)
        machine.release()
    f = params.finetune
    network = seeded_classifier(params, classes, derive(_SEED, "init"))
    size = f.batch_size // 2 * 2
    batch = noise_batch(FaceMix, model, (size, 0), totals, classes, _SEED)
    step = training_step(FaceMix(network, f.facemix, model, f.ema_decay), batch, machine, f.weight_decay, _SEED)
    yield "finetune", timed(step, size, machine, steps)
    machine.release()
    if not semisup.epochs:
        return
    network = seeded_classifier(params, classes, derive(_SEED, "init"))
    population = Population([totals[0] // classes] * classes, totals[1], 1000, names)
    method = build_method(network, semisup, params.methods, population)
    sizes = semisup.batch_size, semisup.batch_size * semisup.uratio
    batch = noise_batch(type(method), model, sizes, totals, classes, _SEED)
    step = training_step(method, batch, machine, semisup.weight_decay, _SEED, semisup.beta2)
    yield f"semisup, {semisup.method}", timed(step, sum(sizes), machine, steps)
    machine.release()
