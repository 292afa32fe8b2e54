"""The source files that a piece of code reaches by imports, each with a hash of its code.

Comments, docstrings, descriptions of settings and blank lines are left out of the hash: editing a comment must not
retrain a network. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import itertools
import tokenize
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ssfer.core.errors import SsferError

PACKAGE = "ssfer"


class Names:
    """Short names of files for an identity, which holds no folder of a user: a number tells files of one name apart."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def of(self, path: Path, name: str) -> str:
        """Return `name`, with a number if another file has it already."""
        tried = (f"{name} ({k})" if k > 1 else name for k in itertools.count(1))
        return next(text for text in tried if self._files.setdefault(text, path.resolve()) == path.resolve())


def code_of(entries: Iterable[str | Path], neutral: Collection[str] = ()) -> dict[str, str]:
    """Return the hash of every source file that some entries reach, by the file's name.

    Modules of the package `ssfer`, of each entry's own top-level package, and from files those in the working folder
    are followed, also through imports inside functions; imports for type checkers only are not, and neither are
    libraries. Components that are found by name at run time (`ssfer.core.registry`) are entries of their own.

    Args:
        entries: dotted module names, or files.
        neutral: modules and packages that cannot change a result; they are neither counted nor followed.

    Returns:
        Module's name, or file's name for a file outside a package -> first 16 hex digits of a sha256.

    Raises:
        SsferError: an entry whose source is not found.
    """
    found: dict[str, str] = {}
    shown = Names()
    todo: list[tuple[str, Path, frozenset[str] | None]] = []  # top-level packages to follow; None: the user's own
    for entry in entries:
        name, path = (str(entry), Path(entry)) if str(entry).endswith(".py") else (str(entry), _file(str(entry)))
        if path is None:
            raise SsferError(f"there is no source file of module {entry}; each package around it needs an __init__.py")
        roots = None if str(entry).endswith(".py") else frozenset({PACKAGE, name.split(".")[0]})
        todo.append((name if roots else shown.of(path, _shown(path)), path, roots))
    while todo:
        name, path, roots = todo.pop()
        if name in found or any(f"{name}.".startswith(f"{package}.") for package in neutral):
            continue
        found[name] = read_source(path).hash
        for other in imports_of(path, name):
            package = other.split(".")[0]
            if other in found or not (roots is None or package in roots):
                continue
            if roots or package == PACKAGE:
                if (target := _file(other)) is not None:
                    todo.append((other, target, roots if package != PACKAGE else frozenset({PACKAGE})))
                continue
            parts = other.split(".")
            for module in (".".join(parts[: i + 1]) for i in range(len(parts))):  # Python also runs the packages around
                if (target := _local(module)) is not None:
                    todo.append((module, target, None))
    return dict(sorted(found.items()))


class Source(NamedTuple):
    """A source file's hash, made from its `essence`, and the (level, module, name) of its imports."""

    hash: str
    imports: tuple[tuple[int, str, str], ...]


@cache
def read_source(path: Path) -> Source:
    """Read a source file; the hash is the first 16 hex digits of the sha256 of its `essence`.

    Raises:
        SsferError: it is not Python; a component of one's own may import such a file only when it is used.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = ast.parse(text)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise SsferError(f"{path}{where}: {error.msg}; correct it") from error
    except ValueError as error:
        raise SsferError(f"{path} is not Python in UTF-8 ({error}); correct it") from error
    imports: list[tuple[int, str, str]] = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", alias.name) for alias in node.names]
    return Source(hashlib.sha256(essence(text, tree).encode()).hexdigest()[:16], tuple(imports))


def essence(text: str, tree: ast.Module | None = None) -> str:
    """Return source text without comments, docstrings, descriptions of settings, blank lines and trailing spaces."""
    lines, tree = text.split("\n"), tree or ast.parse(text)  # as ast counts lines; splitlines has more line ends
    if "#" in text:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    fields: list[ast.Call] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            first = node.body[0]
            for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[row] = ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            fields.append(node)
    for node in sorted(fields, key=lambda n: (n.lineno, n.col_offset), reverse=True):  # from the end: places stay
        _leave_out_description(lines, text, node)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _leave_out_description(lines: list[str], text: str, field: ast.Call) -> None:
    """Write pydantic's Field without its description, on one line: how it was wrapped depends on the description."""
    kept = [*field.args, *(k for k in field.keywords if k.arg != "description")]
    short = ", ".join(" ".join((ast.get_source_segment(text, part) or "").split()) for part in kept)
    first, last = field.lineno - 1, (field.end_lineno or field.lineno) - 1
    before = lines[first].encode()[: field.col_offset].decode()  # ast counts bytes
    after = lines[last].encode()[field.end_col_offset :].decode()
    lines[first : last + 1] = [f"{before}Field({short}){after}", *[""] * (last - first)]


def imports_of(path: Path, name: str) -> Iterator[str]:
    """Yield the dotted names that a file imports, relative ones made absolute; some may not be modules.

    Args:
        path: of the file.
        name: dotted name of its module.
    """
    for level, module, what in read_source(path).imports:
        base = module
        if level:
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join([*above, *([module] if module else [])])
        yield base
        if what:
            yield f"{base}.{what}"


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node`, without branches that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _statements(child)


def _shown(path: Path) -> str:
    """Return a file's name in an identity: its path in the working folder, else its last part."""
    found = path.resolve()
    return found.relative_to(Path.cwd()).as_posix() if found.is_relative_to(Path.cwd()) else path.name


def _local(name: str) -> Path | None:
    """Return the file of a module in the working folder, None where there is none."""
    base = Path(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if name and p.is_file()), None)


@cache
def _file(name: str) -> Path | None:
    """Return the file of a module, None where there is none of this name (an attribute, a library's C module)."""
    parent, _, last = name.rpartition(".")
    if parent:
        package = _file(parent)
        if package is None or package.name != "__init__.py":
            return None
        base = package.parent / last
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
