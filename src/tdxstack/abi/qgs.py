"""Messages of the quote generation service (QGS), which turns TDREPORTs into quotes.

Source: Intel DCAP, `qgs_msg_lib.h` and `qgs_msg_lib.cpp` (messages), `qgs_server.cpp` (framing). On a stream
each message follows its own length (4 bytes, big-endian); every number inside a message is little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

LENGTH_PREFIX_SIZE: Final = 4
HEADER_SIZE: Final = 16
MAJOR_VERSION: Final = 1
MINOR_VERSION: Final = 1

MAX_REQUEST_SIZE: Final = 4092
"""Bytes; qgsd reads a request and its length prefix into a buffer of 4096."""

MAX_RESPONSE_SIZE: Final = 1 << 20
"""Bytes; well above the largest quote (128 KiB) and above collateral with a long CRL."""

PADDING_SIZE: Final = 4
"""`qgs_msg_lib` counts two 16-bit fields twice in some responses and so appends four zero bytes."""

_HEADER = struct.Struct("<HHIII")
_COLLATERAL_PARTS = (
    "PCK CRL issuer chain",
    "root CA CRL",
    "PCK CRL",
    "TCB info issuer chain",
    "TCB info",
    "QE identity issuer chain",
    "QE identity",
)
_NO_MESSAGE_HINT = "the peer does not speak the QGS protocol, or speaks another version of it"


class MessageType(IntEnum):
    """`qgs_msg_type_t`: a request is even, its response is the next number."""

    GET_QUOTE_REQUEST = 0
    GET_QUOTE_RESPONSE = 1
    GET_COLLATERAL_REQUEST = 2
    GET_COLLATERAL_RESPONSE = 3
    GET_PLATFORM_INFO_REQUEST = 4
    GET_PLATFORM_INFO_RESPONSE = 5


class ErrorCode(IntEnum):
    """`qgs_msg_error_t`, in the header of a response."""

    SUCCESS = 0
    UNEXPECTED = 0x12001
    OUT_OF_MEMORY = 0x12002
    INVALID_PARAMETER = 0x12003
    INVALID_VERSION = 0x12004
    INVALID_TYPE = 0x12005
    INVALID_SIZE = 0x12006
    INVALID_CODE = 0x12007


def frame(message: bytes) -> bytes:
    """`message` behind its length, as it goes onto a stream."""
    return len(message).to_bytes(LENGTH_PREFIX_SIZE, "big") + message


def error_name(code: int) -> str:
    """An error code as people read it: its name where it has one, and the number."""
    try:
        return f"{ErrorCode(code).name} ({code:#x})"
    except ValueError:
        return f"unknown error ({code:#x})"


@dataclass(frozen=True, slots=True)
class Header:
    """The first 16 bytes of a message: u16 major, u16 minor, u32 type, u32 size of it all, u32 error code."""

    type: int
    size: int
    error_code: int = 0
    major_version: int = MAJOR_VERSION
    minor_version: int = MINOR_VERSION

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Header:
        """Read the first 16 bytes of a message. Raises `MalformedError` if there are fewer.

        Version, type and size are not judged here: a server answers what it does not know.
        """
        major, minor, kind, size, error = _HEADER.unpack(
            Reader(data, "QGS message").take(HEADER_SIZE, "header")
        )
        return cls(kind, size, error, major, minor)

    def to_bytes(self) -> bytes:
        """The 16 bytes."""
        return _HEADER.pack(self.major_version, self.minor_version, self.type, self.size, self.error_code)


@dataclass(frozen=True, slots=True)
class GetQuoteRequest:
    """Header, u32 report size, u32 id list size, report, id list (both opaque here)."""

    report: bytes
    id_list: bytes = b""
    minor_version: int = MINOR_VERSION

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetQuoteRequest:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_QUOTE_REQUEST)
        report_size, id_list_size = body.u32("report size"), body.u32("id list size")
        report, id_list = body.take(report_size, "report"), body.take(id_list_size, "id list")
        body.end()
        _require(bool(report), "get_quote request: the report is empty")
        return cls(report, id_list, header.minor_version)

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        return _close(
            MessageType.GET_QUOTE_REQUEST,
            _u32s(len(self.report), len(self.id_list)) + self.report + self.id_list,
            minor_version=self.minor_version,
        )


@dataclass(frozen=True, slots=True)
class GetQuoteResponse:
    """Header, u32 selected id size, u32 quote size, selected id, quote. Both are empty in an error."""

    quote: bytes = b""
    selected_id: bytes = b""
    error_code: int = 0
    minor_version: int = MINOR_VERSION

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetQuoteResponse:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_QUOTE_RESPONSE)
        id_size, quote_size = body.u32("selected id size"), body.u32("quote size")
        selected_id, quote = body.take(id_size, "selected id"), body.take(quote_size, "quote")
        body.end()
        _require_either(header.error_code, quote, quote or selected_id, "get_quote response")
        return cls(quote, selected_id, header.error_code, header.minor_version)

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        return _close(
            MessageType.GET_QUOTE_RESPONSE,
            _u32s(len(self.selected_id), len(self.quote)) + self.selected_id + self.quote,
            error_code=self.error_code,
            minor_version=self.minor_version,
        )


@dataclass(frozen=True, slots=True)
class GetCollateralRequest:
    """Header, u32 FMSPC size, u32 PCK CA size, FMSPC (6 bytes), PCK CA ("platform", usually with a NUL)."""

    fmspc: bytes
    pck_ca: bytes
    minor_version: int = MINOR_VERSION

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetCollateralRequest:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_COLLATERAL_REQUEST)
        fmspc_size, ca_size = body.u32("FMSPC size"), body.u32("PCK CA size")
        fmspc, pck_ca = body.take(fmspc_size, "FMSPC"), body.take(ca_size, "PCK CA")
        body.end()
        _require(bool(fmspc and pck_ca), "get_collateral request: FMSPC or PCK CA is empty")
        return cls(fmspc, pck_ca, header.minor_version)

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        return _close(
            MessageType.GET_COLLATERAL_REQUEST,
            _u32s(len(self.fmspc), len(self.pck_ca)) + self.fmspc + self.pck_ca,
            minor_version=self.minor_version,
        )


@dataclass(frozen=True, slots=True)
class GetCollateralResponse:
    """Header, u16 major and u16 minor version of the collateral, seven u32 sizes, and the seven parts.

    Version 3.0 has CRLs as hex of DER, 3.1 as DER. The chains are PEM; TCB info and QE identity are the
    signed JSON documents of the PCS; strings may end with a NUL. `padding` is four zero bytes when the
    request's minor version was 0, else nothing.
    """

    pck_crl_issuer_chain: bytes = b""
    root_ca_crl: bytes = b""
    pck_crl: bytes = b""
    tcb_info_issuer_chain: bytes = b""
    tcb_info: bytes = b""
    qe_identity_issuer_chain: bytes = b""
    qe_identity: bytes = b""
    collateral_major: int = 0
    collateral_minor: int = 0
    error_code: int = 0
    minor_version: int = MINOR_VERSION
    padding: bytes = b""

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The seven parts in wire order."""
        return (
            self.pck_crl_issuer_chain,
            self.root_ca_crl,
            self.pck_crl,
            self.tcb_info_issuer_chain,
            self.tcb_info,
            self.qe_identity_issuer_chain,
            self.qe_identity,
        )

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetCollateralResponse:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_COLLATERAL_RESPONSE)
        major, minor = body.u16("collateral major version"), body.u16("collateral minor version")
        sizes = [body.u32(f"{part} size") for part in _COLLATERAL_PARTS]
        parts = [body.take(size, part) for size, part in zip(sizes, _COLLATERAL_PARTS, strict=True)]
        padding = _padding(body)
        _require_either(header.error_code, all(parts), any(parts), "get_collateral response")
        pck_chain, root_crl, pck_crl, tcb_chain, tcb_info, qe_chain, qe_identity = parts
        return cls(
            pck_crl_issuer_chain=pck_chain,
            root_ca_crl=root_crl,
            pck_crl=pck_crl,
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=tcb_info,
            qe_identity_issuer_chain=qe_chain,
            qe_identity=qe_identity,
            collateral_major=major,
            collateral_minor=minor,
            error_code=header.error_code,
            minor_version=header.minor_version,
            padding=padding,
        )

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        versions = struct.pack("<HH", self.collateral_major, self.collateral_minor)
        sizes = _u32s(*(len(part) for part in self.parts))
        return _close(
            MessageType.GET_COLLATERAL_RESPONSE,
            versions + sizes + b"".join(self.parts) + self.padding,
            error_code=self.error_code,
            minor_version=self.minor_version,
        )


