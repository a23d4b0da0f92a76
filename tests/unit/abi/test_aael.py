from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.aael import is_aael, parse_aael
from tdxstack.abi.event_log import ALG_SHA384, EV_EVENT_TAG, Event
from tdxstack.errors import MalformedError

INIT = b"INIT sha384/" + b"0" * 96


def tagged(text: bytes) -> bytes:
    return b"LEAA" + struct.pack("<I", len(text)) + text


def packed(text: bytes) -> bytes:
    data = tagged(text)
    digest = hashlib.sha384(data).digest()
    return struct.pack("<IIIH", 4, 6, 1, 12) + digest + struct.pack("<I", len(data)) + data


def event(text: bytes, digest: bytes) -> Event:
    return Event(4, EV_EVENT_TAG, ((ALG_SHA384, digest),), tagged(text))


def test_binary_form() -> None:
    log = packed(b"domain operation one") + packed(b"domain operation two")
    assert is_aael(log)
    assert parse_aael(log) == tuple(
        event(text, hashlib.sha384(tagged(text)).digest())
        for text in (b"domain operation one", b"domain operation two")
    )


def test_text_form() -> None:
    """The digest is one of guest-components' own tests."""
    log = INIT + b"\ndomain operation content\n"
    digest = (
        "26d944cb8d99096590252283b8c807b9508329b068703bdb7bac7eb6efe5b32fc0fadf1462662b95d2c708aa49c0bfe1"
    )
    assert is_aael(log)
    assert parse_aael(log) == (
        event(INIT, hashlib.sha384(INIT).digest()),
        event(b"domain operation content", bytes.fromhex(digest)),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no INIT line"),
        (b"INIT md5/00\n", "no INIT line"),
        (packed(b"one")[:-1], "event data needs"),
        (packed(b"one") + b"\xff" * 20, "20 bytes at offset .* are no event"),
        (packed(b"one") + struct.pack("<IIIH", 4, 6, 1, 4), "a digest of algorithm 0x0004"),
        (INIT + b"\n" * 70000, "more than 65536 lines"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        parse_aael(data)
    assert caught.value.hint


@given(st.sampled_from([b"", INIT, packed(b"one")]), st.binary(max_size=100))
def test_any_input(start: bytes, data: bytes) -> None:
    try:
        parse_aael(start + data)
    except MalformedError as error:
        assert error.hint
