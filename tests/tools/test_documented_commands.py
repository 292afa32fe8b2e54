"""Every command that the documentation tells to type is one that the program takes: names, options, settings, profiles.

tests/cli/test_howto.py runs those on predicting and exporting; what the others do is tested beside what they call.
"""

from __future__ import annotations

import itertools
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from ssfer.cli.main import app
from ssfer.config import profile_options, profiles
from ssfer.config.pipeline import check_overrides
from tests.support.pages import ALL_PAGES, DOCS
from tools import site

ROOT = DOCS.parent
PAGES = [(DOCS / name).resolve() for name in ALL_PAGES]
READERS_OWN = {"mine", "trial", "NAME"}  # profiles that a reader makes
STARTS = ("ssfer", "dvc", "make", "python -m", "torchrun")


def typed(page: Path) -> list[list[str]]:
    """Return the words of the commands in the page's blocks."""
    lines = [line.strip() for line in re.findall(r"^ {4,}\S.*", page.read_text(), re.M)]
    parts = [part for line in lines for part in re.split(r" (?:&&|\|\|?|;) ", re.split(r"\s{2,}#|\s# ", line)[0])]
    return [shlex.split(part) for part in parts if part.strip().startswith(tuple(f"{s} " for s in STARTS))]


def parse(words: list[str]) -> None:
    """Parse a command of ssfer without running it, as the program would."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        rest = [*context._protected_args, *context.args]  # of a group: its command's name, and what follows
        if not hasattr(command, "resolve_command"):  # no group of commands
            break
        _, inner, rest = command.resolve_command(context, rest)
        assert inner is not None
        command, words = inner, [inner.name or "", *rest]
    if command.name == "profile":
        names = profile_options.parser().parse_args(rest).names
        profiles.resolve([name for name in names if name not in READERS_OWN])


def settings(words: list[str]) -> list[str]:
    """Return the KEY=VALUE of -S, --set and make's SET."""
    pairs = [value for option, value in itertools.pairwise(words) if option in ("-S", "--set")]
    return pairs + [s for word in words if word.startswith("SET=") for s in word.removeprefix("SET=").split()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in typed(page):
        if words[0] == "ssfer":
            parse(words)
        for module in (m for flag, m in itertools.pairwise(words) if flag == "-m"):
            assert find_spec(module), f"{page.name}: {shlex.join(words)}"
        if pairs := settings(words):
            check_overrides(pairs)


def test_misspelled_commands_are_not_taken() -> None:
    with pytest.raises(Exception, match="No such command 'predikt'"):
        parse(["ssfer", "predikt", "photos/"])
    with pytest.raises(Exception, match="No such option: --abstane"):
        parse(["ssfer", "predict", "photos/", "--abstane", "0.5"])
    assert settings(["dvc", "exp", "run", "-S", "a=1", "-S", "b=2"]) == ["a=1", "b=2"]
    assert sum(len(typed(page)) for page in PAGES) > 60


def test_options_in_the_text_exist() -> None:
    known = dict(site.commands())
    for page in PAGES:
        for name, options in re.findall(r"`(ssfer(?: [a-z]+){1,2})\b([^`]*)`", page.read_text()):
            command = name if name in known else name.rpartition(" ")[0]
            for option in re.findall(r"(?<= )--[a-z-]+", options):
                assert option in known[command], f"{page.name}: `{name}{options}`"
