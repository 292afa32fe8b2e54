"""Names that data sets have for their parts: train, Training, val, dev, PublicTest, ...; case is ignored."""

from __future__ import annotations

from collections.abc import Iterable

_WORDS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "publictest"),
    "test": ("test", "testing", "privatetest"),
    "none": ("none",),
}
PARTS = {word: usage for usage, words in _WORDS.items() for word in words}


def usages(words: Iterable[str]) -> tuple[dict[str, str], str]:
    """Return what the words of one data set mean.

    A data set in two parts has a training and a test part, whatever the second one is called: if no word means a test
    part, the validation part is the test part.

    Args:
        words: those that occur; unknown ones are left out of the result.

    Returns:
        Word as it is written -> "train", "valid", "test" or "none"; a note for the user, or "".
    """
    found = {word: PARTS[word.lower()] for word in words if word.lower() in PARTS}
    second = [word for word, usage in found.items() if usage == "valid"]
    if not second or "test" in found.values() or "train" not in found.values():
        return found, ""
    names = ", ".join(f"'{word}'" for word in sorted(second))
    note = f"{names} is taken as the test part, because no part is called test; rename it to train if it is not"
    return found | dict.fromkeys(second, "test"), note
