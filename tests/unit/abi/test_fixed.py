from __future__ import annotations

import struct

import pytest

from tdxstack.abi.fixed import pack, unpack
from tdxstack.errors import MalformedError

LAYOUT = struct.Struct("<H4s")


def test_packs_and_unpacks() -> None:
    assert pack(LAYOUT, (0x0102, b"abcd"), "thing") == b"\x02\x01abcd"
    assert unpack(LAYOUT, memoryview(b"\x02\x01abcd"), "thing") == (0x0102, b"abcd")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1, b"abc"), "field 1 has 3 bytes, not 4"),
        ((1, b"abcde"), "field 1 has 5 bytes, not 4"),
        ((0x10000, b"abcd"), "thing"),
        ((-1, b"abcd"), "thing"),
    ],
)
def test_refuses_fields_that_do_not_fit(values: tuple[object, ...], said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        pack(LAYOUT, values, "thing")


@pytest.mark.parametrize("data", [b"", b"12345", b"1234567"])
def test_refuses_data_of_another_size(data: bytes) -> None:
    with pytest.raises(MalformedError, match="thing"):
        unpack(LAYOUT, data, "thing")
