"""The four rules in use that turn the ten votes of a FERPlus image into a class; they keep different images.

Each rule takes the votes in the order of `ssfer.core.labels.FERPLUS_VOTES` and returns a class name, or the reason why
the image has none. Where classes tie, the first column wins.
"""

from collections.abc import Callable, Mapping, Sequence

from ssfer.core.labels import EXPRESSIONS, FERPLUS_VOTES

NO_VOTES, NO_MAJORITY, NO_EXPRESSION = "no_votes", "no_majority", "no_expression"


def plurality(votes: Sequence[int]) -> str:
    """Return the column with most of all ten votes (SSFER specification 2.2); `unknown` and `NF` are reasons."""
    return FERPLUS_VOTES[votes.index(max(votes))] if any(votes) else NO_VOTES


def majority(votes: Sequence[int]) -> str:
    """Return the column with over half of the votes after single votes are removed: the rule of FERPlus's authors."""
    if not any(votes):
        return NO_VOTES
    return _over_half([v if v > 1 else 0 for v in votes])


def raw_majority(votes: Sequence[int]) -> str:
    """Return the column with over half of all votes, single ones included."""
    return _over_half(votes) if any(votes) else NO_VOTES


def argmax8(votes: Sequence[int]) -> str:
    """Return the expression with most votes, whatever the votes for `unknown` or `NF`."""
    if not any(votes):
        return NO_VOTES
    eight = votes[: len(EXPRESSIONS)]
    return EXPRESSIONS[eight.index(max(eight))] if any(eight) else NO_EXPRESSION


def _over_half(votes: Sequence[int]) -> str:
    most = max(votes)
    return FERPLUS_VOTES[votes.index(most)] if 2 * most > sum(votes) else NO_MAJORITY


RULES: Mapping[str, Callable[[Sequence[int]], str]] = {
    "plurality": plurality,
    "majority": majority,
    "argmax8": argmax8,
    "raw_majority": raw_majority,
}


def is_tie(votes: Sequence[int], rule: str) -> bool:
    """Return whether another column has as many votes as the winner, so that the order of columns decided."""
    if rule == "argmax8":
        votes = votes[: len(EXPRESSIONS)]
    return rule in ("plurality", "argmax8") and votes.count(max(votes)) > 1
