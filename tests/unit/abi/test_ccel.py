from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.ccel import CcelTable
from tdxstack.errors import MalformedError


def table(**changes: int) -> bytes:
    """A table packed by struct, independently of the code under test."""
    fields = {"length": 56, "type": 2, "subtype": 0, "laml": 0x10000, "lasa": 0x7D650000, **changes}
    raw = bytearray(
        struct.pack(
            "<4sIBB6s8sI4sIBBHQQ",
            b"CCEL",
            fields["length"],
            1,
            0,
            b"INTEL ",
            b"EDK2    ",
            2,
            b"    ",
            0x01000013,
            fields["type"],
            fields["subtype"],
            0,
            fields["laml"],
            fields["lasa"],
        )
    )
    raw[9] = (256 - sum(raw) % 256) % 256
    return bytes(raw)


def test_fields() -> None:
    parsed = CcelTable.parse(table())
    assert (parsed.log_area_length, parsed.log_area_address) == (0x10000, 0x7D650000)
    assert (parsed.oem_id, parsed.oem_table_id, parsed.creator_revision) == (
        b"INTEL ",
        b"EDK2    ",
        0x01000013,
    )
    assert parsed.is_tdx
    assert parsed.to_bytes() == table()


def test_other_technology_is_recognised() -> None:
    assert not CcelTable.parse(table(type=1)).is_tdx
    assert not CcelTable.parse(table(subtype=1)).is_tdx


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes long, not 56"),
        (table() + b"\0", "57 bytes long, not 56"),
        (b"TCPA" + table()[4:], "signature is b'TCPA'"),
        (table(length=57), "length field is 57"),
        (table()[:-1] + b"\x01", "checksum"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        CcelTable.parse(data)


@pytest.mark.parametrize("offset", range(56))
def test_every_changed_byte_is_refused(offset: int) -> None:
    data = bytearray(table())
    data[offset] ^= 0x10
    with pytest.raises(MalformedError):
        CcelTable.parse(bytes(data))


@given(st.binary(max_size=60) | st.binary(min_size=46, max_size=46).map(lambda tail: with_checksum(tail)))
def test_any_input(data: bytes) -> None:
    try:
        parsed = CcelTable.parse(data)
    except MalformedError:
        return
    assert parsed.to_bytes() == data


def with_checksum(tail: bytes) -> bytes:
    raw = bytearray(b"CCEL\x38\0\0\0\x01\0" + tail)
    raw[9] = -sum(raw) & 0xFF
    return bytes(raw)
