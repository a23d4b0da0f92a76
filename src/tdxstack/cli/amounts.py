"""Sizes and ages as people read them."""

from __future__ import annotations

from datetime import timedelta


def size_text(size: int) -> str:
    """Bytes in KiB, MiB or GiB."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size / 1024:.1f} KiB"


def age_text(age: timedelta) -> str:
    """A time in minutes, hours or days."""
    minutes = max(0, int(age.total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"
