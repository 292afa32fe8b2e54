"""Canonical expression names and every data set's own numbering.

RAF-DB, AffectNet, FERPlus and folder listings all number the same expressions differently; a number without its table
means nothing. Names are canonical everywhere; an index exists only inside a split, where the ordered class list is
stored beside it.
"""

from collections.abc import Mapping

from ssfer.core.errors import unknown_name

NEUTRAL, HAPPINESS, SURPRISE, SADNESS = "neutral", "happiness", "surprise", "sadness"
ANGER, DISGUST, FEAR, CONTEMPT = "anger", "disgust", "fear", "contempt"
EXPRESSIONS = (NEUTRAL, HAPPINESS, SURPRISE, SADNESS, ANGER, DISGUST, FEAR, CONTEMPT)

# Adience (Eidinger et al. 2014) has no expressions: SSFER's Table 9 classifies age groups (years) and gender.
ADIENCE_AGES = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60-100")
ADIENCE_GENDERS = ("female", "male")

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


def class_set(name: str) -> tuple[str, ...]:
    """Return the ordered class names of a data set.

    Raises:
        SsferError: unknown data set; the message lists the known ones.
    """
    if name not in CLASS_SETS:
        raise unknown_name("class set", name, CLASS_SETS)
    return CLASS_SETS[name]
