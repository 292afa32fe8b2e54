"""Run the Python cells of docs/tutorials/notebook.md and write what they show: into the page, and as a notebook.

python -m tools.notebook        needs the extras `synthetic` and `detect`; half a minute

A cell is a block of Python; its output stands after it, between two comments. Cells share one namespace. The value of a
last line that is an expression is shown. Pictures are written beside the page as notebook-N.png.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ssfer.core.files import write_bytes

PAGE = Path(__file__).resolve().parents[1] / "docs/tutorials/notebook.md"
START, END = "<!-- output -->\n", "<!-- /output -->\n"
CELL = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(rf"\n?{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
WIDTH = 110  # columns of printed tables
COLORS = 128  # of pictures, which keeps them small


@dataclass(frozen=True)
class Shown:
    """What a cell shows: text (may be empty) and a picture as PNG, or None."""

    text: str
    picture: bytes | None = None


def split(page: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is code, content) of a page's parts, without earlier outputs."""
    parts = CELL.split(OUTPUT.sub("", page))  # text and code by turns
    yield from ((i % 2 == 1, part) for i, part in enumerate(parts) if part.strip())


def run(code: str, namespace: dict[str, Any]) -> Shown:
    """Run a cell and return what it shows."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace) if last else None  # type: ignore[attr-defined]
    if isinstance(value, Image.Image):
        return Shown(printed.getvalue(), _png(value))
    if isinstance(value, pd.DataFrame | pd.Series):
        value = value.to_string(line_width=WIDTH, float_format="{:.3f}".format)
    return Shown(printed.getvalue() + ("" if value is None else f"{value}\n"))


def written(parts: list[tuple[bool, str]], shown: list[Shown], stem: str) -> str:
    """Return the page with outputs; pictures are named `stem`-N.png."""
    lines, outputs, pictures = [], iter(shown), 0
    for is_code, content in parts:
        if not is_code:
            lines.append(content)
            continue
        lines.append(f"```python\n{content}```\n")
        output = next(outputs)
        text = f"```text\n{output.text}```\n" if output.text else ""
        if output.picture:
            pictures += 1
            text += f"![What the cell shows]({stem}-{pictures}.png)\n"
        lines.append(f"\n{START}\n{text}\n{END}" if text else "")
    return "".join(lines)


def as_notebook(parts: list[tuple[bool, str]], shown: list[Shown]) -> str:
    """Return the page as a Jupyter notebook (format 4.5)."""
    cells, outputs = [], iter(shown)
    for number, (is_code, content) in enumerate(parts):
        cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": content.strip().splitlines(True)}
        if is_code:
            output = next(outputs)
            data = {"text/plain": output.text.splitlines(True)}
            if output.picture:
                data["image/png"] = base64.b64encode(output.picture).decode()  # type: ignore[assignment]
            result = {"output_type": "display_data", "metadata": {}, "data": data}
            cell |= {"cell_type": "code", "execution_count": None, "outputs": [result] if any(data.values()) else []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(page: Path = PAGE) -> None:
    """See the module docstring."""
    parts, namespace = list(split(page.read_text())), dict[str, Any]()
    shown = [run(content, namespace) for is_code, content in parts if is_code]
    page.write_text(written(parts, shown, page.stem))
    page.with_suffix(".ipynb").write_text(as_notebook(parts, shown))
    for number, picture in enumerate((output.picture for output in shown if output.picture), 1):
        write_bytes(page.with_name(f"{page.stem}-{number}.png"), picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(COLORS).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
