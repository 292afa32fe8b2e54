"""Text encoders of SIT-FER (its specification, sections 3, 7 and invariants 10, 11, 16), and what they refuse.

open_clip is in test_clip_text.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.core.labels import CLASS_SETS, EXPRESSIONS
from ssfer.core.yaml import read_yaml
from ssfer.models.text import (
    CONTEXT,
    LearnedText,
    TextSettings,
    Vocabulary,
    build_text,
    class_sentences,
    frozen_random,
    prototypes,
    tokens,
)
from tests.support import factory

EXPRESSION_SETS = [name for name in CLASS_SETS if not name.startswith("adience")]
TEMPLATE = "This is a face image of {expression}"


def settings(**changes: Any) -> TextSettings:
    shipped = factory.tiny_params().methods["sitfer"].text.model_dump()
    return TextSettings(**shipped | {"width": 32, "layers": 2, "heads": 4} | changes)


def learned(*templates: str, **words: str) -> LearnedText:
    """An encoder of three classes with these words."""
    p = settings(prompts=templates or (TEMPLATE,), words={"a": "surprise", "b": "fear", "c": "happy"} | words)
    encoder = build_text(p, ("a", "b", "c"))
    assert isinstance(encoder, LearnedText)
    return encoder


# --- sentences ---


@pytest.mark.parametrize("name", EXPRESSION_SETS)
def test_sentences_stand_in_the_index_order_of_the_data_set(name: str) -> None:
    """Invariant 16: never in the order of the release."""
    words = {"happiness": "happy", "sadness": "sad", "anger": "angry"}
    found = class_sentences(settings(), CLASS_SETS[name])
    assert found == [[f"A face image of {words.get(c, c)}"] for c in CLASS_SETS[name]]


@pytest.mark.parametrize("encoder", ["learned", "prototype", "frozen_random"])
@pytest.mark.parametrize("name", EXPRESSION_SETS)
def test_the_nearest_sentence_of_each_class_is_its_own(name: str, encoder: str) -> None:
    """Invariant 16, on embeddings of another call with permuted classes."""
    classes = CLASS_SETS[name]
    matrix = build_text(settings(encoder=encoder), classes)()
    assert (matrix @ matrix.T).argmax(dim=1).tolist() == list(range(len(classes)))
    if encoder == "learned":
        other = build_text(settings(encoder=encoder), classes[::-1])()
        assert_close(other.flip(0), matrix)  # the vocabulary knows no order of classes


def test_templates_are_averaged_and_renormalised() -> None:
    p = settings(prompts=("A face image of {expression}", "{expression}, as seen in a face"))
    both = build_text(p, CLASS_SETS["rafdb"])
    assert isinstance(both, LearnedText)
    flat = [s for own in class_sentences(p, CLASS_SETS["rafdb"]) for s in own]
    singles = torch.stack([both.encode(both.vocabulary.encode([s]))[0] for s in flat]).view(7, 2, -1)
    mean = singles.sum(dim=1)
    assert_close(both(), mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both(), singles[:, 0], atol=1e-3)


def test_descriptions_stand_beside_the_prompts_and_are_averaged() -> None:
    """Classes may have different numbers of sentences."""
    p = settings(descriptions={"fear": ["Wide eyes", "An open mouth"], "anger": ["A frown"], "contempt": ["A smirk"]})
    classes = ("fear", "anger", "disgust")
    sentences = class_sentences(p, classes)
    assert sentences[0] == ["A face image of fear", "Wide eyes", "An open mouth"]
    assert [len(own) for own in sentences] == [3, 2, 1]
    encoder = build_text(p, classes)
    assert isinstance(encoder, LearnedText)
    for matrix, own in zip(encoder(), sentences, strict=True):
        mean = torch.stack([encoder.encode(encoder.vocabulary.encode([s]))[0] for s in own]).mean(dim=0)
        assert_close(matrix, mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_the_shipped_descriptions_name_no_class_and_differ(root: Path) -> None:
    overlay = read_yaml(root / "profiles/sitfer_descriptions.yaml")["methods"]["sitfer"]["text"]
    assert {name: len(own) for name, own in overlay["descriptions"].items()} == dict.fromkeys(EXPRESSIONS, 4)
    sentences = class_sentences(settings(**overlay), EXPRESSIONS)
    flat = [sentence for own in sentences for sentence in own]
    assert len(set(flat)) == len(flat) == 5 * len(EXPRESSIONS)
    words = {word for own in sentences for sentence in own[1:] for word in tokens(sentence)}
    assert not words & {*EXPRESSIONS[1:], "happy", "sad", "angry"}


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        (
            {},
            CLASS_SETS["adience_gender"],
            "words has no word for female, male; expected one for each of the 2 classes",
        ),
        ({"words": {"fear": "fear"}}, ("fear", "anger"), "words has no word for anger"),
        ({"prompts": ("A face",)}, ("fear", "anger"), "prompts: 'A face' lacks {expression}, so it would say the same"),
        (
            {"words": {"fear": "sad", "anger": "Sad!"}},
            ("fear", "anger"),
            "'Sad!' for anger is empty or that of another",
        ),
        ({"words": {"fear": "..."}}, ("fear",), "'...' for fear is empty"),
        (
            {"descriptions": {"fear": ["A frown"], "anger": ["a frown."]}},
            ("fear", "anger"),
            "'a frown.' for anger is empty",
        ),
        ({"descriptions": {"fear": ["!"]}}, ("fear", "anger"), "descriptions: '!' for fear is empty"),
        ({}, (), "class names are needed"),
        ({"prompts": ("so " * CONTEXT + "{expression}",)}, ("fear", "anger"), "has 78 words, expected at most 77"),
        ({"encoder": "prototype", "width": 4}, CLASS_SETS["rafdb"], "7 classes cannot be orthogonal in width 4"),
    ],
)
def test_sentences_that_do_not_tell_the_classes_apart_are_refused(
    changes: dict[str, Any], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SsferError) as error:
        build_text(settings(**changes), classes)
    assert message in str(error.value) and str(error.value).startswith("methods.sitfer.text")


def test_words_are_split_and_numbered_with_padding_apart() -> None:
    assert tokens("A face, wide-eyed: it's FEAR.") == ["a", "face", "wide-eyed", "it's", "fear"]
    vocabulary = Vocabulary(["a face", "a sad face"])
    assert len(vocabulary) == 4 and 0 not in vocabulary.number.values()
    ids = vocabulary.encode(["a face", "a sad face"])
    assert ids.shape == (2, 3) and ids[0, 2] == 0 and (ids[1] > 0).all()
    assert ids[0, 0] == ids[1, 0] != ids[1, 1]


# --- learned ---


def test_embeddings_have_length_one_and_depend_on_every_word() -> None:
    """Invariant 10; with the release's tokenizer all of it but the class word is dropped."""
    base = learned()
    assert_close(base().norm(dim=1), torch.ones(3))
    cosines = base() @ base().T
    assert cosines[~torch.eye(3, dtype=torch.bool)].max() < 0.999
    ids = base.vocabulary.encode(["this is a face image of surprise"])
    for other in ("this is a face image of fear", "this is a image face of surprise", "is a face image of surprise"):
        changed = base.encode(base.vocabulary.encode([other]))
        assert not torch.allclose(changed, base.encode(ids), atol=1e-3), other


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(training: bool) -> None:
    """Invariant 10; in the release padding is the word of the first class."""
    encoder = learned().train(training)
    sentences = ["this is a face image of surprise", "fear"]
    vocabulary = encoder.vocabulary
    long = encoder.encode(vocabulary.encode(sentences, length=CONTEXT))
    assert_close(encoder.encode(vocabulary.encode(sentences)), long, rtol=1e-4, atol=1e-5)
    alone = torch.cat([encoder.encode(vocabulary.encode([s])) for s in sentences])
    assert_close(alone, long, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_and_the_callers_random_numbers_do_not_move() -> None:
    classes = CLASS_SETS["rafdb"]
    for encoder in ("learned", "prototype", "frozen_random"):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = build_text(settings(encoder=encoder), classes)()
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(build_text(settings(encoder=encoder), classes)(), first)
        assert not torch.allclose(build_text(settings(encoder=encoder, seed=7), classes)(), first, atol=1e-3)


# --- fixed ---


@pytest.mark.parametrize(("classes", "width"), [(7, 96), (8, 8)])
def test_prototypes_are_orthonormal(classes: int, width: int) -> None:
    matrix = prototypes(classes, width, 3)
    assert_close(matrix @ matrix.T, torch.eye(classes), rtol=0, atol=1e-6)


def test_frozen_random_is_what_the_specification_measured() -> None:
    """Section 7, row 3: cosines of about 0.75 over three seeds, with the release's sizes."""
    off = ~torch.eye(7, dtype=torch.bool)
    for seed in range(3):
        matrix = frozen_random(7, 512, 3, 8, seed)
        assert_close(matrix.norm(dim=1), torch.ones(7))
        cosines = (matrix @ matrix.T)[off]
        assert 0.69 < cosines.mean() < 0.80
        assert cosines.max() < 0.9


def test_frozen_random_knows_the_class_word_alone() -> None:
    """Section 7, row 2: neither template nor word matter, only the number of the class."""
    first = build_text(settings(encoder="frozen_random", prompts=(TEMPLATE,)), CLASS_SETS["rafdb"])()
    other = settings(encoder="frozen_random", prompts=("Nobody knows {expression}",))
    assert torch.equal(build_text(other, CLASS_SETS["affectnet7"])(), first)
