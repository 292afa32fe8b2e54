"""Conclusions from the numbers as computed sentences, so that weak results are visible without reading a table.

Accuracies are called different only if their 95 % Wilson intervals do not overlap, which is a conservative rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssfer.report.averages import short_averages
from ssfer.report.html import percent
from ssfer.report.results import Results


@dataclass(frozen=True)
class Finding:
    """One sentence; `level` is good, note or bad."""

    level: str
    text: str


def model_name(results: Results, name: str) -> str:
    """Return a model's name inside a sentence: 'EMA teacher' instead of '+ EMA teacher'."""
    return results.title(name).removeprefix("+ ")


def budget_sentence(results: Results) -> str:
    """Return the label budget in words, e.g. '600 labels (10% of each class; ...)'."""
    split, held_out = results.params.split, int(results.split["valid"])
    if split.labeled_fraction is not None:
        rule = f"{split.labeled_fraction * 100:g}% of each class"
    elif split.labeled_per_class is not None:
        rule = f"{split.labeled_per_class} of each class"
    else:
        rule = "spread over the classes"
    rest = f"; {held_out:,} of them only choose a checkpoint" if held_out else ""
    return f"{results.budget:,} labels ({rule}{rest})"


def headline_sentence(results: Results) -> str:
    """Return the result in one sentence, with the numbers to compare it with."""
    evaluate = results.evaluate
    chance, majority = percent(evaluate["chance"]), percent(evaluate["majority_rate"])
    blind = f"always answering “{evaluate['majority_class']}”"
    if chance == majority:
        parts = [f"guessing or {blind} gives {chance}"]
    else:
        parts = [f"guessing gives {chance}", f"{blind} {majority}"]
    scratch = results.models.get("scratch")
    if scratch:
        parts.append(f"the same network trained from scratch on the same labels {percent(scratch['last']['accuracy'])}")
    name = model_name(results, results.headline_name)
    return (
        f"Trained with {budget_sentence(results)}, the model “{name}” names the expression class "
        f"of {percent(evaluate['headline']['accuracy'])} of {evaluate['test_images']:,} unseen test faces correctly; "
        f"{', '.join(parts)}."
    )


def gain(results: Results, name: str) -> tuple[float, bool] | None:
    """Return (accuracy difference to the step before, whether the intervals are apart); None for the first step."""
    steps = results.steps
    place = steps.index(name) if name in steps else 0
    if place == 0:
        return None
    now, before = (results.models[n]["last"] for n in (name, steps[place - 1]))
    (low, high), (low_before, high_before) = now["accuracy_ci95"], before["accuracy_ci95"]
    return now["accuracy"] - before["accuracy"], bool(low > high_before or high < low_before)


def find(results: Results) -> list[Finding]:
    """Return the findings, the most important first."""
    found = [
        *_unusual_split(results),
        _trained_nothing(results),
        _faceless(results),
        _against_guessing(results),
        *_gains(results),
        _selection(results),
        _weakest(results),
    ]
    found += [_confusions(results), _calibration(results), _pseudo_labels(results)]
    found += [Finding("note", sentence) for sentence in short_averages(results)]
    found.append(Finding("note", "One seed of one split: small differences may reverse with another seed."))
    return [f for f in found if f is not None]


def top_confusions(results: Results, count: int = 3) -> list[tuple[str, str, float]]:
    """Return (true class, predicted class, share of the true class), the largest shares first."""
    counts = results.confusion
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind="stable")[:count]
    places = [divmod(int(flat), len(results.classes)) for flat in order]
    return [(results.classes[i], results.classes[j], float(share[i, j])) for i, j in places if share[i, j] > 0]


def pseudo_label_table(results: Results) -> list[dict[str, Any]]:
    """Return per class the coverage and accuracy of the first and the last epoch; [] without the file."""
    table = []
    for name in results.classes:
        rows = [r for r in results.curves["pseudo_labels"] if r["class"] == name]
        if rows:
            first, last = rows[0], rows[-1]
            table.append(
                {
                    "class": name,
                    "coverage_first": first["coverage"],
                    "coverage": last["coverage"],
                    "accuracy_first": first["accuracy"],
                    "accuracy": last["accuracy"],
                }
            )
    return table


def _unusual_split(results: Results) -> list[Finding]:
    """Return findings that affect all numbers: labels drawn twice, label noise, a fold as test part."""
    split, found = results.params.split, []
    if split.redraw_for_semi:
        text = "LABEL LEAK, asked for by split.redraw_for_semi: the two stages saw more labels than the budget says."
        found.append(Finding("bad", text))
    if split.label_noise:
        text = f"{percent(split.label_noise)} of the labels are wrong on purpose (split.label_noise)."
        found.append(Finding("note", text))
    if split.fold is not None:
        text = (
            f"The test faces are fold {split.fold} of {split.folds} of the training images, not the official test part."
        )
        found.append(Finding("note", text))
    return found


