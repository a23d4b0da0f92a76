from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.binary import Reader, exactly
from tdxstack.errors import MalformedError


def test_reads_little_endian_from_front_to_back() -> None:
    reader = Reader(bytes(range(1, 18)), "thing")
    assert reader.u8("a") == 1
    assert reader.u16("b") == 0x0302
    assert reader.u32("c") == 0x07060504
    assert reader.u64("d") == 0x0F0E0D0C0B0A0908
    assert reader.peek(100) == b"\x10\x11"
    assert reader.rest() == b"\x10\x11"
    reader.end()


def test_short_read_names_structure_field_and_offset() -> None:
    reader = Reader(b"abc", "TD quote")
    reader.u8("version")
    with pytest.raises(
        MalformedError, match="TD quote: signature needs 4 bytes at offset 1, 2 are left"
    ) as caught:
        reader.take(4, "signature")
    assert caught.value.hint


def test_bytes_behind_the_end_are_refused() -> None:
    reader = Reader(b"abc", "thing")
    reader.u16("a")
    with pytest.raises(MalformedError, match="1 bytes follow the end at offset 2"):
        reader.end()


def test_exactly() -> None:
    assert exactly(b"ab", 2, "it") == b"ab"
    with pytest.raises(MalformedError, match="it is 2 bytes long, not 3"):
        exactly(b"ab", 3, "it")


@given(st.binary(max_size=64), st.lists(st.integers(-2, 1 << 64), max_size=8))
def test_never_reads_past_the_end(data: bytes, sizes: list[int]) -> None:
    reader, read = Reader(memoryview(data), "thing"), b""
    for size in sizes:
        try:
            read += reader.take(size, "part")
        except MalformedError:
            assert size < 0 or size > len(data) - len(read)
    assert data.startswith(read)
    assert read + reader.rest() == data
