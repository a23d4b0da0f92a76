"""The reference of what versions can do, generated from the table. TDX_UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

from tdxstack.qemu.capabilities import FACTS, Component

PAGE = Path(__file__).parents[2] / "docs/reference/capabilities.md"
HEAD = """\
# What versions of QEMU, libvirt and Linux can do with TDs

Generated from `src/tdxstack/qemu/capabilities.py` (`tests/golden/test_capabilities_reference.py`).

Where the thing itself can be asked, it is asked when a machine starts, and the version decides nothing:
distributions carry patches forward and back.
"""
COLUMNS = "\n| versions | what it does | found out by | source |\n|---|---|---|---|\n"


def test_the_page_says_what_the_table_says() -> None:
    text = HEAD
    for component in Component:
        rows = [
            f"| {fact.versions} | {fact.what} | {fact.how} | {fact.source} |\n"
            for fact in FACTS
            if fact.component is component
        ]
        text += f"\n## {component.value}\n{COLUMNS}{''.join(rows)}"
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        PAGE.write_text(text)
    assert PAGE.read_text() == text