def _trained_nothing(results: Results) -> Finding | None:
    if "trained_nothing" not in results.evaluate:
        return None
    name = model_name(results, results.headline_name)
    if results.params.semisup.epochs == 0:
        return Finding("note", f"Only the labels were used, as semisup.epochs: 0 asks: the result is {name}'s.")
    text = f"{results.method_name} had no unlabeled face and trained nothing: the result is {name}'s."
    return Finding("bad", text)


def _faceless(results: Results) -> Finding | None:
    found = results.evaluate.get("no_face")
    if not found:
        return None
    share = f"{found['test_images']:,} of the {results.evaluate['test_images']:,} test images"
    others = found.get("accuracy_of_others")
    rest = f", {percent(others)} on the others" if others is not None else ""
    return Finding("note", f"No face was found in {share}: accuracy {percent(found['accuracy'])} on these{rest}.")


def _against_guessing(results: Results) -> Finding:
    headline, evaluate = results.evaluate["headline"], results.evaluate
    trivial = max(evaluate["chance"], evaluate["majority_rate"])
    if headline["accuracy_ci95"][1] < trivial:
        return Finding("bad", f"The result is worse than an answer without looking ({percent(trivial)}).")
    if headline["accuracy_ci95"][0] <= trivial:
        text = f"The result is not distinguishable from an answer without looking ({percent(trivial)})."
        return Finding("bad", text)
    text = f"Clearly above chance: the whole 95% interval lies above the best blind answer ({percent(trivial)})."
    return Finding("good", text)


def _gains(results: Results) -> list[Finding]:
    found = []
    doubt = f"the uncertainty of {results.evaluate['test_images']:,} test images"
    for name in results.steps:
        step = gain(results, name)
        if step is None:
            continue
        points_, apart = step
        change = f"{points_ * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
        what = f"{model_name(results, name)}: {change} points"
        if apart:
            found.append(Finding("good" if points_ > 0 else "bad", f"{what}, beyond {doubt}."))
        else:
            found.append(Finding("note", f"{what}, within {doubt}."))
    return found


def _selection(results: Results) -> Finding | None:
    model = results.models.get(results.headline_name, {})
    best = model.get("best")
    if not best:
        return Finding("note", "No validation part: the last epoch is reported, nothing was selected on test images.")
    return Finding(
        "note",
        f"The headline is the last epoch; the epoch chosen on {results.split['valid']:,} held-out labels gives "
        f"{percent(best['accuracy'])}. Neither was chosen on test images.",
    )


def _weakest(results: Results) -> Finding | None:
    recall: Mapping[str, float | None] = results.evaluate["headline"]["recall"]
    known = {name: value for name, value in recall.items() if value is not None}
    if not known:
        return None
    weak, strong = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
    if known[weak] == known[strong]:
        return Finding("note", f"Every class is found equally often ({percent(known[weak])}).")
    text = f"Weakest class: {weak} ({percent(known[weak])} found); strongest: {strong} ({percent(known[strong])})."
    return Finding("bad" if known[weak] <= results.evaluate["chance"] else "note", text)


def _confusions(results: Results) -> Finding | None:
    pairs = [f"{true} taken for {told} ({percent(share, 0)})" for true, told, share in top_confusions(results)]
    return Finding("note", f"Most frequent mistakes: {', '.join(pairs)}.") if pairs else None


def _calibration(results: Results) -> Finding:
    ece = results.evaluate["headline"]["ece"]
    calibration = results.evaluate.get("calibration", {})
    if "ece_calibrated" in calibration:
        return Finding(
            "note",
            f"Confidence and accuracy differ by {ece * 100:.1f} points on average (ECE), and by "
            f"{calibration['ece_calibrated'] * 100:.1f} at the temperature {calibration['temperature']:.3g}, which was "
            f"fitted on {calibration['validation_images']} validation images and is what ssfer predict uses.",
        )
    advice = "" if ece <= 0.05 else "; do not read its confidence as a probability without calibrating it"
    return Finding("note", f"Confidence and accuracy differ by {ece * 100:.1f} points on average (ECE){advice}.")


def _pseudo_labels(results: Results) -> Finding | None:
    table = [row for row in pseudo_label_table(results) if row["coverage"] is not None]
    if not table:
        return None
    if not any(row["coverage"] for row in table):
        return Finding("bad", "Pseudo-labels: none was used in the last epoch; no prediction was confident enough.")
    last = min(table, key=lambda row: row["coverage"])
    text = f"Pseudo-labels: least used for {last['class']} ({percent(last['coverage'], 0)} of its unlabeled faces"
    return Finding("note", f"{text}, {percent(last['accuracy'], 0)} of them right) in the last epoch.")
