"""Small PE programs, packed by struct, independently of the code under test."""

from __future__ import annotations

import hashlib
import struct

HEADERS_SIZE = 0x400
OPTIONAL = 0x40 + 24


def program(sections: dict[str, bytes], *, signatures: tuple[bytes, ...] = (), tail: bytes = b"") -> bytes:
    """A PE32+ file. Section names of more than 8 letters go into a string table behind the sections."""
    names, headers, body = b"\0\0\0\0", b"", b""
    for name, content in sections.items():
        short = name.encode()
        if len(short) > 8:
            short, names = f"/{len(names)}".encode(), names + name.encode() + b"\0"
        raw = content.ljust(-(-len(content) // 512) * 512, b"\0")
        place = HEADERS_SIZE + len(body) if raw else 0
        headers += struct.pack("<8sIIII16x", short, len(content), 0x1000, len(raw), place)
        body += raw
    table = b"".join(
        struct.pack("<IHH", 8 + len(one), 0x0200, 2) + one + bytes(-len(one) % 8) for one in signatures
    )
    behind = names + tail
    behind += bytes(-len(behind) % 8)
    symbols = HEADERS_SIZE + len(body)
    security = (symbols + len(behind), len(table)) if table else (0, 0)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, symbols, 0, 240, 0x22E)
    optional = struct.pack("<H58sII40s", 0x20B, b"o" * 58, HEADERS_SIZE, 0xDEADBEEF, b"p" * 40)
    optional += struct.pack("<I", 16) + bytes(32) + struct.pack("<II", *security) + bytes(88)
    head = b"MZ".ljust(0x3C, b"d") + struct.pack("<I", 0x40) + b"PE\0\0" + coff + optional + headers
    return head.ljust(HEADERS_SIZE, b"\0") + body + behind + table


def digest(image: bytes, *, certificates: int = 0, algorithm: str = "sha384") -> bytes:
    """The Authenticode digest of a program made here: all but the checksum, its entry and the table."""
    checksum, entry = OPTIONAL + 64, OPTIONAL + 112 + 32
    kept = image[:checksum] + image[checksum + 4 : entry] + image[entry + 8 : len(image) - certificates]
    return hashlib.new(algorithm, kept).digest()


def with_sections(image: bytes, sections: dict[str, bytes]) -> bytes:
    """A program with sections appended, each on a page of its own, as ukify appends them to a stub."""
    made = bytearray(image)
    start = int.from_bytes(made[0x3C:0x40], "little")
    count, optional_size = struct.unpack_from("<H12xH", made, start + 6)
    optional = start + 24
    table = optional + optional_size
    page, sector = struct.unpack_from("<II", made, optional + 32)
    places = [struct.unpack_from("<II", made, table + 40 * number + 8) for number in range(count)]
    end = max(address + size for size, address in places)
    for name, content in sections.items():
        end = -(-end // page) * page
        made += bytes(-len(made) % sector)
        raw = content + bytes(-len(content) % sector)
        header = (name.encode(), len(content), end, len(raw), len(made), 0x40000040)
        struct.pack_into("<8sIIII12xI", made, table + 40 * count, *header)
        made += raw
        count, end = count + 1, end + len(content)
    struct.pack_into("<H", made, start + 6, count)
    struct.pack_into("<I", made, optional + 56, -(-end // page) * page)
    return bytes(made)
