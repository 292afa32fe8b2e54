"""The package's structure: who imports whom, how large files are, who sees all params, where tests lie."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = {
    "core": "",
    "formats": "core",
    "models": "core formats",
    "data": "core formats models",
    "methods": "core formats models data",
    "train": "core formats models data methods",
    "evaluation": "core formats models data methods train",
    "datasets": "core formats",
    "rendered": "core formats",
    "faces": "core formats datasets",
    "copies": "core formats faces",
    "corpus": "core formats datasets faces copies",
    "predict": "core formats models data methods train evaluation datasets faces",
}
ALLOWED = {name: set(below.split()) for name, below in DOMAINS.items()} | {
    "config": set(DOMAINS),
    "doctor": {*DOMAINS, "config"},
    "tracking": {*DOMAINS, "config", "export"},
    "report": {*DOMAINS, "config", "tables"},
    "stages": {*DOMAINS, "config", "tracking", "report", "tables"},
    "search": {*DOMAINS, "config", "tracking", "stages"},
    "tables": {*DOMAINS, "config"},
    "testing": {*DOMAINS, "config"},
    "project": {"core"},
    "export": set(DOMAINS),
    "app": set(DOMAINS),
}
SEES_ALL_PARAMS = {"config", "stages", "cli", "report", "search", "tables", "testing", "tracking"}
NOT_OF_THE_PACKAGE = {"support", "benchmarks", "tools", "integration"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax trees of all modules of ssfer by name."""
    paths = {p.relative_to(ROOT).with_suffix(""): p for p in (ROOT / "ssfer").rglob("*.py")}
    return {".".join(p.parts).removesuffix(".__init__"): ast.parse(path.read_text()) for p, path in paths.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> dict[str, set[str]]:
    """Return module -> modules of ssfer that it imports."""
    known, found = modules(), {}
    for name, tree in known.items():
        targets = {t if t in known else t.rpartition(".")[0] for t in imported(tree)}
        found[name] = {t for t in targets if t in known and t not in {name, "ssfer"}}
    return found


def package(name: str) -> str:
    """Return the package below ssfer that a module is in, or the module's own name."""
    return name.split(".")[1] if "." in name else name


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the nodes that can reach themselves."""

    def reached(start: str) -> set[str]:
        seen, left = set(), list(graph[start])
        while left:
            node = left.pop()
            if node not in seen:
                seen.add(node)
                left.extend(graph.get(node, ()))
        return seen

    return {node for node in graph if node in reached(node)}


def test_few_modules_lie_directly_under_the_package() -> None:
    assert len(list((ROOT / "ssfer").glob("*.py"))) <= 12


def test_no_import_circles_between_modules() -> None:
    assert not circles(arrows())


def test_arrows_between_packages_point_down() -> None:
    """ALLOWED has no circle, and no domain may import config or what is above it; the command line may import all."""
    assert circles(ALLOWED) == set()
    wrong = {
        f"{name} -> {target}"
        for name, targets in arrows().items()
        for target in targets
        if package(name) in ALLOWED and package(target) not in {*ALLOWED[package(name)], package(name)}
    }
    assert not wrong


def test_packages_are_those_of_the_contract() -> None:
    assert {p.parent.name for p in (ROOT / "ssfer").glob("*/__init__.py")} <= {*ALLOWED, "cli"}


def test_no_file_is_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in (ROOT / "ssfer").rglob("*.py")}
    assert not {path for path, length in lengths.items() if length > 260}


def test_few_packages_see_all_params() -> None:
    taking = {
        f"{name}.{node.name}"
        for name, tree in modules().items()
        if package(name) not in SEES_ALL_PARAMS
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for a in [*node.args.args, *node.args.kwonlyargs]
        if a.annotation is not None and "Params" in {getattr(n, "id", "") for n in ast.walk(a.annotation)}
    }
    assert not taking


def test_only_evaluation_and_the_copy_check_open_the_test_part() -> None:
    opening = {name for name, tree in modules().items() if "ssfer.data.split.open_test_part" in set(imported(tree))}
    assert opening == {f"ssfer.stages.{name}" for name in ("evaluate", "robustness", "figures", "extra_faces")}


def test_what_trains_or_chooses_settings_never_names_the_test_part() -> None:
    """Neither the split's entry nor the whole split's file, which holds it."""
    named = {
        f"{name}, line {node.lineno}"
        for name, tree in modules().items()
        if package(name) in {"search", "train", "methods", "models"}
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "test"
    }
    reading = {
        name
        for name, tree in modules().items()
        if package(name) in {"search", "train", "methods", "models"}
        and "ssfer.core.places.SPLIT_FILE" in set(imported(tree))
    }
    assert not named | reading


def test_pictures_are_opened_with_the_decoders_that_are_allowed() -> None:
    """Pillow's other decoders start programs or have a history of faults; reports show crops of our own."""
    opened = {
        f"{name}, line {node.lineno}"
        for name, tree in modules().items()
        if not name.startswith(("ssfer.rendered", "ssfer.report"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
        if "formats" not in {keyword.arg for keyword in node.keywords}
    }
    assert not opened


def test_no_test_imports_another() -> None:
    """What tests share lies in tests/support."""
    found = {
        f"{path.name} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imported(ast.parse(path.read_text()))
        if any(part.startswith("test_") for part in name.split("."))
    }
    assert not found


def test_tests_mirror_the_package() -> None:
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - NOT_OF_THE_PACKAGE <= {*ALLOWED, "cli"}
    assert {p.name for p in (ROOT / "tests").glob("test_*.py")} == {Path(__file__).name}
