"""QGS messages against bytes written by hand from `qgs_msg_lib.h`, and against anything at all."""

from __future__ import annotations

from typing import Protocol, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.qgs import (
    ErrorCode,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    Header,
    error_name,
    frame,
)
from tdxstack.errors import MalformedError


class Message(Protocol):
    """What all messages can do."""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self: ...

    def to_bytes(self) -> bytes: ...


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def message(kind: int, body: bytes, *, error: int = 0, minor: int = 1) -> bytes:
    return b"\1\0" + bytes((minor, 0)) + u32(kind, 16 + len(body), error) + body


REPORT = bytes(range(256)) * 4
PARTS = (b"a", b"bb", b"ccc", b"dddd", b"e", b"ff", b"ggg")
PART_SIZES = u32(1, 2, 3, 4, 1, 2, 3)

EXAMPLES: list[tuple[Message, bytes]] = [
    (GetQuoteRequest(REPORT), message(0, u32(1024, 0) + REPORT)),
    (GetQuoteRequest(b"r", b"ids"), message(0, u32(1, 3) + b"rids")),
    (GetQuoteResponse(b"quote"), message(1, u32(0, 5) + b"quote")),
    (GetQuoteResponse(b"quote", b"id"), message(1, u32(2, 5) + b"idquote")),
    (GetQuoteResponse(error_code=0x12003), message(1, u32(0, 0), error=0x12003)),
    (GetCollateralRequest(b"123456", b"platform\0"), message(2, u32(6, 9) + b"123456platform\0")),
    (
        GetCollateralResponse(*PARTS, collateral_major=3, collateral_minor=1),
        message(3, b"\3\0\1\0" + PART_SIZES + b"".join(PARTS)),
    ),
    (
        GetCollateralResponse(*PARTS, collateral_major=3, padding=bytes(4)),
        message(3, b"\3\0\0\0" + PART_SIZES + b"".join(PARTS) + bytes(4)),
    ),
    (GetCollateralResponse(error_code=0x12001), message(3, bytes(32), error=0x12001)),
    (GetPlatformInfoRequest(), message(4, b"")),
    (GetPlatformInfoRequest(minor_version=0), message(4, b"", minor=0)),
    (
        GetPlatformInfoResponse(7, 13, b"i" * 16, b"c" * 16, padding=bytes(4)),
        message(5, b"\7\0\x0d\0" + u32(16, 16) + b"i" * 16 + b"c" * 16 + bytes(4)),
    ),
    (GetPlatformInfoResponse(error_code=0x12007), message(5, bytes(12), error=0x12007)),
]
TYPES: list[type[Message]] = [
    GetQuoteRequest,
    GetQuoteResponse,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
]


@pytest.mark.parametrize(("value", "data"), EXAMPLES)
def test_messages_have_the_bytes_of_the_protocol(value: Message, data: bytes) -> None:
    assert value.to_bytes() == data
    assert type(value).parse(data) == value
    assert type(value).parse(memoryview(data)) == value


@pytest.mark.parametrize(("value", "data"), EXAMPLES)
def test_messages_cut_short_or_lengthened_are_malformed(value: Message, data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            type(value).parse(data[:size])
    with pytest.raises(MalformedError):
        type(value).parse(data + b"\0")


@pytest.mark.parametrize(("value", "data"), EXAMPLES)
def test_a_message_is_read_only_as_what_it_is(value: Message, data: bytes) -> None:
    for kind in TYPES:
        if kind is not type(value):
            with pytest.raises(MalformedError, match="type"):
                kind.parse(data)


@pytest.mark.parametrize(("value", "data"), EXAMPLES)
def test_another_major_version_is_malformed_and_another_minor_is_kept(value: Message, data: bytes) -> None:
    with pytest.raises(MalformedError, match="major version 2"):
        type(value).parse(b"\2\0" + data[2:])
    newer = data[:2] + b"\x09\0" + data[4:]
    assert type(value).parse(newer).to_bytes() == newer


def test_a_size_in_the_header_that_lies_is_malformed() -> None:
    with pytest.raises(MalformedError, match="says 17 bytes and has 16"):
        GetPlatformInfoRequest.parse(b"\1\0\1\0" + u32(4, 17, 0))


def test_sizes_beyond_the_message_are_malformed_without_being_believed() -> None:
    with pytest.raises(MalformedError, match="needs 4294967295 bytes"):
        GetQuoteRequest.parse(message(0, u32(0xFFFFFFFF, 0xFFFFFFFF) + REPORT))


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (GetQuoteRequest, message(0, u32(0, 0)), "empty"),
        (GetQuoteRequest, message(0, u32(1, 0) + b"r", error=1), "error code"),
        (GetCollateralRequest, message(2, u32(6, 0) + b"123456"), "empty"),
        (GetQuoteResponse, message(1, u32(0, 0)), "lacks data"),
        (GetQuoteResponse, message(1, u32(0, 1) + b"q", error=0x12001), "and data"),
        (GetCollateralResponse, message(3, bytes(32)), "lacks data"),
        (GetPlatformInfoResponse, message(5, bytes(12)), "lacks data"),
    ],
)
def test_contradictions_are_malformed(kind: type[Message], data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        kind.parse(data)


def test_a_frame_is_the_length_in_network_order_and_the_message() -> None:
    assert frame(b"x" * 258) == b"\0\0\1\2" + b"x" * 258


def test_a_header_is_read_whatever_it_says() -> None:
    data = bytes(range(16))
    assert Header.parse(data + b"more").to_bytes() == data


def test_error_codes_have_names() -> None:
    assert error_name(0x12006) == "INVALID_SIZE (0x12006)"
    assert error_name(5) == "unknown error (0x5)"
    assert [code.value for code in ErrorCode] == [0, *range(0x12001, 0x12008)]


@given(st.sampled_from(TYPES), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(kind: type[Message], data: bytes) -> None:
    try:
        value = kind.parse(data)
    except MalformedError as error:
        assert error.hint
    else:
        assert value.to_bytes() == data


@given(st.sampled_from(EXAMPLES), st.integers(0, 60), st.integers(0, 255))
def test_a_changed_byte_gives_another_message_or_is_malformed(
    example: tuple[Message, bytes], at: int, byte: int
) -> None:
    value, data = example
    changed = bytearray(data)
    changed[at % len(data)] = byte
    try:
        parsed = type(value).parse(bytes(changed))
    except MalformedError:
        return
    assert parsed.to_bytes() == changed


@given(st.binary(min_size=1), st.binary(), st.integers(0, 0xFFFF))
def test_requests_come_back_as_they_went(report: bytes, ids: bytes, minor: int) -> None:
    request = GetQuoteRequest(report, ids, minor)
    assert GetQuoteRequest.parse(request.to_bytes()) == request
