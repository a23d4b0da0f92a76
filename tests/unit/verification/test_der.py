from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.verification import der


def tlv(tag: int, content: bytes) -> bytes:
    """An element with a length as short as DER wants it."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 + len(length))) + length + content


def name(*attributes: tuple[str, int, bytes]) -> bytes:
    relatives = (
        tlv(0x31, tlv(0x30, tlv(0x06, bytes.fromhex(oid)) + tlv(tag, value)))
        for oid, tag, value in attributes
    )
    return tlv(0x30, b"".join(relatives))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20])
def test_lengths_of_every_form_are_read(size: int) -> None:
    element = tlv(0x04, bytes(size))
    assert der.elements(element * 2, "x") == [(4, bytes(size))] * 2
    assert der.pieces(element * 2, "x") == [element] * 2


@pytest.mark.parametrize(
    "data", [b"\x04", b"\x04\x80", b"\x04\x84\0\0\0\1x", b"\x04\x81", b"\x04\x02x", b"\x04\x82\x01\x00x"]
)
def test_cut_elements_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="thing"):
        der.elements(data, "thing")


def test_the_signed_part_is_the_first_element_as_it_stands() -> None:
    part = tlv(0x30, b"signed" * 50)
    assert der.signed_part(tlv(0x30, part + tlv(0x03, b"signature")), "x") == part
    for data in (b"", tlv(0x30, b""), tlv(0x30, b"\x30\x05x")):
        with pytest.raises(MalformedError):
            der.signed_part(data, "x")


def test_pairs_hold_an_identifier_and_one_value() -> None:
    pair = tlv(0x06, b"id") + tlv(0x04, b"value")
    assert der.pairs(tlv(0x30, pair) * 2, "x") == [(b"id", 4, b"value")] * 2
    for data in (
        tlv(0x31, pair),
        tlv(0x30, pair + tlv(0x05, b"")),
        tlv(0x30, tlv(0x05, b"id") + tlv(0x04, b"")),
    ):
        with pytest.raises(MalformedError):
            der.pairs(data, "x")


def test_the_first_common_name_counts() -> None:
    country, common = "550406", "550403"
    assert (
        der.common_name(name((country, 0x13, b"US"), (common, 0x0C, b"CA 1"), (common, 0x0C, b"no")))
        == "CA 1"
    )
    assert der.common_name(name((common, 0x1E, "Wide".encode("utf-16-be")))) == "Wide"
    assert der.common_name(name((country, 0x13, b"US"))) == ""
    assert der.common_name(b"\x30\x05") == ""


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_malformed(data: bytes) -> None:
    der.common_name(data)
    for read in (der.elements, der.pieces, der.pairs, der.signed_part, der.sequence):
        try:
            read(data, "x")
        except MalformedError as error:
            assert error.hint
