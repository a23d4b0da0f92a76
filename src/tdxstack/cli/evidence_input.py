"""Evidence as people hand it over: a file or standard input, in binary, hexadecimal digits or base64."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from pathlib import Path
from typing import BinaryIO

from tdxstack.errors import MalformedError, UsageError

MAX_SIZE = 16 << 20
"""Bytes of input that are read; quotes, reports and event logs are far smaller."""

STDIN = "-"

_PIECE = 1 << 16

_SPACE = b" \t\r\n\f\v"
_HEX = re.compile(rb"[0-9a-fA-F]+")
_BASE64 = re.compile(rb"[0-9a-zA-Z+/_-]+={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def read_evidence(source: str) -> bytes:
    """The bytes of `source`, a file's name or "-" for standard input, decoded by `decode_evidence`.

    Raises `UsageError` if it cannot be read, and `MalformedError` if it is empty or holds more than
    `MAX_SIZE` bytes.
    """
    try:
        if source == STDIN:
            data = _read_bounded(sys.stdin.buffer)
        else:
            with Path(source).open("rb") as file:
                data = _read_bounded(file)
    except OSError as error:
        raise UsageError(
            f"{source}: {error.strerror}", hint="give a file that you may read, or - for standard input"
        ) from None
    name = "standard input" if source == STDIN else source
    if not data:
        raise MalformedError(f"{name} is empty", hint="give a quote, report or event log")
    if len(data) > MAX_SIZE:
        raise MalformedError(
            f"{name} is longer than {MAX_SIZE >> 20} MiB", hint="no quote, report or event log is that long"
        )
    return decode_evidence(data)


def _read_bounded(file: BinaryIO) -> bytes:
    """Up to one byte more than `MAX_SIZE`, in pieces: one large read would reserve all of it each time."""
    parts, left = [], MAX_SIZE + 1
    while left and (part := file.read(min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def decode_evidence(data: bytes) -> bytes:
    """`data`, decoded if it is nothing but hexadecimal digits (0x before them or not) or base64.

    Line ends do not count, nor spaces between digits; base64 may be of the URL-safe alphabet and lack its
    padding. Text that is both, is hexadecimal. Everything else is taken as it is.
    """
    digits = data.translate(None, _SPACE)
    digits = digits[2:] if digits[:2] in (b"0x", b"0X") else digits
    if _HEX.fullmatch(digits) and len(digits) % 2 == 0:
        return binascii.unhexlify(digits)
    text = data.strip(_SPACE).translate(None, b"\r\n")
    if _BASE64.fullmatch(text) and len(text.rstrip(b"=")) % 4 != 1:
        bare = text.rstrip(b"=").translate(_URL_SAFE)
        return base64.b64decode(bare + b"=" * (-len(bare) % 4))
    return data
