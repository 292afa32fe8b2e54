"""What a stage depends on, read from its source: `python tools/deps.py [STAGE ...]` prints it.

--check compares it with dvc.yaml, --write puts it there.

The code part of a stage's `deps` in dvc.yaml is its script and every file of ssfer whose functions, classes or
constants the script can reach by name, also through imports inside functions. It is finer than the import closure: a
package that imports all methods does not make pretraining depend on each of them. Annotations do not count. Left out
are the modules in NEUTRAL, which cannot change a result: an edit of the diary must not retrain everything.

The params of a stage are the attributes of a variable `params` (`params.split`, `params.data.raw`) in that same code.
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

# Modules that never change a result, with the reason. Keep this list short; tests/tools/test_pipeline.py uses it, too.
NEUTRAL = {
    "ssfer": "the version number",
    "ssfer.core.errors": "text of error messages",
    "ssfer.config.schema": "checks values; the values themselves are tracked as params",
    "ssfer.config.sources": "the same",
    "ssfer.config.training": "the same",
    "ssfer.config.methods": "the same",
    "ssfer.core.files": "atomic writes",
    "ssfer.core.process": "ranks, signals, exit status",
    "ssfer.core.provenance": "versions for the record",
    "ssfer.tracking.tracker": "the MLflow diary",
    "ssfer.core.progress": "what is shown while running",
    "ssfer.evaluation.flops": "the same: how well the device is used",
    "ssfer.stages.watch": "the same: pictures and probes of a run under way",
}
# Params that never change a result.
NEUTRAL_PARAMS = {
    "machine": "settings of the machine",
    "tracking": "the MLflow diary",
}


class Module:
    """Top-level definitions, imports (of the whole file) and loose statements of one source file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.tree = ast.parse(path.read_text(), str(path))
        self.defs: dict[str, list[ast.AST]] = {}
        self.loose: list[ast.AST] = []
        self.imports: dict[str, tuple[str, str | None]] = {}
        self._sort(self.tree.body)
        for node in ast.walk(self.tree):
            self._import(node)

    def _sort(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defs.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and (names := _assigned(node)):
                for name in names:
                    self.defs.setdefault(name, []).append(node)
            elif not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node):
                self.loose.append(node)

    def _import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a, `import a.b as c` binds a.b
                self.imports[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0],
                    None,
                )
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            for alias in node.names:
                self.imports[alias.asname or alias.name] = (base, alias.name)


