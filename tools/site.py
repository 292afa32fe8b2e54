"""Build the documentation site: write the generated pages of docs/reference, then run Zensical (extra `docs`).

python -m tools.site            write the generated pages and build site/, without network; any warning is an error
python -m tools.site --serve    the same on http://127.0.0.1:8000, built again when a page changes
python -m tools.site --pages    write the generated pages only
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssfer.cli.main import app
from ssfer.config.profile_options import parser
from ssfer.config.profiles import profile_files
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import SOURCES
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs/reference"
COMPONENTS: dict[str, Mapping[str, Any]] = {"methods": METHODS, "detectors": DETECTORS}
Setting = tuple[str, str, str]  # key, default, description


def model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section class of a field; None for a plain value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def settings(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    """Yield the settings of a section and its subsections."""
    for name, field in model.model_fields.items():
        if (inner := model_of(field)) is not None:
            yield from settings(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else _yaml(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def sections() -> Iterator[tuple[str, str, list[Setting]]]:
    """Yield title, first line of the docstring and settings of every section of params.yaml and of every component."""
    for name, field in Params.model_fields.items():
        if (model := model_of(field)) is not None:
            yield name, _first_line(model), list(settings(model, f"{name}."))
    for place, registry in COMPONENTS.items():
        for name in sorted(registry):
            model = getattr(registry[name], "Settings", None)
            if model is not None and model.model_fields:
                yield f"{place}.{name}", _first_line(registry[name]), list(settings(model, f"{place}.{name}."))
    shared = list(settings(SourceSettings, "data.sources."))
    yield "data.sources", "The keys of every kind of data set.", shared
    for name in sorted(SOURCES):
        own = [found for found in settings(SOURCES[name].Settings, "data.sources.") if found not in shared]
        yield f"data.sources, kind {name}", f"{_first_line(SOURCES[name])}{'' if own else ' No keys of its own.'}", own


def settings_page() -> str:
    """Return the reference of settings as Markdown."""
    lines = [
        "# Settings\n",
        'Every key of `params.yaml`, generated from the fields that check it. Types are strict: `"16"` is no number. '
        "`ssfer params` prints the values in force. A misspelled key stops a run and names the nearest key.\n",
    ]
    for title, about, found in sections():
        lines += [f"## `{title}`\n", f"{about}\n", *(["| key | default | meaning |", "|---|---|---|"] if found else [])]
        lines += [f"| `{key}` | {_cell(f'`{default}`')} | {_cell(text)} |" for key, default, text in found]
        lines.append("")
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, str]]:
    """Yield the name and help text of every command of the command line."""

    def walk(command: Any, context: Any) -> Iterator[tuple[str, str]]:
        if not hasattr(command, "list_commands"):
            yield context.command_path, command.get_help(context)
            return
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if not inner.hidden:
                yield from walk(inner, type(context)(inner, parent=context, info_name=name, max_content_width=100))

    root: Any = typer.main.get_command(app)
    for name, text in walk(root, root.make_context("ssfer", [], resilient_parsing=True)):
        yield name, parser().format_help() if name == "ssfer profile" else text


def commands_page() -> str:
    """Return the reference of the command line as Markdown."""
    os.environ["COLUMNS"] = "100"
    lines = ["# Command line\n", "What `ssfer COMMAND --help` prints, for every command.\n"]
    for name, text in commands():
        lines += [f"## `{name}`\n", "```text", text.rstrip(), "```\n"]
    return "\n".join(lines)


def profiles_page() -> str:
    """Return the reference of profiles as Markdown: the comment at the top of each file."""
    lines = [
        "# Profiles\n",
        "`ssfer profile NAME [NAME ...]` merges `profiles/NAME.yaml` over `params.yaml`; later names win.\n",
    ]
    for name, path in profile_files().items():
        head = []
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            head.append(line[2:])
        lines += [f"## `{name}`\n", "```text", *head, "```\n"]
    return "\n".join(lines)


PAGES = {"settings.md": settings_page, "cli.md": commands_page, "profiles.md": profiles_page}


def write_pages() -> None:
    """Write the generated pages; git ignores them."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())


def main() -> None:
    """See the module docstring.

    Raises:
        SsferError: the extra `docs` is not installed.
    """
    write_pages()
    if "--pages" in sys.argv:
        return
    if find_spec("zensical") is None or find_spec("mkdocstrings") is None:
        raise SsferError(
            "the site needs the extra `docs`; install it with make setup-dev, or pip install 'ssfer[docs]'"
        )
    command = ["serve", "--dev-addr", "127.0.0.1:8000"] if "--serve" in sys.argv else ["build", "--strict", "--clean"]
    ran = subprocess.run([sys.executable, "-m", "zensical", *command], cwd=ROOT)
    sys.exit(ran.returncode)


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "{...}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(_yaml, value))}]" if isinstance(value, tuple | list) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    stage_main("docs", main)