@dataclass(frozen=True, slots=True)
class GetPlatformInfoRequest:
    """Only a header."""

    minor_version: int = MINOR_VERSION

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetPlatformInfoRequest:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_PLATFORM_INFO_REQUEST)
        body.end()
        return cls(header.minor_version)

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        return _close(MessageType.GET_PLATFORM_INFO_REQUEST, b"", minor_version=self.minor_version)


@dataclass(frozen=True, slots=True)
class GetPlatformInfoResponse:
    """Header, u16 TD QE ISVSVN, u16 PCE ISVSVN, u32 platform id size, u32 CPUSVN size, platform id, CPUSVN.

    The platform id is the QE ID (16 bytes). `padding` is four zero bytes in a success and nothing in an
    error, as `qgs_msg_lib` writes it; its reader demands them always and calls an error a wrong size.
    """

    qe_isvsvn: int = 0
    pce_isvsvn: int = 0
    platform_id: bytes = b""
    cpusvn: bytes = b""
    error_code: int = 0
    minor_version: int = MINOR_VERSION
    padding: bytes = b""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> GetPlatformInfoResponse:
        """Read one whole message. Raises `MalformedError`."""
        header, body = _open(data, MessageType.GET_PLATFORM_INFO_RESPONSE)
        qe_isvsvn, pce_isvsvn = body.u16("TD QE ISVSVN"), body.u16("PCE ISVSVN")
        id_size, cpusvn_size = body.u32("platform id size"), body.u32("CPUSVN size")
        platform_id, cpusvn = body.take(id_size, "platform id"), body.take(cpusvn_size, "CPUSVN")
        padding = _padding(body)
        _require_either(
            header.error_code, platform_id and cpusvn, platform_id or cpusvn, "get_platform_info response"
        )
        return cls(
            qe_isvsvn, pce_isvsvn, platform_id, cpusvn, header.error_code, header.minor_version, padding
        )

    def to_bytes(self) -> bytes:
        """The message, without length prefix."""
        versions = struct.pack("<HH", self.qe_isvsvn, self.pce_isvsvn)
        sizes = _u32s(len(self.platform_id), len(self.cpusvn))
        return _close(
            MessageType.GET_PLATFORM_INFO_RESPONSE,
            versions + sizes + self.platform_id + self.cpusvn + self.padding,
            error_code=self.error_code,
            minor_version=self.minor_version,
        )