def _assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    plain = all(isinstance(t, ast.Name | ast.Tuple) for t in targets)
    return names if plain else []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk like ast.walk, without annotations."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _chain(node: ast.AST) -> tuple[ast.AST, list[str]]:
    """Return the root of an attribute chain and its names: (a, [b, c]) for a.b.c."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return node, names[::-1]


class Reach:
    """Everything that `stages/<stage>.py` reaches in the project below `root`."""

    def __init__(self, stage: str, root: Path = ROOT) -> None:
        self._root = root
        self._seen: set[tuple[str, str | None]] = set()
        self._nodes: list[ast.AST] = []
        self._modules: dict[str, Module | None] = {}
        self.files: set[Path] = set()
        self._visit(f"stages.{stage}", None)

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            base = self._root.joinpath(*name.split("."))
            path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
            self._modules[name] = Module(name, path) if path else None
        return self._modules[name]

    def _visit(self, name: str, symbol: str | None) -> None:
        """Follow one symbol of a module; None: all of them."""
        if (name, symbol) in self._seen or name.split(".")[0] not in (PACKAGE, "stages") or name in NEUTRAL:
            return
        self._seen.add((name, symbol))
        if symbol is not None and self._module(f"{name}.{symbol}"):  # `from package import module`
            return  # its attributes are followed where they are used
        module = self._module(name)
        if module is None:
            if self._root.joinpath(*name.split(".")).is_dir():  # a package without __init__.py
                return
            raise ValueError(f"module '{name}' is imported and does not exist")
        self._enter(module)
        if symbol is None:
            found = [node for nodes in module.defs.values() for node in nodes]
        elif symbol in module.defs:
            found = module.defs[symbol]
        elif symbol in module.imports:
            self._visit(*module.imports[symbol])
            return
        else:
            raise ValueError(f"{module.path} does not define '{symbol}', which is imported from it")
        for node in found:
            self._follow(module, node)

    def _enter(self, module: Module) -> None:
        """Count a module's file, and what importing it runs: its and its packages' loose statements."""
        self.files.add(module.path)
        parts = module.name.split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[:n])
            owner = self._module(name)
            if owner and owner.loose and (name, "") not in self._seen and name not in NEUTRAL:
                self._seen.add((name, ""))
                self.files.add(owner.path)
                for node in owner.loose:
                    self._follow(owner, node)

    def _follow(self, module: Module, node: ast.AST) -> None:
        self._nodes.append(node)
        for child in _walk(node):
            if isinstance(child, ast.Name):
                self._name(module, child.id)
            elif isinstance(child, ast.Attribute):
                root, names = _chain(child)
                if isinstance(root, ast.Name) and root.id in module.imports:
                    self._attribute(module.imports[root.id], names)
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                name = child.value.partition(":")[0]  # "ssfer.x.y:Z" in a table of lazy imports
                if name.startswith(f"{PACKAGE}.") and name.replace(".", "").isidentifier():
                    self._visit(name, None)

    def _name(self, module: Module, name: str) -> None:
        if name in module.imports:
            self._visit(*module.imports[name]) if module.imports[name][1] else None
        elif name in module.defs:
            self._visit(module.name, name)

    def _attribute(self, target: tuple[str, str | None], names: list[str]) -> None:
        """Follow an attribute of an imported module: `files.write_json`, `ssfer.core.files.write_json`."""
        name = target[0] if target[1] is None else f"{target[0]}.{target[1]}"
        while names and self._module(f"{name}.{names[0]}"):
            name, names = f"{name}.{names[0]}", names[1:]
        if names and self._module(name):
            self._visit(name, names[0])

    def params(self) -> set[str]:
        """Return dotted params, two levels deep at most, of everything reached."""
        found: set[str] = set()
        for node in self._nodes:
            inner = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            for child in _walk(node):
                if not isinstance(child, ast.Attribute) or id(child) in inner:
                    continue
                root, names = _chain(child)
                if isinstance(root, ast.Call):  # load_params().split
                    root = root.func
                if isinstance(root, ast.Name) and root.id in ("params", "load_params"):
                    found.add(".".join(names[:2]))
        return found


@cache
def reach(stage: str, root: Path = ROOT) -> Reach:
    """Return what a stage reaches."""
    return Reach(stage, root)


def code_deps(stage: str, root: Path = ROOT) -> list[str]:
    """Return the code part of a stage's deps, as paths relative to root: the script first, then sorted modules."""
    script = f"stages/{stage}.py"
    return [script, *sorted({path.relative_to(root).as_posix() for path in reach(stage, root).files} - {script})]


def params_read(stage: str, sections: set[str], root: Path = ROOT) -> set[str]:
    """Return the params (`split`, `data.raw`) that decide a stage's result, as far as its source tells."""
    names = reach(stage, root).params()
    found = {name.removesuffix(".model_dump") for name in names if name.split(".")[0] in sections}
    return {name for name in found if name not in NEUTRAL_PARAMS and name.split(".")[0] not in NEUTRAL_PARAMS}


def main() -> int:
    """Print the code deps and params of stages, compare the deps with dvc.yaml, or write them into it."""
    from ruamel.yaml import YAML

    parser = argparse.ArgumentParser(description="What stages depend on, read from their source.")
    parser.add_argument("stages", nargs="*", help="default: every stage of dvc.yaml")
    parser.add_argument("--check", action="store_true", help="compare with dvc.yaml; exit status 1 on a difference")
    parser.add_argument("--write", action="store_true", help="write the code deps into dvc.yaml")
    args = parser.parse_args()
    yaml = YAML()  # round trip: comments survive
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load((ROOT / "dvc.yaml").read_text())
    sections = set(yaml.load((ROOT / "params.yaml").read_text()))
    wrong = False
    for stage in args.stages or document["stages"]:
        declared, expected = document["stages"][stage]["deps"], code_deps(stage)
        if args.check:
            for dep in sorted({dep for dep in declared if dep.endswith(".py")} ^ set(expected)):
                print(f"dvc.yaml, stage {stage}: {'remove' if dep in declared else 'add'} {dep}")
                wrong = True
        elif args.write:
            declared[:] = [*(dep for dep in declared if not dep.endswith(".py")), *expected]
        else:
            print(f"{stage}:\n  params read: {', '.join(sorted(params_read(stage, sections)))}\n  code deps:")
            print("\n".join(f"      - {dep}" for dep in expected))
    if args.write:
        with open(ROOT / "dvc.yaml", "w") as file:
            yaml.dump(document, file)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
