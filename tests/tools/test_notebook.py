"""The notebook of the docs: cells run in order, outputs replace earlier ones, both forms hold the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import notebook

CELLS = """# Title

```python
x = 2
print("printed")
x + 1
```

Text.

```python
from PIL import Image

Image.new("RGB", (4, 4), "red")
```

```sh
make table
```
"""


def test_cells_share_names_and_show_their_last_value() -> None:
    names: dict[str, object] = {}
    assert notebook.run("x = 2\nprint('a')\nx + 1\n", names) == notebook.Shown("a\n3\n")
    assert notebook.run("y = x\n", names) == notebook.Shown("")
    table = notebook.run("import pandas as pd\npd.DataFrame({'a': [0.12345, 1.0]})\n", names)
    assert table.text == "      a\n0 0.123\n1 1.000\n"


def test_the_page_gets_outputs_once_however_often_it_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(CELLS)
    notebook.main(page)
    once = page.read_text()
    assert "```\n\n<!-- output -->\n\n```text\nprinted\n3\n```\n\n<!-- /output -->\n\nText." in once
    assert "![What the cell shows](page-1.png)" in once and (tmp_path / "page-1.png").read_bytes()[:4] == b"\x89PNG"
    assert once.count(notebook.START) == 2 and "```sh\nmake table\n```" in once
    notebook.main(page)
    assert page.read_text() == once


def test_the_notebook_holds_the_same_cells(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(CELLS)
    notebook.main(page)
    found = json.loads((tmp_path / "page.ipynb").read_text())
    assert (found["nbformat"], [cell["cell_type"] for cell in found["cells"]]) == (
        4, ["markdown", "code", "markdown", "code", "markdown"],
    )  # fmt: skip
    assert found["cells"][1]["outputs"][0]["data"] == {"text/plain": ["printed\n", "3\n"]}
    assert set(found["cells"][3]["outputs"][0]["data"]) == {"text/plain", "image/png"}


def test_the_committed_page_was_run_and_its_notebook_is_of_it(root: Path) -> None:
    parts = list(notebook.split(notebook.PAGE.read_text()))
    cells = json.loads(notebook.PAGE.with_suffix(".ipynb").read_text())["cells"]
    assert ["".join(cell["source"]) for cell in cells] == [text.strip() for _, text in parts], "run `make notebook`"
    assert notebook.PAGE.read_text().count(notebook.START) == sum(is_code for is_code, _ in parts)


def test_its_cells_run(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)
    names: dict[str, object] = {}
    for is_code, content in notebook.split(notebook.PAGE.read_text()):
        if is_code:
            assert notebook.run(content, names) != notebook.Shown("")
