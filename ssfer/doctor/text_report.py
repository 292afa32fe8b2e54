"""Print the report as text: 100 columns wide, or as wide as the terminal and in color."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, TextIO

import yaml
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ssfer.core.errors import printable
from ssfer.core.labels import EXPRESSIONS
from ssfer.datasets.base import Count, count_table
from ssfer.formats.manifest import USAGES

WIDTH = 100  # columns, if the output is not a terminal
_STYLES = {"error": "bold red", "warning": "yellow", "info": ""}
_USAGE_NAMES = {"none": "unlabeled"}


def show(values: Mapping[str, Any], file: TextIO) -> None:
    """Print a report.

    Args:
        values: see `ssfer.doctor.json_report.as_values`.
        file: where to print; colors only if it is a terminal.
    """
    console = Console(file=file, highlight=False, markup=False)
    if console.is_terminal:
        _show(console, values)
        return
    buffer = StringIO()
    _show(Console(file=buffer, highlight=False, markup=False, width=WIDTH, color_system=None), values)
    file.write("".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines()))  # tables are padded


def _show(console: Console, values: Mapping[str, Any]) -> None:
    for data_set in values["data_sets"]:
        _show_data_set(console, data_set)
    for failed in values["not_opened"]:
        _heading(console, f"{failed['title']} that cannot be opened", failed["path"])
        console.print()
    if values["copies"]:
        _heading(console, "Images that occur more than once", "")
        console.print(Padding(_copies(values["copies"]), (0, 0, 1, 2)))
    for data_set in values["data_sets"]:
        if data_set["use"]:
            _show_use(console, data_set)
    _heading(console, "Findings", "")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column()
    for finding in values["findings"]:
        style = _STYLES[finding["severity"]]
        rows.add_row(Text(finding["severity"], style), Text(printable(finding["text"])))
        for example in finding["examples"]:
            rows.add_row("", Padding(Text(printable(example, ""), "dim", overflow="fold"), (0, 0, 0, 2)))
    if values["findings"]:
        console.print(Padding(rows, (0, 0, 1, 2)))
    if any(" = " in e or " ~ " in e for f in values["findings"] for e in f["examples"]):
        console.print(Text("  (= equal, ~ nearly equal; more with --examples 20)", "dim"))
    console.print(Text(f"  {_verdict(values)}"))


def _heading(console: Console, title: str, rest: str) -> None:
    console.print(Text.assemble((printable(title, ""), "bold"), printable(f"  {rest}", "") if rest else ""))


def _show_data_set(console: Console, data_set: Mapping[str, Any]) -> None:
    _heading(console, data_set["title"], data_set["path"])
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, text in _facts(data_set):
        facts.add_row(name, Text(printable(text, "")))
    console.print(Padding(facts, (0, 0, 0, 2)))
    if any(set(labels) - {""} for labels in data_set["labels"].values()):
        console.print()
        console.print(Padding(_labels(data_set["labels"]), (0, 0, 0, 2)))
    counts = [Count(**c) for c in data_set["counts"]]
    if any(c.expected != c.found for c in counts):
        console.print()
        console.print(Text(printable("  published against found:\n" + count_table(counts))))
    console.print()


def _show_use(console: Console, data_set: Mapping[str, Any]) -> None:
    """Print the settings for a data set, ready to be pasted, and the command that makes a project with it."""
    use = data_set["use"]
    _heading(console, f"To use {data_set['name']}", "")
    quoted = shlex.quote(str(data_set["path"]))
    command = f"ssfer init PROJECT --data {quoted}{data_set['init_options']}"
    console.print(Text(printable(f"  a new project:  {command}", ""), overflow="fold"))
    console.print(f"  in a project:   put or link it to data/raw/{use['data']['raw']}, and in params.yaml:")
    for line in yaml.safe_dump(use, sort_keys=False, allow_unicode=True).splitlines():
        console.print(Text(printable(f"    {line}", "")), soft_wrap=True)
    console.print()


def _facts(data_set: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "form", data_set["variant"]
    yield "terms", data_set["terms"]
    parts = ", ".join(f"{_USAGE_NAMES.get(u, u)} {sum(n.values()):,}" for u, n in data_set["labels"].items())
    people = f" of {data_set['people']:,} people" if data_set["people"] else ""
    yield "images", f"{data_set['images']:,}{people}" + (f": {parts}" if parts else "")
    counts = data_set["counts"]
    if not counts:
        yield "counts", "none are published for this form"
    elif all(c["expected"] == c["found"] for c in counts):
        yield "counts", "as published"
    else:
        yield "counts", "NOT as published, see below"
    if data_set["dropped"]:
        yield "left out", ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in data_set["dropped"].items())
    files = data_set["files"]
    if files is None:
        yield "files", "not read (--no-scan)"
        return
    bad = {status: n for status, n in files["status"].items() if status != "ok"}
    readable = "all readable" if not bad else ", ".join(f"{n:,} {s.replace('_', ' ')}" for s, n in bad.items())
    yield "files", readable + (f"; {_sizes(files)}" if files["width"] else "")


def _sizes(files: Mapping[str, Any]) -> str:
    (w1, w, w2), (h1, h, h2) = files["width"], files["height"]
    if (w1, h1) == (w2, h2):
        return f"{w} x {h} px each"
    return f"{w} x {h} px at the median, width {w1} to {w2}, height {h1} to {h2}"


def _labels(labels: Mapping[str, Mapping[str, int]]) -> Table:
    """Return images by label and usage; expressions in their canonical order, other labels by name."""
    usages = [u for u in USAGES if u in labels]
    names = {name for count in labels.values() for name in count}
    order = [*(e for e in EXPRESSIONS if e in names), *sorted(names - set(EXPRESSIONS) - {""})]
    table = _plain_table(["label", *(_USAGE_NAMES.get(u, u) for u in usages)], left=1)
    for name in [*order, *([""] if "" in names else [])]:
        table.add_row(printable(name, "") or "(no label)", *(f"{labels[u].get(name, 0):,}" for u in usages))
    return table


def _copies(copies: Sequence[Mapping[str, Any]]) -> Table:
    table = _plain_table(["images of", "also in", "same file", "same pixels", "nearly", "copies there"], left=2)
    for c in copies:
        of, where = (
            (c[d], _USAGE_NAMES.get(c[u], c[u])) for d, u in (("data_set", "usage"), ("in_data_set", "in_usage"))
        )
        itself = of == where
        counts = [f"{c[level]:,}" for level in ("same_file", "same_pixels", "near")]
        table.add_row(
            printable(" ".join(of), ""), "itself, earlier" if itself else printable(" ".join(where), ""), *counts,
            "" if itself else f"{c['there']:,}",
        )  # fmt: skip
    return table


def _plain_table(columns: Sequence[str], left: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    return table


def _verdict(values: Mapping[str, Any]) -> str:
    number = {s: sum(f["severity"] == s for f in values["findings"]) for s in _STYLES}
    if not number["error"] and not number["warning"]:
        return "No problems found." if values["settings"]["scanned"] else "No problems found (images were not read)."
    words = [f"{n} {s}{'s' if n != 1 else ''}" for s, n in number.items() if n and s != "info"]
    return f"{' and '.join(words)}; exit status {values['exit_status']}."
