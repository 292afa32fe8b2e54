"""What a stage depends on, read from its source: `python tools/deps.py [STAGE ...]` prints it, --check compares.

The code part of a stage's `deps` in dvc.yaml is its script and every ssfer module that it imports, directly or not,
at any place in the file. Package files (`__init__.py`) count when they hold more than a docstring. Exempt are the
modules in NEUTRAL: they cannot change a result, and an edit of the diary must not retrain everything.

Params are found as attributes of a variable named `params` (`params.split`, `params.data.raw`) in the same files.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ssfer"

# Modules that never change a result, with the reason. Keep this list short; tests/test_pipeline.py uses it, too.
NEUTRAL = {
    "ssfer.errors": "text of error messages",
    "ssfer.params": "checks values; the values themselves are tracked as params",
    "ssfer.runtime": "atomic writes, device, provenance",
    "ssfer.tracking": "the MLflow diary",
    "ssfer.progress": "what is shown while running",
}
NEUTRAL_SECTIONS = {"machine", "tracking"}  # params that never make a stage stale


def module_path(module: str, root: Path = ROOT) -> Path | None:
    """Return the file of a dotted module below root, or None."""
    base = root.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk like ast.walk, leaving out what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield from _walk(other)
            continue
        yield child
        yield from _walk(child)


def imported_modules(path: Path, module: str, root: Path = ROOT) -> set[str]:
    """Return the project's modules that one file names in imports or as "ssfer.x.y" strings (lazy tables)."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in _walk(_tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name.startswith(f"{PACKAGE}.") and name.replace(".", "").isidentifier():
                found.add(name)
    return {name for name in found if name.split(".")[0] == PACKAGE and module_path(name, root)}


def closure(stage: str, root: Path = ROOT) -> dict[str, Path]:
    """Return module -> file of everything of the project that `stages/<stage>.py` imports, itself excluded."""
    start = root / "stages" / f"{stage}.py"
    reached: dict[str, Path] = {}
    todo = sorted(imported_modules(start, f"stages.{stage}", root))
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        path = module_path(module, root)
        if path is None:
            continue
        reached[module] = path
        parent = module.rpartition(".")[0]  # importing a module runs its packages' __init__.py
        if module not in NEUTRAL:
            todo.extend(imported_modules(path, module, root))
        if parent:
            todo.append(parent)
    return reached


def _has_code(path: Path) -> bool:
    body = _tree(path).body
    return any(not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) for n in body)


def code_deps(stage: str, root: Path = ROOT) -> list[str]:
    """Return the code part of a stage's deps, as paths relative to root: the script first, then sorted modules."""
    files = {
        path
        for module, path in closure(stage, root).items()
        if module not in NEUTRAL and module != PACKAGE and (path.name != "__init__.py" or _has_code(path))
    }
    return [f"stages/{stage}.py", *sorted(path.relative_to(root).as_posix() for path in files)]


def _chain(node: ast.AST) -> list[str] | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id == "params":
        return names[::-1]
    return None


def params_read(stage: str, sections: set[str], root: Path = ROOT) -> set[str]:
    """Return dotted params (`split`, `data.raw`) that the script and its modules read from `params`."""
    found: set[str] = set()
    files = [root / "stages" / f"{stage}.py"]
    files += [path for module, path in closure(stage, root).items() if module not in NEUTRAL]
    for path in files:
        inner = {id(n.value) for n in ast.walk(_tree(path)) if isinstance(n, ast.Attribute)}
        for node in _walk(_tree(path)):
            if isinstance(node, ast.Attribute) and id(node) not in inner and (names := _chain(node)):
                found.add(".".join(names[:2]))
    return {name for name in found if name.split(".")[0] in sections - NEUTRAL_SECTIONS}


def main() -> int:
    """Print the code deps of stages, or compare them with dvc.yaml."""
    from ruamel.yaml import YAML

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stages", nargs="*", help="default: every stage of dvc.yaml")
    parser.add_argument("--check", action="store_true", help="compare with dvc.yaml; exit status 1 on a difference")
    args = parser.parse_args()
    pipeline = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    wrong = 0
    for stage in args.stages or pipeline:
        if not (ROOT / "stages" / f"{stage}.py").is_file():
            print(f"{stage}: stages/{stage}.py does not exist")
            wrong = 1
            continue
        expected = code_deps(stage)
        if not args.check:
            print(f"  {stage}:\n    deps:\n" + "\n".join(f"      - {dep}" for dep in expected))
            continue
        declared = {dep for dep in pipeline[stage]["deps"] if dep.endswith(".py")}
        for dep in sorted(set(expected) - declared):
            print(f"{stage}: add {dep}")
        for dep in sorted(declared - set(expected)):
            print(f"{stage}: remove {dep}")
        wrong |= declared != set(expected)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
