"""The file in which GRUB keeps variables from one boot to the next.

Source: GNU GRUB 2.12, grub-core/lib/envblk.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SIGNATURE = b"# GRUB Environment Block\n"
MAX_SIZE = 1 << 14
"""Bytes; GRUB's own tool makes 1024."""

_VARIABLE = re.compile(rb"([^=\n]+)=((?:\\.|[^\\\n])*)\n", re.DOTALL)


def read_block(data: bytes) -> Iterator[tuple[str, str]]:
    """Name and value of each variable; none in a file of another kind."""
    if not data.startswith(SIGNATURE):
        return
    at = len(SIGNATURE)
    while at < len(data):
        found = _VARIABLE.match(data, at)
        if found is None or data[at : at + 1] == b"#":
            end = data.find(b"\n", at)
            at = end + 1 if end >= 0 else len(data)
        else:
            name, value = found.groups()
            yield name.decode("utf-8", "replace"), re.sub(rb"\\(.)", rb"\1", value).decode("utf-8", "replace")
            at = found.end()
