"""Words of users for classes: which of them mean one class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ssfer.core.labels import class_name


def merged_words(words: Iterable[str], labels: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for the user about words of which several become one class; none where none do.

    Args:
        words: as they are written; only those that differ in more than upper case count, equal looks included.
        labels: the user's own mapping, whose words are meant to merge.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for word in set(words):
        if word.strip() and word not in labels and word.lower() not in labels:
            by_class[class_name(word)].add(word.strip().lower())
    said = []
    for name, written in sorted(by_class.items()):
        if len(written) > 1:
            shown = " and ".join(
                f"'{word}'" if word == name or word.isascii() else ascii(word) for word in sorted(written)
            )
            said.append(f"{shown} become {name}")
    return [f"labels that are one class: {'; '.join(said)}"] if said else []
