"""The template environment of all generated pages, with one format for numbers."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a rate 0..1 as '81.3%', a dash for None."""
    return "\N{EN DASH}" if value is None else f"{value * 100:.{digits}f}%"


def environment(autoescape: bool) -> Environment:
    """Return the template environment, in which an unknown name is an error; Markdown is not escaped as HTML."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["percent"] = percent
    env.filters["count"] = lambda value: "\N{EN DASH}" if value is None else f"{value:,}"
    env.filters["points"] = lambda value: f"{value * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
    return env
