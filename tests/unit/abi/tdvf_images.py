"""Small TDVF images, packed by struct, independently of the code under test."""

from __future__ import annotations

import random
import struct
from uuid import UUID

Section = tuple[int, int, int, int, int, int]

SIZE = 0x8000
BASE = (1 << 32) - SIZE

SECTIONS: tuple[Section, ...] = (
    (0x2000, 0x6000, BASE + 0x2000, 0x6000, 0, 1),
    (0, 0x2000, BASE, 0x2000, 1, 0),
    (0, 0, 0x810000, 0x10000, 3, 0),
    (0, 0, 0x80B000, 0x2000, 3, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x800000, 0x6000, 3, 0),
)
"""(data offset, data size, address, size, type, attributes), laid out as in OVMF.inteltdx.fd."""


def descriptor(
    sections: tuple[Section, ...] = SECTIONS, version: int = 1, length: int | None = None
) -> bytes:
    size = 16 + 32 * len(sections) if length is None else length
    return struct.pack("<4sIII", b"TDVF", size, version, len(sections)) + b"".join(
        struct.pack("<IIQQII", *section) for section in sections
    )


def entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le


def table(entries: bytes, length: int | None = None) -> bytes:
    size = len(entries) + 18 if length is None else length
    return entries + struct.pack("<H", size) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le


def image(
    metadata: bytes = b"", *, size: int = SIZE, distance: int = 0x400, entries: bytes | None = None
) -> bytes:
    """Random bytes with the descriptor `distance` bytes before the end and the table of GUIDs."""
    metadata = metadata or descriptor()
    raw = bytearray(random.Random(7).randbytes(size))
    raw[size - distance : size - distance + len(metadata)] = metadata
    if entries is None:
        entries = entry("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", distance))
        entries += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", b"\1\2\3\4")
    guids = table(entries)
    raw[size - 32 - len(guids) : size - 32] = guids
    return bytes(raw)
