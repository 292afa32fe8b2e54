"""Names that data sets have for their parts: train, Training, val, PublicTest, Test_set, ...; case is ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNLABELED = ("unlabeled", "unlabelled")
_WORDS = {
    "train": ("train", "training", "trn", "labeled", "labelled"),
    "valid": ("valid", "val", "validation", "dev", "eval", "evaluation", "publictest"),
    "test": ("test", "testing", "tst", "holdout", "privatetest"),
    "none": ("none", *UNLABELED),
}
PARTS = {word: usage for usage, words in _WORDS.items() for word in words}
# Words beside that of the part that say nothing: train_images, Test Set.
_PLAIN = r"(?:set|data|dataset|images?|imgs?|photos?|pictures?|faces?|folder|split|part)"


def part_word(name: str) -> str | None:
    """Return the word for a part that a name is, in lower case; else None.

    Other words without a meaning and a number in front, which puts folders in order, are left out.
    """
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word and not re.fullmatch(_PLAIN, word)]
    words = words[1:] if len(words) > 1 and words[0].isdecimal() else words
    if len(words) != 1:
        return None
    return next((word for word in (words[0], re.sub(rf"{_PLAIN}$", "", words[0])) if word in PARTS), None)


def usages(words: Iterable[str]) -> tuple[dict[str, str], str]:
    """Return what the words of one data set mean.

    A data set in two parts has a training and a test part, whatever the second one is called: if no word means a test
    part, the validation part is the test part.

    Args:
        words: those that occur; unknown ones are left out of the result.

    Returns:
        Word as it is written -> "train", "valid", "test" or "none"; a note for the user, or "".
    """
    found = {word: PARTS[part] for word in words if (part := part_word(word))}
    second = [word for word, usage in found.items() if usage == "valid"]
    if not second or "test" in found.values() or "train" not in found.values():
        return found, ""
    names = ", ".join(f"'{word}'" for word in sorted(second))
    note = f"{names} is taken as the test part, because no part is called test; rename it to train if it is not"
    return found | dict.fromkeys(second, "test"), note
