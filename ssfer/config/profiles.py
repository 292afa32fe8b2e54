"""Overlays of params.yaml: `ssfer profile NAME [NAME ...]`, later names win.

profiles/<name>.yaml hold only differences; keys that params.yaml lacks are refused. A list replaces the list that is
there. `sources+:` adds to it instead: an entry with the `name` of one that is there changes the keys it gives and takes
its place in the new list, other entries are appended. Three ways to use profiles:

    ssfer profile paper ferplus --run -S split.labeled_fraction=0.05    # one DVC experiment
    dvc exp run log $(ssfer profile paper ferplus)                      # the same, by hand
    ssfer profile paper ferplus --write && dvc repro log                # merged into params.yaml for good

The target `log` leaves out `generate`, which no real data set needs. DVC reads `-S` values with Hydra's grammar,
not as JSON: keys and plain strings stand without quotes, `{name:ferplus,labeled:true}`. A shell leaves that alone in
`$(...)`, but not when it is typed or pasted. Experiments in a temporary folder (`--temp`, `--queue`) lack raw data,
which git does not know; once `align` has run, `--allow-missing` lets them go on from its results.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

from ssfer.config.pipeline import check_overrides, run_pipeline
from ssfer.config.profile_options import parser
from ssfer.config.schema import PARAMS_FILE, Params, parse_params, read_params_file
from ssfer.config.settings_file import read_settings
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.files import write_bytes
from ssfer.core.places import RAW
from ssfer.core.shipped import shipped
from ssfer.core.yaml import flatten, round_trip
from ssfer.datasets.registry import absent_sources
from ssfer.rendered.settings import SYNTHETIC

PROFILE_DIR = Path("profiles")
ADD = "+"  # after a key: its list is added to
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"null", "true", "false", "nan", "inf"}  # Hydra reads these, in any case, as something else


def profile_files() -> dict[str, Path]:
    """Return the profiles' files by name, sorted: the project's own, and those of the package that it has not."""
    found = {path.stem: path for folder in (shipped("profiles"), PROFILE_DIR) for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def read_profile(name: str) -> Any:
    """Read one overlay.

    Raises:
        SsferError: no such profile (the nearest is named), not a mapping, or invalid YAML.
    """
    files = profile_files()
    if name not in files:
        raise unknown_name("profile", name, files)
    overlay = read_settings(files[name], keep_comments=True)
    if not isinstance(overlay, Mapping):
        raise SsferError(f"{PROFILE_DIR / name}.yaml must hold sections of {PARAMS_FILE}, found {overlay!r}")
    return overlay


def merge(base: Any, overlay: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Put an overlay's values into `base`, in place; mappings merge, single values and lists replace, `key+` adds.

    Raises:
        SsferError: a key that `base` lacks (the nearest valid one is named), or `key+` where one of both is no list.
    """
    for given, value in overlay.items():
        key = given.removesuffix(ADD)
        if key not in base:
            raise unknown_name(f"key in {origin}:", f"{prefix}{key}", [f"{prefix}{known}" for known in base])
        if given != key:
            if not isinstance(base[key], list) or not isinstance(value, list):
                raise SsferError(f"{origin}: '{prefix}{given}' adds to a list, so both sides must be lists")
            base[key] = _added(base[key], value)
        elif isinstance(base[key], Mapping) and isinstance(value, Mapping):
            merge(base[key], value, origin, f"{prefix}{key}.")
        else:
            base[key] = value


