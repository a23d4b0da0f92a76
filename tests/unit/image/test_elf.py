from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.image.elf import needed
from tdxstack.run import run

ADDRESS = 0x400000


def elf(*libraries: str) -> bytes:
    """The least file that is linked with `libraries`, laid out by hand: headers, dynamic section, names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in libraries)
    offsets = [names.index(b"\0" + name.encode() + b"\0") + 1 for name in libraries]
    start = 64 + 2 * 56
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets)
    table = start + len(dynamic) + 32
    dynamic += struct.pack("<qQqQ", 5, ADDRESS + table, 0, 0)
    size = table + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, ADDRESS, 0, size, size, 4096)
    segment = struct.pack("<IIQQQQQQ", 2, 4, start, ADDRESS + start, 0, len(dynamic), len(dynamic), 8)
    return header + load + segment + dynamic + names


def test_what_it_is_linked_with() -> None:
    assert needed(elf("libc.so.6", "libm.so.6")) == ["libc.so.6", "libm.so.6"]
    assert needed(elf()) == []


def test_as_the_dynamic_loader_sees_it() -> None:
    program = Path("/bin/sh").resolve()
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("not x86-64")
    listed = run([str(loader), "--list", str(program)], timeout=30).stdout.decode()
    names = needed(program.read_bytes())
    assert names
    assert all(name in listed for name in names)


@pytest.mark.parametrize("size", [0, 16, 63, 100, 160])
def test_what_is_cut_short_is_malformed(size: int) -> None:
    with pytest.raises(MalformedError):
        needed(elf("libc.so.6")[:size])


@given(st.binary(max_size=300), st.integers(0, 250), st.binary(min_size=1, max_size=8))
def test_any_bytes_are_read_or_malformed(data: bytes, place: int, change: bytes) -> None:
    good = elf("libc.so.6")
    for tried in (data, good[:place] + change + good[place + len(change) :]):
        with contextlib.suppress(MalformedError):
            assert all(isinstance(name, str) for name in needed(tried))
