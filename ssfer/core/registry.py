"""Components by name: a file of ssfer's own, an installed package's entry point, or a file or module of the user's.

A component is one class in one file, and its name is the file's: `vat` is the class in ssfer/methods/vat.py. Other
packages announce theirs as entry points of the group `ssfer.<kind>`. A name with a colon is the user's own:
`package.module:Name`, or `./file.py:Name` below the project's folder. Nothing is imported before it is asked for.
"""

import glob
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import project_root
from ssfer.core.own_code import module_at, note_file
from ssfer.core.settings import Section, unknown_component, within

T = TypeVar("T")


@dataclass(eq=False)
class Registry(Mapping[str, type[T]]):
    """The components of one kind, by name; a component is imported when it is asked for.

    Attributes:
        kind: what one is called in messages, such as "method".
        package: dotted name of the package whose files they are; its last part names the group of entry points.
        base: class that every component derives from.
        group_name: name of the group of entry points, if it is not `ssfer.<last part of package>`.
    """

    kind: str
    package: str
    base: type[T]
    group_name: str = ""
    _loaded: dict[str, type[T]] = field(default_factory=dict, repr=False)

    @property
    def group(self) -> str:
        """Name of the group of entry points."""
        return self.group_name or f"ssfer.{self.package.rpartition('.')[2]}"

    def own(self) -> list[str]:
        """Return the names of ssfer's own components, in alphabetical order, without importing them."""
        return _names_in(self.package, Path(inspect.getfile(self.base)).name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of ssfer's own components and of installed ones, in alphabetical order."""
        return iter(sorted({*self.own(), *(point.name for point in self._entry_points())}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in set(self)

    def __getitem__(self, name: str) -> type[T]:
        """Return the component of this name.

        Raises:
            SsferError: unknown name (the known ones are listed, the nearest is named), two components of one name, a
                missing file or class, a class that is not a component of this kind, code that fails when imported.
        """
        key = str(Path(name).resolve()) if ".py:" in name else name  # the working folder may change
        if key not in self._loaded:
            self._loaded[key] = self._find(name)
        return self._loaded[key]

    def file(self, name: str) -> Path:
        """Return the file that holds a component."""
        return Path(inspect.getfile(self[name]))

    def module(self, name: str) -> str | Path:
        """Return the dotted name of a component's module, or its file where it is one of the user's own.

        The identity of a result includes its code.
        """
        place = name.rpartition(":")[0]
        return Path(place) if place.endswith(".py") else self[name].__module__

    def is_foreign(self, name: str) -> bool:
        """Return whether a component comes from outside ssfer: from a file of the user's, or an installed package."""
        return not self[name].__module__.startswith("ssfer.")

    def settings(self, name: str, sections: Mapping[str, Section]) -> Section:
        """Return a component's section of params.yaml, or its defaults where it has none.

        Args:
            name: the component's.
            sections: those of its kind, by `section_name`.
        """
        found = sections.get(section_name(name))
        return self[name].Settings() if found is None else found  # type: ignore[attr-defined]

    def _find(self, name: str) -> type[T]:
        place, colon, attribute = name.rpartition(":")
        if not colon and name.endswith(".py"):
            raise SsferError(f"{self.kind} '{name}' names a file; expected the class in it too, as {name}:Name")
        if colon:
            if "/" in place and not place.endswith(".py"):
                raise SsferError(f"{self.kind} '{name}' names no file; expected one that ends in .py, as {place}.py")
            if place.endswith(".py") and not Path(place).is_file():
                unknown_to_git = "DVC_ROOT" in os.environ and (project_root() / place).is_file()
                hint = "paths are relative to the project's folder"
                if unknown_to_git:
                    hint = "experiments get only files that git knows: git add it first"
                raise SsferError(f"{self.kind} '{name}': there is no file {place}; {hint}")
            module = self._import(name, lambda: module_at(place))
            if not hasattr(module, attribute):
                raise SsferError(f"{self.kind} '{name}': {place} has no class {attribute}")
            return self._noted(self._checked(name, getattr(module, attribute)))
        points = [point for point in self._entry_points() if point.name == name]
        places = [f"{self.package}.{name}"] * (name in self.own()) + [point.value for point in points]
        if not places:
            raise unknown_name(self.kind, name, self)
        if len(places) > 1:
            found = " and ".join(places)
            raise SsferError(f"{self.kind} '{name}' is there {len(places)} times: {found}; rename or uninstall one")
        if points:
            return self._noted(self._checked(name, self._import(name, points[0].load)))
        return self._only(name, importlib.import_module(places[0]))

    def _noted(self, found: type[T]) -> type[T]:
        note_file(inspect.getfile(found))  # its errors are told with their place
        return found

    def _entry_points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def _import(self, name: str, load: Any) -> Any:
        try:
            return load()
        except SsferError:
            raise
        except (Exception, SystemExit) as error:  # code of others fails in any way
            raise SsferError(f"{self.kind} '{name}' fails when imported: {type(error).__name__}: {error}") from error

    def _only(self, name: str, module: ModuleType) -> type[T]:
        """Return the one public component that a module defines."""
        found = [
            value
            for key, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, self.base)
            and value.__module__ == module.__name__
            and not key.startswith("_")
        ]
        if len(found) != 1:
            raise SsferError(f"{module.__name__} must define one {self.kind}, found {len(found)}")
        return self._checked(name, found[0])

    def _checked(self, name: str, found: Any) -> type[T]:
        if not (inspect.isclass(found) and issubclass(found, self.base)):
            raise SsferError(
                f"{self.kind} '{name}' is no {self.kind}: expected a class derived from {self.base.__name__}"
            )
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise SsferError(f"{self.kind} '{name}' must define {', '.join(missing)}; see {self.base.__qualname__}")
        settings = getattr(found, "Settings", None)
        if not (inspect.isclass(settings) and issubclass(settings, Section)):
            raise SsferError(f"{self.kind} '{name}' needs a class Settings derived from Section, found {settings!r}")
        declared = [key for key, kind in inspect.get_annotations(self.base).items() if "ClassVar[" in str(kind)]
        if missing := [key for key in declared if not hasattr(found, key)]:
            raise SsferError(f"{self.kind} '{name}' has no {', '.join(missing)}; set it in class {found.__name__}")
        return found


def check_sections(registry: Registry[Any], raw: Any, own: Iterable[str] = ()) -> Any:
    """Return {name: settings} of a mapping that has one section per component, each checked by its class.

    Args:
        registry: the kind of component.
        raw: what params.yaml has; anything but a mapping is returned as it is, for the caller to refuse.
        own: names of the user's own components that may have a section.

    Raises:
        ValidationError: unknown component, or a section that its `Settings` refuses; with the place.
    """
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        return raw
    foreign = (name for name in own if ":" in name or (name in registry and name not in registry.own()))
    names = {section_name(name): name for name in foreign}
    found = {}
    for name, values in {**dict.fromkeys(names), **raw}.items():  # the user's own always have a section
        if names.get(name) is None and not_chosen(registry, str(name)):
            found[name] = Section()
            continue
        try:
            settings = registry[names.get(name) or str(name)].Settings
        except SsferError as error:
            raise unknown_component((name,), error) from error
        try:
            found[name] = settings.model_validate({} if values is None else values)
        except ValidationError as error:
            raise within(name, error) from error
    return found


def not_chosen(registry: Registry[Any], section: str) -> bool:
    """Return whether a section belongs to a file of the user's own, in the project's folder or the next deeper ones.

    It stays, unchecked, while params.yaml names another component.
    """
    pattern = f"{glob.escape(section)}.py"
    files = (
        file for place in ("", "*/") for file in project_root().glob(place + pattern) if file.parent.name != "stages"
    )
    return section.isidentifier() and section not in registry and any(files)


def section_name(name: str) -> str:
    """Return the name of a component's section in params.yaml: the last part of the file's or module's name."""
    place = name.rpartition(":")[0] or name
    return Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


@cache
def _names_in(package: str, contract: str) -> list[str]:
    """Return the names of a package's files that hold a component: they define a class `Settings`.

    Args:
        package: its dotted name.
        contract: name of the file with the base class, which is not a component.
    """
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None, package
    files = sorted(Path(next(iter(spec.submodule_search_locations))).glob("*.py"))
    defines = re.compile(r"^ *class Settings\(", re.MULTILINE)
    return [p.stem for p in files if p.name != contract and defines.search(p.read_text(encoding="utf-8"))]
