"""Users' words for classes: which of them mean the same class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ssfer.core.labels import class_name

# What tables say, in lower case, where nobody gave a label; pandas writes nan.
NO_LABEL = frozenset({"nan", "na", "n/a", "null", "none", "unlabeled", "unlabelled", "unknown", "?", "-"})


def understood_words(words: Iterable[str], labels: Mapping[str, str | None]) -> list[str]:
    """Return sentences for the user about words that are read as another class name; none if there are none.

    Args:
        words: as they are written; words that differ only in case count as equal.
        labels: the user's own mapping, whose words need no note.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for word in set(words):
        if word.strip() and word not in labels and word.lower() not in labels:
            by_class[class_name(word)].add(word.strip().lower())
    merged, read = [], []
    for name, written in sorted(by_class.items()):
        shown = [f"'{word}'" if word == name or word.isascii() else ascii(word) for word in sorted(written)]
        if len(written) > 1:
            merged.append(f"{' and '.join(shown)} become {name}")
        elif written != {name} and shown[0].isascii():
            read.append(f"{shown[0]} is {name}")
    said = [f"labels that are one class: {'; '.join(merged)}"] if merged else []
    return [*said, *([f"words that are understood: {', '.join(read)}"] if read else [])]
