"""Terms on pages: links to explanations, once, in the glossary's words."""

from __future__ import annotations

import pytest

from ssfer.report.terms import Terms, glossary


def test_the_glossary_has_text_for_every_term_on_one_line() -> None:
    assert len(glossary()) > 30 and all(text.endswith(".") and "\n" not in text for text in glossary().values())


def test_a_sentence_links_each_term_the_first_time_and_escapes_the_rest() -> None:
    terms = Terms()
    assert terms.link("The <ECE> and ECE") == 'The &lt;<a class="term" href="#term-ece">ECE</a>&gt; and ECE'
    assert terms.link("ECE again") == "ECE again"
    assert terms.link("Pseudo-labels of the EMA teacher") == (
        '<a class="term" href="#term-pseudo-label">Pseudo-labels</a> of the '
        '<a class="term" href="#term-ema-teacher">EMA teacher</a>'
    )
    assert [name for _, name, _ in terms.used()] == ["ECE", "EMA teacher", "pseudo-label"]


def test_an_unknown_term_is_an_error_of_the_template() -> None:
    with pytest.raises(KeyError):
        Terms()("no such term")
