"""The terms of a page, explained in the words of the glossary (docs/reference/glossary.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from markupsafe import Markup, escape

from ssfer.core.shipped import shipped

GLOSSARY = "docs/reference/glossary.md"


@cache
def glossary() -> Mapping[str, str]:
    """Return term -> explanation, as plain text."""
    entries = re.findall(r"^(\S.*)\n:   (.+(?:\n    .+)*)", shipped(GLOSSARY).read_text(), re.MULTILINE)
    return {term: re.sub(r"\s+", " ", text.replace("`", "")) for term, text in entries}


@cache
def _words() -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, glossary()), key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(longest_first)})s?\b", re.IGNORECASE)


class Terms:
    """The terms that one page uses: call it with a term for a link to the explanation, then list them with `used`."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def __call__(self, term: str, text: str = "") -> Markup:
        """Return `text`, by default the term, as a link to the term's explanation.

        Raises:
            KeyError: the glossary has no such term.
        """
        glossary()[term]
        self._used.add(term)
        return Markup('<a class="term" href="#{}">{}</a>').format(anchor(term), text or term)

    def link(self, text: str) -> Markup:
        """Return a sentence in which the terms that the page has not used before are links."""
        found, end = Markup(), 0
        for match in _words().finditer(text):
            term = next(t for t in glossary() if t.lower() == match[1].lower())
            if term not in self._used:
                found, end = found + text[end : match.start()] + self(term, match[0]), match.end()
        return found + text[end:]

    def used(self) -> list[tuple[str, str, str]]:
        """Return (anchor, term, explanation) of the terms used so far, in the order of the glossary."""
        return [(anchor(term), term, text) for term, text in glossary().items() if term in self._used]


def anchor(term: str) -> str:
    """Return the id of a term's explanation on the page."""
    return str(escape("term-" + re.sub(r"\W+", "-", term.lower())))
