"""Every page of the documentation can be reached, and every link between files leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)")


def links(page: Path) -> set[Path]:
    """The files that a page links to."""
    found = (match[1] for match in _LINK.finditer(page.read_text(encoding="utf-8")))
    return {
        (page.parent / one).resolve() for one in found if "://" not in one and not one.startswith("mailto:")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [one for one in links(page) if not one.exists()] == []


def test_every_page_is_listed() -> None:
    listed = {DOCS / "README.md", *links(DOCS / "README.md"), *links(DOCS / "adr/README.md")}
    assert [page for page in PAGES if page.is_relative_to(DOCS) and page not in listed] == []
