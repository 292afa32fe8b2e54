"""Canonical expression names and every data set's own numbering.

RAF-DB, AffectNet, FERPlus and folder listings all number the same expressions differently, so a number means nothing
without its table. Code uses canonical names; an index exists only inside a split, which stores the ordered class list.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from ssfer.core.errors import SsferError, unknown_name

NEUTRAL, HAPPINESS, SURPRISE, SADNESS = "neutral", "happiness", "surprise", "sadness"
ANGER, DISGUST, FEAR, CONTEMPT = "anger", "disgust", "fear", "contempt"
EXPRESSIONS = (NEUTRAL, HAPPINESS, SURPRISE, SADNESS, ANGER, DISGUST, FEAR, CONTEMPT)

# Adience (Eidinger et al. 2014) has no expressions: SSFER's Table 9 classifies age groups (years) and gender.
ADIENCE_AGES = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60-100")
ADIENCE_GENDERS = ("female", "male")

# Other words for the expressions, as data sets and people write them; only unambiguous ones.
_WORDS = {
    HAPPINESS: "happy joy joyful",
    SURPRISE: "surprised suprise suprised",
    SADNESS: "sad",
    ANGER: "angry",
    DISGUST: "disgusted",
    FEAR: "fearful afraid scared",
    CONTEMPT: "contemptuous",
}
SYNONYMS: Mapping[str, str] = {word: name for name, words in _WORDS.items() for word in words.split()}

# Index order of the classes per data set (SSFER specification 2.1).
_ALPHABETICAL_7 = (ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE)
_AFFECTNET_7 = (NEUTRAL, HAPPINESS, SADNESS, SURPRISE, FEAR, DISGUST, ANGER)
CLASS_SETS: Mapping[str, tuple[str, ...]] = {
    "synthetic": _ALPHABETICAL_7,
    "rafdb": _ALPHABETICAL_7,
    "ferplus": EXPRESSIONS,  # FERPlus's own column order
    "ferplus7": EXPRESSIONS[:-1],  # half of SSFER's table 4: without contempt
    "affectnet7": _AFFECTNET_7,
    "affectnet8": (*_AFFECTNET_7, CONTEMPT),
    "adience_age": ADIENCE_AGES,
    "adience_gender": ADIENCE_GENDERS,
}

# The first eight vote columns of FERPlus, then the two that are no expression.
FERPLUS_VOTES = (*EXPRESSIONS, "unknown", "NF")

# RAF-DB's label file counts from one.
RAFDB_CODES: Mapping[int, str] = {1: SURPRISE, 2: FEAR, 3: DISGUST, 4: HAPPINESS, 5: SADNESS, 6: ANGER, 7: NEUTRAL}

# AffectNet's `expression` column; 8 none, 9 uncertain, 10 non-face are not expressions.
AFFECTNET_CODES: Mapping[int, str] = dict(enumerate((*_AFFECTNET_7, CONTEMPT)))


def class_name(word: str) -> str:
    """Return the canonical name of a class: that of an expression, else the word itself in lower case.

    A number before the word for an expression is ignored (0_angry).
    """
    plain = unicodedata.normalize("NFC", word.strip()).lower()
    bare = re.sub(r"^\d{1,2}[\s._-]+", "", plain)
    return SYNONYMS.get(bare, bare if bare in EXPRESSIONS else plain)


def is_code(word: str) -> bool:
    """Return whether a word is only a number; each data set uses it for another expression."""
    return re.fullmatch(r"\d+(\.0*)?", word) is not None


def codes_of(words: Sequence[str]) -> str:
    """Return a sentence for errors that lists what numbers mean in the benchmarks; "" if no word is a number."""
    if not any(map(is_code, words)):
        return ""
    tables = {"RAF-DB": RAFDB_CODES, "AffectNet": AFFECTNET_CODES}
    said = "; ".join(f"{name}: {', '.join(f'{k} {v}' for k, v in codes.items())}" for name, codes in tables.items())
    return f" Numbers mean other expressions in every data set ({said})."


def classes_of(labels: set[str]) -> tuple[str, ...]:
    """Return the classes of `data.classes: auto`, in their order, for the labels of the training images.

    Raises:
        SsferError: fewer than two.
    """
    if len(labels) < 2:
        raise SsferError(f"data.classes: auto needs two labels or more among the training images, found {len(labels)}")
    return sorted_classes(labels)


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Return class names in a fixed order: expressions as in FERPlus, then others alphabetically."""
    known = [name for name in EXPRESSIONS if name in names]
    return (*known, *sorted(names.difference(known)))


def class_set(name: str) -> tuple[str, ...]:
    """Return the ordered class names of a data set.

    Raises:
        SsferError: unknown data set; the message lists the known ones.
    """
    if name not in CLASS_SETS:
        raise unknown_name("class set", name, CLASS_SETS)
    return CLASS_SETS[name]
