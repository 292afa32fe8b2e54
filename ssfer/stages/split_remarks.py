"""What stage split tells about a split: what makes it incomparable with others, and what is missing from it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ssfer.config.schema import Params
from ssfer.core.errors import printable

_SHOWN = 20  # labels
# Reasons for leaving images out that no setting asks for.
LEFT_OUT = {
    "not_stored": "without a stored crop",
    "copy_of_test_image": "training images that copy a test image",
    "copy_of_fold_image": "training images that copy an image of the fold",
}


def out_of_the_ordinary(split: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return and print what makes results incomparable with those of an ordinary split; {} for an ordinary split."""
    p, told = params.split, set(split["labeled"]) | set(split["valid"])
    found: dict[str, Any] = {}
    if p.redraw_for_semi:
        both, everything = told | set(split["semi_labeled"]), told | set(split["unlabeled"])
        found |= {"label_leak": True, "semi_labeled": len(split["semi_labeled"]), "labels_used": len(both)}
        _say(
            f"LABEL LEAK: split.redraw_for_semi draws the labels of stage semisup again, as the authors' release does; "
            f"the run uses {len(both):,} labels ({len(both) / len(everything):.2%}) instead of {len(told):,} "
            f"({len(told) / len(everything):.2%}), so compare its results with nothing but the release's"
        )
    if "bare" in split:
        found["bare_faces"] = split["bare"]
        _say(f"{split['bare']:,} faces without a label are among the {len(split['unlabeled']):,} unlabeled ones")
    if not split["unlabeled"] and not params.semisup.extra.faces:
        _say(
            f"no face is unlabeled, so {params.semisup.method} will train nothing and its result is that of stage "
            "finetune; draw fewer labels (split.labeled_fraction), or add faces (split.bare_faces: all)"
        )
    if p.val_fraction and not split["valid"]:
        _say(
            f"split.val_fraction {p.val_fraction:g} of {len(told):,} labels holds no image out, so no checkpoint is "
            "selected and confidence is not calibrated; raise it, or give more labels"
        )
    if p.label_noise:
        found["label_noise"] = {"share": p.label_noise, "images": len(split["noisy"])}
        _say(f"label noise: {len(split['noisy']):,} labeled images have a wrong label")
    if p.fold is not None:
        # Pretraining sees the pictures of the fold, not the labels: the paper pretrains once for all folds.
        pretrained = any(s.labeled and s.corpus for s in params.data.sources)
        found["fold"] = {"fold": p.fold, "folds": p.folds, "by": p.fold_by, "pretraining_saw_it": pretrained}
        _say(f"fold {p.fold} of 0 to {p.folds - 1} is the test part; a test part of the data set's own is not opened")
    return found


def say_what_is_missing(result: dict[str, Any], strange: Mapping[str, int]) -> None:
    """Print which images were left out for a reason that the user does not choose, and which classes have no test.

    Args:
        result: metrics of the stage.
        strange: label -> labeled images with it, that no training image has, with `data.classes: auto`.
    """
    if strange:
        named = [f"{printable(name)} ({n:,})" for name, n in list(strange.items())[:_SHOWN]]
        named += [f"{len(strange) - _SHOWN:,} more"] if len(strange) > _SHOWN else []
        _say(
            "labels that no training image has, so their images are left out, also as test images: "
            f"{', '.join(named)}; if a name is misspelled, correct it, then run again"
        )
    left = {reason: result["dropped"].get(reason, 0) for reason in LEFT_OUT}
    if any(left.values()):
        _say("left out: " + ", ".join(f"{n:,} {LEFT_OUT[reason]}" for reason, n in left.items() if n))
    if untested := [name for name, count in result["per_class"].items() if not count["test"]]:
        _say(f"no test image shows {', '.join(untested)}, so nothing will be measured about it")


def strange_labels(table: pa.Table, labeled: list[str], classes: tuple[str, ...]) -> Counter[str]:
    """Return how many images of the sources `labeled` have a label that is none of the classes, by label."""
    known = table.filter(pc.is_in(table["source"], pa.array(labeled)))["label"].drop_null().to_pylist()
    return Counter(label for label in known if label not in classes)


def _say(sentence: str) -> None:
    print(f"split: {sentence}", file=sys.stderr, flush=True)
