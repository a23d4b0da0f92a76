"""Text from guests and programs, before it reaches a terminal or an error message."""

from __future__ import annotations

import re

_ORDER = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]")
"""What a terminal takes as an order: titles, colours, cursor movement, character sets (ECMA-48)."""


def printable(line: str) -> str:
    """One line with nothing in it that a terminal would obey; tabs become spaces."""
    plain = _ORDER.sub("", line.replace("\t", "    "))
    return "".join(character for character in plain if character.isprintable())
