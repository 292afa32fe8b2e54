"""What a piece of code computes with: which files it reaches, and what of them counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.source_code import code_of, essence, read_source

PLAIN = "import os\n\n\ndef f(x):\n    return '# no comment', x\n"
DESCRIBED = 'class S:\n    ä: A = Field(0.5, gt=0, description="Text.")\n'
FILES = {
    "shop/__init__.py": "",
    "shop/one.py": (
        "from typing import TYPE_CHECKING\n"
        "import shop.plain as plain\n"
        "from shop import tools\n"
        "from shop.quiet import hush\n"
        "if TYPE_CHECKING:\n"
        "    from shop.only_typed import Typed\n"
        "def main(x: 'Typed'):\n"
        "    from shop.lazy import late\n"
        "    return late(tools, plain, hush)\n"
    ),
    "shop/plain.py": "x = 1\n",
    "shop/tools.py": "from .near import y\nfrom .shelf import book\n",
    "shop/near.py": "y = 1\n",
    "shop/shelf/__init__.py": "from shop.shelf.book import title\nbook = 1\n",
    "shop/shelf/book.py": "title = 'a'\n",
    "shop/lazy.py": "def late(*_): ...\n",
    "shop/only_typed.py": "class Typed: ...\n",
    "shop/quiet.py": "from shop.behind import z\ndef hush(): ...\n",
    "shop/behind.py": "z = 1\n",
    "shop/unused.py": "w = 1\n",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("'''Text.'''\n" + PLAIN, True),
        (PLAIN.replace("return", "# why\n    return").replace("import os", "import os  # what"), True),
        (PLAIN.replace("    return", "    '''Return x.\n\n    More.\n    '''\n    return"), True),
        (PLAIN.replace("\n\n\n", "\n\n"), True),
        (PLAIN.replace("# no comment", "# a comment"), False),
        (PLAIN.replace("import os", "import sys"), False),
        (PLAIN.replace(", x", ", x + 1"), False),
        ("\f\n" + PLAIN.replace("    return", '    "A page\u2028break."\n    return'), True),  # end no line for Python
    ],
)
def test_comments_and_docstrings_do_not_count_and_code_does(other: str, same: bool) -> None:
    assert (essence(PLAIN) == essence(other)) is same


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('class S:\n    ä: A = Field(\n        0.5, gt=0,\n        description="A "\n        "text.")  # why\n', True),
        ('class S:\n    ä: A = Field(0.5, gt=0)\n', True),
        ('class S:\n    ä: A = Field(0.6, gt=0, description="Text.")\n', False),
        ('class S:\n    ä: A = Field(0.5, gt=1, description="Text.")\n', False),
        ('class S:\n    ä: A = Other(0.5, gt=0, description="Text.")\n', False),
    ],
)  # fmt: skip
def test_descriptions_of_settings_do_not_count_and_their_values_do(other: str, same: bool) -> None:
    assert (essence(DESCRIBED) == essence(other)) is same


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(f"{folder} = 1\n")
    files = [tmp_path / "a/own.py", tmp_path / "b/own.py", tmp_path / "a/own.py"]
    assert code_of(files) == {"own.py": read_source(files[0]).hash, "own.py (2)": read_source(files[1]).hash}


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert read_source(tmp_path / "own.py").hash


@pytest.mark.parametrize(
    ("content", "said"), [(b"def f(:\n", ", line 1: "), (b"x = '\xff'\n", "is not Python in UTF-8")]
)
def test_a_file_that_is_not_python_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "own.py").write_bytes(content)
    with pytest.raises(SsferError, match=f"own.py.*{said}"):
        read_source(tmp_path / "own.py")


def test_imports_of_every_kind_are_followed(shop: Path) -> None:
    found = code_of(["shop.one"], neutral=["shop.quiet"])
    assert set(found) == {
        *("shop", "shop.one", "shop.plain", "shop.tools", "shop.near", "shop.lazy"),
        *("shop.shelf", "shop.shelf.book"),
    }


def test_a_file_of_ones_own_counts_with_what_it_imports_of_ssfer(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\nfrom ssfer.methods.shared.losses import nt_xent\n")
    found = code_of([mine])
    assert found["mine.py"] == read_source(mine).hash
    assert "ssfer.methods.shared.losses" in found
    assert not [name for name in found if name.startswith("torch")]


def test_a_file_of_ones_own_counts_with_what_it_imports_from_the_folder(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    (shop / "own.py").write_text("from shop.plain import x\nimport helper\nimport os\n")
    (shop / "views").mkdir()
    (shop / "views/own.py").write_text("")
    assert code_of([Path("own.py"), Path("views/own.py")]).keys() >= {"own.py", "views/own.py"}
    (shop / "helper.py").write_text("import deeper\n")
    (shop / "deeper.py").write_text("a = 1\n")
    found = code_of([Path("own.py")])
    assert found.keys() == {"own.py", "helper", "deeper", "shop", "shop.plain"}
    (shop / "deeper.py").write_text("a = 2 + 0\n")
    read_source.cache_clear()
    assert {name for name, value in code_of([Path("own.py")]).items() if value != found[name]} == {"deeper"}
