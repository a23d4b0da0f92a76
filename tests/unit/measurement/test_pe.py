"""PE programs and what is measured of them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.measurement.pe import Image
from tests.unit.measurement import pe_images as made

SECTIONS = {".text": b"code" * 200, ".data": b"d", ".vendor_cert": b"keys"}


def test_the_digest_is_that_of_everything_but_checksum_and_certificates() -> None:
    plain = made.program(SECTIONS, tail=b"behind the sections")
    assert Image.parse(plain).digest() == made.digest(plain)
    signed = made.program(SECTIONS, signatures=(b"one", b"two two two"), tail=b"behind the sections")
    table = 16 + 24
    assert Image.parse(signed).digest() == made.digest(signed, certificates=table)
    assert Image.parse(signed).digest() != made.digest(signed)
    assert Image.parse(signed).digest("sha256") == made.digest(signed, certificates=table, algorithm="sha256")


def test_sections_are_found_by_long_names() -> None:
    image = Image.parse(made.program(SECTIONS))
    assert image.section(".vendor_cert") == b"keys"
    assert image.section(".text") == b"code" * 200
    assert image.section(".absent") is None


def test_sections_that_overlap_are_refused() -> None:
    """Each byte would be hashed as often as sections say that it is theirs."""
    image = bytearray(made.program({".a": bytes(2048), ".b": b"b"}))
    second = image.index(b".b\0")
    image[second + 16 : second + 24] = struct.pack("<II", 2048, made.HEADERS_SIZE)
    with pytest.raises(MalformedError, match="headers, sections or certificates overlap"):
        Image.parse(bytes(image))


def test_sections_are_counted() -> None:
    image = bytearray(made.program(SECTIONS))
    image[0x46:0x48] = (4097).to_bytes(2, "little")
    with pytest.raises(MalformedError, match="4097 sections, more than 4096"):
        Image.parse(bytes(image))


def test_signatures_come_in_order() -> None:
    image = Image.parse(made.program(SECTIONS, signatures=(b"one", b"second")))
    assert list(image.signatures()) == [b"one", b"second"]
    assert list(Image.parse(made.program(SECTIONS)).signatures()) == []
    assert len(list(Image.parse(made.program(SECTIONS, signatures=(b"s",) * 64)).signatures())) == 64
    with pytest.raises(MalformedError, match="more than 64 entries"):
        list(Image.parse(made.program(SECTIONS, signatures=(b"s",) * 65)).signatures())


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (0x40, b"NE", "no PE signature"),
        (made.OPTIONAL, b"\0\1", "magic"),
        (made.OPTIONAL + 60, b"\xff\xff\xff\x7f", "headers claim"),
        (made.OPTIONAL + 60, b"\x10\0\0\0", "headers claim"),
        (made.OPTIONAL + 240 + 20, b"\xff\xff\xff\x7f", "leaves the file"),
        (made.OPTIONAL + 112 + 36, b"\xff\xff\xff\x7f", "overlap"),
    ],
)
def test_broken_headers_are_named(at: int, value: bytes, problem: str) -> None:
    image = bytearray(made.program(SECTIONS))
    image[at : at + len(value)] = value
    with pytest.raises(MalformedError, match=problem):
        Image.parse(bytes(image))


def test_a_broken_certificate_table_is_named() -> None:
    image = bytearray(made.program(SECTIONS, signatures=(b"one",)))
    image[-16:-12] = b"\xff\0\0\0"
    with pytest.raises(MalformedError, match="a certificate of 255 bytes"):
        list(Image.parse(bytes(image)).signatures())


@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    image = bytearray(made.program(SECTIONS, signatures=(b"one",)))
    for _ in range(data.draw(st.integers(0, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        parsed = Image.parse(bytes(image[: data.draw(st.integers(0, len(image)))]))
        parsed.digest()
        parsed.section(".vendor_cert")
        list(parsed.signatures())
