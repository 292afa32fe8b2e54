"""What makes two runs the same experiment, and what makes their test figures comparable; both read off the params."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Sections of the stages that measure finished models and change none.
MEASURING = ("evaluate", "robustness")
# These vary together from run to run; pretraining, by far the longest stage, is shared unless asked for.
SEEDS = ("split.seed", "finetune.seed", "semisup.seed")
PRETRAIN_SEED = "pretrain.seed"


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
