"""What makes two runs the same experiment, and what makes their test figures comparable; both read off the params."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.yaml import flatten

# Sections that change no figure.
NEUTRAL = ("machine", "tracking", "report")
# Sections of the stages that measure finished models and change none.
MEASURING = ("evaluate", "robustness")
# These vary together from run to run; pretraining, by far the longest stage, is shared unless asked for.
SEEDS = ("split.seed", "finetune.seed", "semisup.seed")
PRETRAIN_SEED = "pretrain.seed"
# Keys of a source that say where its images lie and how they become crops; the others decide its labels.
_CROPS = ("name", "labeled", "align", "corpus", "corpus_max", "corpus_max_per_identity", "images")
_PLACES = ("path", "counts")


def science(params: Params) -> dict[str, Any]:
    """Return every setting that can change a figure, by dotted key, as JSON has them.

    Of the data only how crops and corpus are made: which labels they have is `label_rule`, and runs that differ in that
    must not be compared, instead of counting as other experiments. `generate` counts where its faces are used.
    """
    raw = params.model_dump(mode="json", exclude={*NEUTRAL, "data"})
    if params.data.raw != "synthetic":
        del raw["generate"]
    sources = [s.model_dump(mode="json", include=set(_CROPS) | {"kind"}) for s in params.data.sources]
    return {**dict(flatten(raw)), "data.sources": sources}


def label_rule(params: Params) -> dict[str, Any]:
    """Return what decides which class a labeled image has: class set, and per labeled source the keys of its own."""
    other = {*_CROPS, *_PLACES}
    sources = {s.name: s.model_dump(mode="json", exclude=other) for s in params.data.sources if s.labeled}
    return {"class_set": params.data.class_set, **dict(flatten(sources))}


def same(
    wanted: Mapping[str, Any], found: Mapping[str, Any], default: Mapping[str, Any], stages: Collection[str] = ()
) -> bool:
    """Return whether a run with settings `found` is the one that `wanted` describes.

    Settings of how finished models are measured count for the named stages only. A key that ssfer did not have yet when
    the run was made stands for today's default, which is how new keys are added; a key that it has no longer is not
    looked at.
    """
    looked_at = (k for k in wanted if (section := k.partition(".")[0]) not in MEASURING or section in stages)
    return all((found[k] if k in found else default.get(k, wanted[k])) == wanted[k] for k in looked_at)


def is_trained(key: str) -> bool:
    """Return whether a setting decides what is trained, and not only how it is measured."""
    return key.partition(".")[0] not in MEASURING
