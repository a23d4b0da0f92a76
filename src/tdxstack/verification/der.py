"""Reading of DER, as far as the SGX extension of PCK certificates needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tdxstack.errors import MalformedError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

_HINT = "the certificate is damaged"


def elements(data: bytes, what: str) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element in `data`, one after the other. Raises `MalformedError`.

    Tags are one byte, lengths at most two bytes long: more than any certificate extension needs.
    """
    at, size = 0, len(data)
    while at < size:
        header = data[at : at + 4]
        length = header[1] if len(header) > 1 else 0xFF
        start = at + 2
        if length >= 0x80:
            extra = length - 0x80
            if extra not in (1, 2) or len(header) < 2 + extra:
                raise MalformedError(f"{what}: no DER length at offset {at + 1}", hint=_HINT)
            length = int.from_bytes(header[2 : 2 + extra], "big")
            start += extra
        at = start + length
        if at > size:
            raise MalformedError(
                f"{what}: element at offset {start} needs {length} bytes, {size - start} are left", hint=_HINT
            )
        yield header[0], data[start:at]


def sequence(data: bytes, what: str) -> list[tuple[int, bytes]]:
    """The elements of `data`, which is exactly one SEQUENCE. Raises `MalformedError`."""
    outer = list(elements(data, what))
    if len(outer) != 1 or outer[0][0] != SEQUENCE:
        raise MalformedError(f"{what} is not one DER sequence", hint=_HINT)
    return list(elements(outer[0][1], what))