def _added(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Return the old items that no new one replaces, then the new ones merged over the old ones of the same name."""

    def label(item: Any) -> Any:
        return item.get("name") if isinstance(item, Mapping) else item

    known = {label(item): item for item in old}
    named = [label(item) for item in new]
    items = [{**known.get(label(n), {}), **n} if isinstance(n, Mapping) else n for n in new]
    return [item for item in old if label(item) not in named] + items


def resolve(names: Sequence[str]) -> tuple[Any, Params]:
    """Return params.yaml with the profiles merged in, as a round-trip document and checked."""
    document = read_params_file(keep_comments=True)
    for name in names:
        merge(document, read_profile(name), f"{PROFILE_DIR / name}.yaml")
    return document, parse_params(document, " + ".join((str(PARAMS_FILE), *names)))


def overrides(names: Sequence[str]) -> list[str]:
    """Return `key=value` for every value the profiles set, as DVC's -S takes it."""
    document = read_params_file(keep_comments=True)
    keys: dict[str, None] = {}
    for name in names:
        profile = read_profile(name)
        merge(document, profile, f"{PROFILE_DIR / name}.yaml")
        keys |= dict.fromkeys(key.removesuffix(ADD) for key, _ in flatten(profile))
    merged = dict(flatten(document))
    return [f"{key}={encode(merged[key])}" for key in keys]


def encode(value: Any) -> str:
    """Return a value in the grammar of DVC's -S; without spaces, unless a string holds one."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(int(value))
        case float():
            return format(Decimal(repr(float(value))), "f")  # 0.00001, not 1e-05
        case Mapping():
            return "{" + ",".join(f"{_encoded_key(key)}:{encode(item)}" for key, item in value.items()) + "}"
        case str():
            if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
                return value
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Sequence():
            return "[" + ",".join(map(encode, value)) + "]"
    raise SsferError(f"a profile cannot hold {value!r}")


def _encoded_key(key: object) -> str:
    text = str(key)
    if text.lower() in _WORDS or not (_PLAIN.fullmatch(text) or text.isdecimal()):
        raise SsferError(f"DVC's -S cannot hold the key '{text}'; use --write, then `ssfer run` without -S")
    return text


def missing_sources(params: Params) -> list[Path]:
    """Return the folders and zip files that the sources need and that are not there; optional ones are not needed."""
    if params.data.raw == SYNTHETIC:
        return []  # `generate` makes it
    root = RAW / params.data.raw
    absent = absent_sources(params.data.sources, root)
    return [root / s.path for s in params.data.sources if s not in absent and not (root / s.path).exists()]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser()
    args, rest = options.parse_args(arguments[:split]), arguments[split + 1 :]
    if args.list:
        print("\n".join(profile_files()))
        return
    if not args.names:
        options.error(f"name at least one profile of: {', '.join(profile_files())}")
    if (args.extra and (args.show or args.write)) or (rest and not args.run):
        options.error("-S goes with --run or with printing flags, arguments after -- only with --run")

    check_overrides(args.extra)
    document, params = resolve(args.names)
    missing = missing_sources(params)
    absent = absent_sources(params.data.sources, RAW / params.data.raw)
    hint = f"raw data is missing: {', '.join(map(str, missing))}; put or link it there (see profiles/*.yaml)"
    if absent:
        names, number = ", ".join(s.name for s in absent), len(params.data.sources)
        left = f"{number - len(absent) - len(missing)} of {number} sources left"
        print(f"profile: absent: {names} (optional); {left}", file=sys.stderr)
    if args.show or args.write:
        text = StringIO()
        round_trip().dump(document, text)
        if args.show:
            print(text.getvalue(), end="")
        else:
            write_bytes(PARAMS_FILE, text.getvalue().encode())
            print(f"{PARAMS_FILE} now holds {' + '.join(args.names)}; next: ssfer run")
    elif args.run:
        if missing:
            raise SsferError(hint)
        sys.exit(run_pipeline([*overrides(args.names), *args.extra], rest))
    else:
        values = [*overrides(args.names), *args.extra]
        awkward = [value for value in values if re.search(r"[\s*?'\"\\$`]", value)]
        if awkward:
            raise SsferError(
                f"the shell would break {awkward[0]!r}; use --run, or --write without -S, instead of printing flags"
            )
        print(" ".join(f"-S {value}" for value in values))
    if missing:
        print(f"profile: warning: {hint}", file=sys.stderr)
