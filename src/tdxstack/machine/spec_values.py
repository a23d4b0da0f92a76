"""Values of a machine's specification as people write them, and what they are read into."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo

DIGEST_SIZE: Final = 48
"""Bytes in MRCONFIGID, MROWNER and MROWNERCONFIG (SHA-384 sized)."""

DIRECTORY: Final = "directory"
"""Key in the context of a validation: the directory that relative paths start from."""

TEXT: Final = "text"
"""Key in the context of a validation: the text that is validated, for the lines of what is wrong."""

_SIZE = re.compile(r"(\d{1,9}) ?(?:([MGT])(?:iB)?)?")
_MIB = {None: 1, "M": 1, "G": 1 << 10, "T": 1 << 20}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HEX = re.compile(r"[0-9a-fA-F]*")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_VSOCK = re.compile(r"vsock:(\d{1,10}):(\d{1,10})")
_MAX_U32 = (1 << 32) - 1
_MOST_CPUS = 4096
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\ufffe\uffff]")
"""Characters but the tabulator that are in no line of text, and that XML cannot have."""
_FORWARD = re.compile(r"(?:([0-9.]+):)?(\d{1,5}):(\d{1,5})(?:/(tcp|udp))?")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A quote generation service on a unix socket of the host."""

    path: Path


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A quote generation service on a vsock port; the context identifier 2 is the host."""

    cid: int
    port: int


@dataclass(frozen=True, slots=True)
class NoService:
    """No quote generation service: the TD gets no quotes from its VMM."""


QuoteAddress = UnixAddress | VsockAddress | NoService


def mebibytes(text: str) -> int:
    """The MiB that a size such as 2G, 512M or 2048 has. Raises `ValueError`, as validators do."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no size such as 2G, 512M or a number of MiB")
    return int(match[1]) * _MIB[match[2]]


def _size(value: object) -> object:
    return mebibytes(value) if isinstance(value, str) else value


def _digest(value: object) -> object:
    if isinstance(value, bytes):
        octets = value
    elif isinstance(value, str) and _HEX.fullmatch(value) and len(value) % 2 == 0:
        # Digits alone are never taken for base64: a SHA-256 in hexadecimal would pass for 48 bytes of it.
        octets = bytes.fromhex(value)
    elif isinstance(value, str):
        try:
            octets = base64.b64decode(value, validate=True)
        except ValueError:
            raise ValueError(f"{value[:100]!r} is neither hexadecimal nor base64") from None
    else:
        return value
    if len(octets) != DIGEST_SIZE:
        raise ValueError(f"{len(octets)} bytes, where TDX wants {DIGEST_SIZE} (in hexadecimal or base64)")
    return octets


def _mac(value: object) -> object:
    if not isinstance(value, str):
        return value
    mac = value.lower()
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{value[:40]!r} is no MAC address such as 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{value} is a multicast address, which no card can have")
    return mac


def _cpus(value: object) -> object:
    """Numbers as "0-3,8" says them."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MOST_CPUS:
            raise ValueError(f"{value[:40]!r} is no list of CPUs or nodes such as 0-3,8")
        numbers += range(first, last + 1)
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"{value[:40]!r} names one twice")
    return tuple(numbers)


def _quote_address(value: object) -> object:
    if isinstance(value, UnixAddress | VsockAddress | NoService):
        return value
    text = str(value)
    if text == "none":
        return NoService()
    if text.startswith("unix:/") and not _CONTROL.search(text):
        return UnixAddress(Path(text.removeprefix("unix:")))
    match = _VSOCK.fullmatch(text)
    if match is None or max(int(match[1]), int(match[2])) > _MAX_U32:
        raise ValueError(f"{text[:100]!r} is not unix:/PATH, vsock:CID:PORT or none")
    return VsockAddress(int(match[1]), int(match[2]))


def _quote_text(address: QuoteAddress) -> str:
    """What `_quote_address` reads."""
    if isinstance(address, UnixAddress):
        return f"unix:{address.path}"
    return f"vsock:{address.cid}:{address.port}" if isinstance(address, VsockAddress) else "none"


def _forward(value: object) -> object:
    """A mapping of what "[ADDRESS:]HOST:GUEST[/udp]" says."""
    if not isinstance(value, str):
        return value
    match = _FORWARD.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:60]!r} is not [ADDRESS:]HOST_PORT:GUEST_PORT[/udp]")
    address = {"address": match[1]} if match[1] else {}
    return address | {"host": match[2], "guest": match[3], "protocol": match[4] or "tcp"}


def _path_alone(value: object) -> object:
    """A path stands for a disk that has nothing else said of it."""
    return {"path": value} if isinstance(value, str | Path) else value


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text or _CONTROL.search(text):
        raise ValueError(f"{text[:100]!r} is no path")
    directory = info.context.get(DIRECTORY) if isinstance(info.context, dict) else None
    return directory / text if directory is not None else Path(text)


def one_line(value: str) -> str:
    """`value`, if it is one line of text. Raises `ValueError`, as validators do."""
    if any(character in value for character in "\r\n"):
        raise ValueError("more than one line")
    if _CONTROL.search(value):
        raise ValueError("has a control character")
    return value


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(f"{value[:40]!r} is no IPv4 address") from None


def _line(value: object) -> object:
    return one_line(value) if isinstance(value, str) else value


def _before(read: Callable[[object], object]) -> BeforeValidator:
    return BeforeValidator(read)


MiB = Annotated[int, _before(_size)]
"""Memory in MiB, also as "2G"."""

Digest = Annotated[bytes, _before(_digest), PlainSerializer(bytes.hex, when_used="json")]
Mac = Annotated[str, _before(_mac)]
Cpus = Annotated[tuple[int, ...], _before(_cpus)]
QuoteService = Annotated[
    QuoteAddress, _before(_quote_address), PlainSerializer(_quote_text, when_used="json")
]
FilePath = Annotated[Path, BeforeValidator(_path)]
Line = Annotated[str, _before(_line)]
Ipv4 = Annotated[str, AfterValidator(_ipv4)]
FORWARD_TEXT = _before(_forward)
PATH_ALONE = _before(_path_alone)
