"""ssfer.core.labels: every data set's numbering gives the right name (specification 2.1, 2.2)."""

from __future__ import annotations

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.labels import (
    AFFECTNET_CODES,
    CLASS_SETS,
    EXPRESSIONS,
    FERPLUS_VOTES,
    RAFDB_CODES,
    class_name,
    class_set,
    sorted_classes,
)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("rafdb", "anger disgust fear happiness neutral sadness surprise"),
        ("synthetic", "anger disgust fear happiness neutral sadness surprise"),
        ("ferplus", "neutral happiness surprise sadness anger disgust fear contempt"),
        ("affectnet7", "neutral happiness sadness surprise fear disgust anger"),
        ("affectnet8", "neutral happiness sadness surprise fear disgust anger contempt"),
        ("adience_age", "0-2 4-6 8-13 15-20 25-32 38-43 48-53 60-100"),
        ("adience_gender", "female male"),
    ],
)
def test_class_order_is_that_of_the_specification(name: str, classes: str) -> None:
    assert class_set(name) == tuple(classes.split())


@pytest.mark.parametrize(
    ("code", "name"), enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1)
)
def test_rafdb_codes_count_from_one(code: int, name: str) -> None:
    assert RAFDB_CODES[code] == name


def test_affectnet_codes_are_those_of_its_eight_classes() -> None:
    assert tuple(AFFECTNET_CODES[i] for i in range(8)) == class_set("affectnet8")
    assert AFFECTNET_CODES[3] == "surprise"
    assert AFFECTNET_CODES[7] == "contempt"


def test_ferplus_votes_have_ten_columns_in_native_order() -> None:
    expected = "neutral happiness surprise sadness anger disgust fear contempt unknown NF"
    assert tuple(expected.split()) == FERPLUS_VOTES


@pytest.mark.parametrize("codes", [RAFDB_CODES, AFFECTNET_CODES])
def test_codes_outside_the_table_have_no_name(codes: dict[int, str]) -> None:
    assert len(set(codes.values())) == len(codes)
    assert set(codes.values()) <= set(EXPRESSIONS)
    for code in (-1, 8, 9, 10):  # AffectNet's none, uncertain, non-face
        assert code not in codes


@pytest.mark.parametrize("name", sorted(CLASS_SETS))
def test_class_sets_hold_distinct_canonical_names(name: str) -> None:
    classes = class_set(name)
    assert len(set(classes)) == len(classes)
    if name.startswith("adience"):  # ages and genders
        assert not set(classes) & set(EXPRESSIONS)
        return
    assert set(classes) <= set(EXPRESSIONS)
    assert len(classes) == (8 if name in ("ferplus", "affectnet8") else 7)


def test_an_unknown_class_set_names_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(SsferError, match=r"unknown class set 'rafdb7'; did you mean 'rafdb'\? \(known: adience_age, "):
        class_set("rafdb7")


@pytest.mark.parametrize(
    ("word", "name"),
    [("Happy", "happiness"), (" angry ", "anger"), ("SAD", "sadness"), ("Suprise", "surprise"), ("fear", "fear"),
     ("calm", "calm"), ("Wu\u0308tend", "w\u00fctend"), ("\u7b11\u3044", "\u7b11\u3044"), ("0-2", "0-2")],
)  # fmt: skip
def test_words_for_a_class(word: str, name: str) -> None:
    assert class_name(word) == name


def test_classes_taken_from_data_have_a_fixed_order() -> None:
    assert sorted_classes({"bored", "anger", "calm", "happiness"}) == ("happiness", "anger", "bored", "calm")
