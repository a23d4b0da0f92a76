"""Text that came out of a guest, made safe to show."""

from __future__ import annotations


def printable(text: str, limit: int = 4096) -> str:
    r"""`text` on one line: what does not print becomes an escape such as \n, what exceeds `limit` is cut."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown
    )
