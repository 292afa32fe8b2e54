"""The four rules that turn FERPlus's votes into a class."""

from __future__ import annotations

import pytest

from ssfer.datasets.shared.ferplus_rules import RULES, is_tie

# Votes -> what plurality, majority, argmax8, raw_majority say; worked out by hand.
BY_HAND = [
    # 4 of 10. Without the single vote 4 of 9: no half either.
    ((4, 0, 0, 1, 3, 2, 0, 0, 0, 0), ("neutral", "no_majority", "neutral", "no_majority")),
    # 5 of 10 is not more than half; without the three single votes 5 of 7 is.
    ((0, 5, 2, 1, 1, 1, 0, 0, 0, 0), ("happiness", "happiness", "happiness", "no_majority")),
    # 6 of 10.
    ((0, 0, 0, 0, 0, 6, 0, 0, 4, 0), ("disgust", "disgust", "disgust", "disgust")),
    # Unknown wins; of the eight, anger and fear tie and the first column is taken.
    ((0, 0, 0, 0, 2, 0, 2, 0, 6, 0), ("unknown", "unknown", "anger", "unknown")),
    # No face for nine; the one vote for sadness is the only one for an expression.
    ((0, 0, 0, 1, 0, 0, 0, 0, 0, 9), ("NF", "NF", "sadness", "NF")),
    # Nobody saw an expression; unknown comes before NF.
    ((0, 0, 0, 0, 0, 0, 0, 0, 5, 5), ("unknown", "no_majority", "no_expression", "no_majority")),
    # Only single votes: nothing remains.
    ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), ("neutral", "no_majority", "neutral", "no_majority")),
    # Half of the remaining votes is not more than half.
    ((0, 3, 0, 0, 0, 0, 0, 3, 0, 0), ("happiness", "no_majority", "happiness", "no_majority")),
    # Nine votes.
    ((0, 0, 0, 0, 0, 1, 0, 8, 0, 0), ("contempt", "contempt", "contempt", "contempt")),
    ((0,) * 10, ("no_votes",) * 4),
]


@pytest.mark.parametrize(("votes", "results"), BY_HAND)
def test_rules_agree_with_what_was_worked_out_by_hand(votes: tuple[int, ...], results: tuple[str, ...]) -> None:
    assert tuple(RULES[rule](votes) for rule in ("plurality", "majority", "argmax8", "raw_majority")) == results


def test_a_tie_is_between_columns_the_rule_looks_at() -> None:
    with_unknown, between_expressions = (0, 4, 0, 0, 0, 0, 0, 0, 4, 2), (3, 3, 0, 0, 0, 0, 0, 0, 4, 0)
    assert [is_tie(with_unknown, rule) for rule in RULES] == [True, False, False, False]
    assert [is_tie(between_expressions, rule) for rule in RULES] == [False, False, True, False]
