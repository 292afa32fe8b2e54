"""The documentation site: nothing undocumented, no broken link, one sentence without its extra."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ssfer.core.errors import SsferError
from tests.support.pages import ALL_PAGES, GENERATED, PAGES
from tools import site

ROOT = Path(__file__).resolve().parents[2]
FILE_ENDS = ("json", "csv", "html", "md", "yaml", "safetensors")
EXAMPLES = (  # what a reader makes
    *("profiles/mine.yaml", "profiles/NAME.yaml", "ssfer/methods/mine.py", "tests/methods/test_mine.py"),
    *("methods.mine", "methods.name"),
)


def anchor(heading: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text)).strip("-")


def anchors(text: str) -> set[str]:
    prose = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return {anchor(line.lstrip("#")) for line in prose.splitlines() if re.match(r"#{1,6} ", line)}


def test_every_setting_is_described() -> None:
    found = [setting for _, _, settings in site.sections() for setting in settings]
    assert len(found) > 200
    assert not [key for key, _, text in found if len(text.split()) < 1]
    assert not [title for title, about, _ in site.sections() if not about]


def test_every_key_of_params_yaml_is_on_the_page() -> None:
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    page = site.settings_page()

    def keys(node: dict[str, object], prefix: str = "") -> list[str]:
        return [
            key
            for name, value in node.items()
            for key in (keys(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"])
        ]

    # a mapping whose keys are free, such as the words of classes, is one setting
    assert not [key for key in keys(params) if f"`{key}`" not in page and f"`{key.rpartition('.')[0]}`" not in page]


def test_every_command_is_described_with_its_options() -> None:
    found = dict(site.commands())
    assert {"ssfer compare", "ssfer profile", "ssfer experiments plot", "ssfer run"} <= set(found)
    for name, text in found.items():
        assert text.lower().startswith(f"usage: {name}")
        assert len(text.splitlines()) > 3, name
        for line in re.findall(r"^  (--?\w[^\n]*)$", text, re.M):
            assert re.search(r"\S  +\S", line) or len(line) > 20, f"{name}: {line}"


@pytest.mark.parametrize("name", ALL_PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / "docs" / name
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file.is_relative_to(ROOT / "docs"):
            if file.relative_to(ROOT / "docs").as_posix() in GENERATED:
                continue
        else:
            assert name == "../README.md", f"{name}: {target} is not part of the site"
        assert file.exists(), f"{name}: {target}"
        if fragment:
            assert fragment in anchors(file.read_text()), f"{name}: {target}"


@pytest.mark.parametrize("name", ALL_PAGES)
def test_settings_files_and_targets_it_names_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    keys = [key for _, _, settings in site.sections() for key, _, _ in settings]
    known = {*EXAMPLES, *(".".join(key.split(".")[: i + 1]) for key in keys for i in range(len(key.split("."))))}
    sections = {key.split(".")[0] for key in keys} - {"data"}  # data.sources takes keys of the kinds
    named = re.findall(r"`([a-z]+)\.([a-z_]+(?:\.[a-z_]+)*)(?=[`:= ])", text)
    assert not [f"{a}.{b}" for a, b in named if a in sections and b not in FILE_ENDS and f"{a}.{b}" not in known]
    paths = re.findall(r"`((?:ssfer|stages|profiles|tests|tools|benchmarks)/[\w/.-]+)`", text)
    assert not [path for path in paths if not (ROOT / path).exists() and path not in EXAMPLES]
    targets = set(re.findall(r"^[a-z-]+(?=:)", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ *)make ([a-z][a-z-]+)", text, re.M)) <= targets


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]))
    assert named == {*PAGES, *GENERATED}


def test_profiles_say_what_they_are() -> None:
    page = site.profiles_page()
    guide = (ROOT / "docs/howto/profiles.md").read_text()
    for name in site.profile_files():
        assert f"`{name}`" in guide
        head = page.split(f"## `{name}`")[1].split("##")[0]
        assert len(re.sub(r"```(text)?", "", head).split()) > 5, name


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "REFERENCE", tmp_path)
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["site"])
    with pytest.raises(SsferError, match="the site needs the extra `docs`; install it with make setup-dev"):
        site.main()
    assert {path.name for path in tmp_path.iterdir()} == set(site.PAGES)
