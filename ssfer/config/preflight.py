"""Preflight: what every stage of a run needs, checked before the first one works; reads no picture, writes nothing.

It checks what is known without processing images: settings against each other and against the labels, files that
settings name, folders, free disk space. The stages check the rest (faces found, enough faces after removing copies).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ssfer.config.label_counts import LabelCounts, count_labels
from ssfer.config.schema import Params
from ssfer.core import places
from ssfer.core.cluster import check_setting
from ssfer.core.errors import SsferError
from ssfer.core.extras import need
from ssfer.core.failures import sentence
from ssfer.core.files import project_root
from ssfer.corpus.selection import check_feeding
from ssfer.data.split import check_per_class, quotas
from ssfer.faces.detectors.registry import DETECTORS, detectors_of
from ssfer.formats.weights import named_file, start_file
from ssfer.methods.build import check_parts
from ssfer.methods.facemix import MAIN_ARM
from ssfer.methods.registry import METHODS, headline_of
from ssfer.methods.shared.ambiguous import check_classes
from ssfer.models.backbone import build_backbone, check_backbone
from ssfer.models.base import is_own
from ssfer.models.mae import visible
from ssfer.models.settings import OWN_BACKBONE
from ssfer.models.vit import build_mae
from ssfer.train.compute import choose_compute

OUTPUTS = (places.FACES, places.CORPUS, places.SPLIT_FILE.parent, places.WEIGHTS, places.METRICS, places.CURVES)
# A lower bound of the bytes per pixel of a stored JPEG crop: the demo's (64 px) need 0.5, FER2013's (48 px) 0.6.
CROP_BYTES = 0.2
STATE_COPIES = 9  # tensors as large as the weights: two snapshots of weights and both moments, weights, MAE and encoder


def preflight(params: Params) -> None:
    """Check every stage's preconditions.

    Raises:
        SsferError: what stands in the way, one line each.
    """
    found = list(dict.fromkeys(problems(params)))
    if len(found) == 1:
        raise SsferError(found[0])
    if found:
        raise SsferError(
            f"nothing was started, {len(found)} things stand in the way of the run:\n  " + "\n  ".join(found)
        )


def problems(params: Params) -> Iterator[str]:
    """Yield what stands in the way of a run, a sentence each."""
    counts: LabelCounts | None = None
    try:
        counts = count_labels(params)
    except (SsferError, OSError) as error:
        yield sentence(error) or str(error)
    groups: list[tuple[Callable[[Params], object], ...]] = [
        (_files,), (_device,), (_headline,), (_attacked,), (_parts,), (_registered,), (_folders,),
        (_corpus,),
        (_network, lambda p: _disk(p, counts)),
    ]  # fmt: skip
    if counts is not None:
        known = counts
        groups.insert(0, (lambda p: known.check(p), lambda p: _budget(p, known), lambda p: _leaf(p, known)))
    for group in groups:  # of a group only the first problem: others would follow from it
        try:
            for check in group:
                check(params)
        except (SsferError, OSError) as error:
            yield sentence(error) or str(error)


def _files(params: Params) -> None:
    """Files that settings name are there and are the ones meant."""
    for name in detectors_of(params.align):
        DETECTORS[name].check(DETECTORS.settings(name, params.detectors))
    p = params.pretrain
    if p.init_from is not None:
        start_file(p.init_from, p.init_sha256)
    if params.semisup.extra.faces:
        for member in params.semisup.extra.ensemble:
            advice = "name classifiers that exist, or []"
            named_file("semisup.extra.ensemble", member.file, member.sha256, advice, ("semisup",))


def _device(params: Params) -> None:
    if params.machine.cluster is not None:  # whether it answers matters only if a stage that uses it has work
        need("ray", "cluster", "machine.cluster: ray")
        check_setting(params.machine.device)
    choose_compute(params.machine)


def _parts(params: Params) -> None:
    check_parts(params.semisup)


def _headline(params: Params) -> None:
    headline_of(params.semisup.method, params.semisup.average, params.evaluate.headline)


def _attacked(params: Params) -> None:
    main = MAIN_ARM[params.finetune.facemix.mode]
    trained = {*params.finetune.baselines, main, *METHODS[params.semisup.method].exported(params.semisup.average)}
    for name in params.robustness.models:
        if name not in ("auto", *trained):
            raise SsferError(
                f"robustness.models has '{name}', which this run does not train; it trains {', '.join(sorted(trained))}"
            )


def _registered(params: Params) -> None:
    if params.tracking.register_model and is_own(params.model.backbone):
        raise SsferError(
            f"tracking.register_model stores a model of MLflow's, which would not hold {params.model.backbone}; set it "
            "to null"
        )


def _folders(params: Params) -> None:
    """A file can be written in every folder of outputs, or where that folder will be made."""
    for folder in (*OUTPUTS, project_root() / ".scratch"):
        place = folder
        while not (place.exists() or place.is_symlink()):
            place = place.parent
        if not place.is_dir():
            what = "a link to nothing" if not place.exists() else "a file"
            raise SsferError(f"expected a folder at {place}, where outputs are written, found {what}; move it away")
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise SsferError(
                f"no file can be written in {place.resolve()} ({error.strerror}); outputs of the run go there"
            ) from error


def _corpus(params: Params) -> None:
    check_feeding(params.data.sources)


def _budget(params: Params, counts: LabelCounts) -> None:
    """The label budget does not exceed the labels that the data can have at most."""
    p = params.split
    if p.labeled_per_class is not None and p.per_class_shortage == "refuse":
        check_per_class(counts.train, p.labeled_per_class)
    quotas(
        list(counts.train.values()),
        fraction=p.labeled_fraction,
        per_class=p.labeled_per_class,
        total=p.labeled_total,
        rounding=p.rounding,
    )
    images = counts.corpus_images
    if images is not None and params.pretrain.epochs and params.pretrain.batch_size > images:
        raise SsferError(
            f"pretrain.batch_size {params.pretrain.batch_size} is larger than the {images} images that the corpus can "
            "have; lower it"
        )


def _leaf(params: Params, counts: LabelCounts) -> None:
    if params.semisup.method == "leaf" or params.semisup.leaf_parts.ambiguous_loss:
        check_classes(METHODS.settings("leaf", params.methods), len(counts.train))  # type: ignore[arg-type]


def _network(params: Params) -> None:
    """The networks can be built and fit into memory; nothing is allocated to find out."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    m, p = params.model, params.pretrain
    patches = (m.img_size // m.patch_size) ** 2
    pretrains = m.backbone == OWN_BACKBONE and p.epochs > 0
    if pretrains and not 1 <= (seen := visible(patches, p.mask_ratio)) < patches:
        raise SsferError(
            f"pretrain.mask_ratio {p.mask_ratio:g} leaves {seen} of {patches} patches visible; at least one must be, "
            "and one not"
        )
    least = 4 * 12 * m.depth * m.embed_dim**2 if m.backbone == OWN_BACKBONE else 0  # bytes
    if pretrains:
        least += 4 * 12 * p.decoder_depth * p.decoder_embed_dim**2
        least += 4 * patches * (m.embed_dim + p.decoder_embed_dim)
    _fits("the network of section 'model'", least, memory)
    with torch.device("cpu" if is_own(m.backbone) else "meta"):  # own code need not work without numbers
        network = build_backbone(m, 2)
        if m.backbone == OWN_BACKBONE:
            build_mae(m, p)
        else:
            check_backbone(network, m)


def _fits(what: str, needed: int, memory: int) -> None:
    if needed > memory:
        raise SsferError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory at the least, this machine has {memory / 2**30:,.1f} "
            "GiB; make it smaller"
        )


def _disk(params: Params, counts: LabelCounts | None) -> None:
    """The missing outputs fit on the disk. Their size is a lower bound, so no run that could finish is refused."""
    needed = 0.0
    images = counts.images if counts is not None else 0
    for folder in (places.FACES, places.CORPUS):
        if not folder.exists():
            needed += images * params.align.size**2 * CROP_BYTES
    m = params.model
    if m.backbone == OWN_BACKBONE and not (places.WEIGHTS / "pretrain").exists():
        needed += (STATE_COPIES if params.pretrain.epochs else 1) * 4 * 12 * m.depth * m.embed_dim**2
    free = shutil.disk_usage(Path.cwd()).free
    if needed > free:
        raise SsferError(
            f"the run writes {needed / 2**20:,.0f} MiB at the least, {free / 2**20:,.0f} MiB are free on the disk of "
            f"{Path.cwd()}; free some, or lower align.size or import_max of the sources"
        )
