"""What an ELF file of x86-64 says it is linked with. Source: the System V ABI, chapters 4 and 5."""

from __future__ import annotations

import struct

from tdxstack.errors import MalformedError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_NULL, _NEEDED, _STRING_TABLE = 0, 1, 5
_MAX_NAME = 255


def needed(data: bytes) -> list[str]:
    """The names of the libraries (DT_NEEDED) that `data` asks the dynamic loader for; none if it is static.

    Raises `MalformedError` for anything that is no whole ELF file of 64 bits.
    """
    try:
        return _needed(data)
    except (struct.error, OverflowError, ValueError):
        raise MalformedError(
            "a program of the guest is no ELF file of x86-64 that can be read",
            hint="use a distribution for amd64, and another --mirror if this one's packages are damaged",
        ) from None


def _needed(data: bytes) -> list[str]:
    header = _HEADER.unpack_from(data)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ValueError
    start, size, count = header[5], header[9], header[10]
    segments = [_PROGRAM.unpack_from(data, start + number * size) for number in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == _DYNAMIC_SEGMENT), None)
    if dynamic is None:
        return []
    names, strings = [], 0
    end = min(dynamic[2] + dynamic[5], len(data) - _DYNAMIC.size + 1)
    for place in range(dynamic[2], end, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(data, place)
        if tag == _NULL:
            break
        if tag == _NEEDED:
            names.append(value)
        elif tag == _STRING_TABLE:
            strings = _offset(segments, value)
    return [_text(data, strings + name) for name in names]


def _offset(segments: list[tuple[int, ...]], address: int) -> int:
    """Where in the file lies what is loaded to `address`."""
    for kind, _, offset, start, _, size, *_ in segments:
        if kind == _LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError


def _text(data: bytes, place: int) -> str:
    end = data.index(0, place, place + _MAX_NAME + 1)
    return data[place:end].decode("ascii")
