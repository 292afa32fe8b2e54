"""The documentation's pages, without those that tools.site generates."""

from __future__ import annotations

from pathlib import Path

from tools import site

DOCS = Path(__file__).resolve().parents[2] / "docs"
GENERATED = {f"reference/{name}" for name in site.PAGES}
PAGES = sorted({path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - GENERATED)
ALL_PAGES = (*PAGES, "../README.md", "../CONTRIBUTING.md")  # relative to DOCS