def _open(data: bytes | memoryview, expected: MessageType) -> tuple[Header, Reader]:
    """The header of a message of the expected type, and a reader of what follows it."""
    name = expected.name.lower().replace("_", " ")
    header = Header.parse(data)
    _require(
        header.major_version == MAJOR_VERSION, f"QGS message has major version {header.major_version}, not 1"
    )
    _require(header.type == expected, f"QGS message has type {header.type}, not {expected.value} ({name})")
    _require(header.size == len(data), f"QGS {name} says {header.size} bytes and has {len(data)}")
    is_request = expected % 2 == 0
    _require(not (is_request and header.error_code), f"QGS {name} carries error code {header.error_code:#x}")
    body = Reader(data, f"QGS {name}")
    body.take(HEADER_SIZE, "header")
    return header, body


def _close(kind: MessageType, body: bytes, *, minor_version: int, error_code: int = 0) -> bytes:
    header = Header(kind, HEADER_SIZE + len(body), error_code, MAJOR_VERSION, minor_version)
    return header.to_bytes() + body


def _padding(body: Reader) -> bytes:
    padding = body.take(PADDING_SIZE, "padding") if body.remaining == PADDING_SIZE else b""
    body.end()
    return padding


def _u32s(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MalformedError(message, hint=_NO_MESSAGE_HINT)


def _require_either(error_code: int, complete: object, present: object, name: str) -> None:
    """A success has its parts, an error has none of them."""
    if error_code:
        _require(not present, f"QGS {name} has error code {error_code:#x} and data")
    else:
        _require(bool(complete), f"QGS {name} reports success and lacks data")
