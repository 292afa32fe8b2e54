"""Exceptions that are meant for the user."""

import difflib
from collections.abc import Iterable


class SsferError(Exception):
    """A problem the user can fix: one sentence with what was expected, what was found and what to do.

    Stages print it without a traceback and exit with status 2. Anything else that escapes a stage is a defect of
    ssfer and keeps its traceback.
    """


class Diverged(SsferError):
    """The loss became infinite or not a number. A learning-rate search counts it as a failed candidate and goes on."""


def printable(text: str, keep: str = "\n") -> str:
    """Return a message for a terminal: control characters, which names from outside may contain, are escaped.

    Args:
        keep: characters that stay; "" for a name.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 100) -> str:
    """Return a text that fits into a sentence: `printable`; a long text is cut and followed by its length."""
    return printable(text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> SsferError:
    """Return the error for a name that is not in `known`, naming the nearest valid one."""
    known = sorted(known)
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"; did you mean '{by_lower[close[0]]}'?" if close else ""
    listed = f"known: {', '.join(known)}" if known else "none is known"
    return SsferError(f"unknown {kind} '{shortened(name)}'{hint} ({listed})")
