"""Reading of DER, as far as the certificates and revocation lists of Intel's attestation need it.

The X.509 library decides whether a certificate is well formed; this finds the bytes in it.
"""

from __future__ import annotations

from typing import Final

from tdxstack.errors import MalformedError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
VERSION: Final = 0xA0
"""The tag of a certificate's version, which is optional and comes first."""

_COMMON_NAME: Final = bytes.fromhex("550403")
_BMP_STRING: Final = 0x1E
_HINT = "the certificate is damaged"


def elements(data: bytes, what: str) -> list[tuple[int, bytes]]:
    """Tag and content of each element in `data`, one after the other. Raises `MalformedError`.

    Tags are one byte, lengths at most three bytes long: more than certificates and lists need.
    """
    return [(data[start], data[content:end]) for start, content, end in _spans(data, what)]


def pieces(data: bytes, what: str) -> list[bytes]:
    """Each element in `data` as it stands there, with tag and length. Raises `MalformedError`."""
    return [data[start:end] for start, _, end in _spans(data, what)]


def sequence(data: bytes, what: str) -> bytes:
    """The content of `data`, which is exactly one SEQUENCE. Raises `MalformedError`."""
    outer = elements(data, what)
    if len(outer) != 1 or outer[0][0] != SEQUENCE:
        raise MalformedError(f"{what} is not one DER sequence", hint=_HINT)
    return outer[0][1]


def signed_part(data: bytes, what: str) -> bytes:
    """The first element of a certificate or list, which its signature covers. Raises `MalformedError`."""
    _, start, end = header(data, 0, len(data), what)
    return data[start : header(data, start, end, what)[2]]


def common_name(name: bytes) -> str:
    """The first common name in a distinguished name, for people; "" if it has none that can be read."""
    try:
        for _, relative in elements(sequence(name, "name"), "name"):
            for identifier, tag, value in pairs(relative, "name"):
                if identifier == _COMMON_NAME:
                    return value.decode("utf-16-be" if tag == _BMP_STRING else "utf-8", "replace")
    except MalformedError:
        pass
    return ""


def header(data: bytes, at: int, limit: int, what: str) -> tuple[int, int, int]:
    """Of the element at offset `at`: its tag, where its content starts and ends. Raises `MalformedError`.

    The element must end by `limit`, which lies within `data`.
    """
    if at + 2 > limit:
        raise MalformedError(f"{what}: no DER element at offset {at}", hint=_HINT)
    content, length = at + 2, data[at + 1]
    if length >= 0x80:
        content += length - 0x80
        if not 0x81 <= length <= 0x83 or content > limit:
            raise MalformedError(f"{what}: no DER length at offset {at + 1}", hint=_HINT)
        length = int.from_bytes(data[at + 2 : content], "big")
    end = content + length
    if end > limit:
        raise MalformedError(
            f"{what}: element at offset {at} needs {length} bytes, {limit - content} are left", hint=_HINT
        )
    return data[at], content, end


def pairs(data: bytes, what: str) -> list[tuple[bytes, int, bytes]]:
    """Of SEQUENCEs that hold an object identifier and a value: the identifier, the value's tag and content.

    Raises `MalformedError` for anything else in `data`.
    """
    found = []
    at, size = 0, len(data)
    while at < size:
        tag, start, end = header(data, at, size, what)
        identifier_tag, identifier_start, identifier_end = header(data, start, end, what)
        value_tag, value_start, value_end = header(data, identifier_end, end, what)
        if (tag, identifier_tag, value_end) != (SEQUENCE, OBJECT_IDENTIFIER, end):
            raise MalformedError(f"{what}: the entry at offset {at} is no identifier and value", hint=_HINT)
        found.append((data[identifier_start:identifier_end], value_tag, data[value_start:value_end]))
        at = end
    return found


def _spans(data: bytes, what: str) -> list[tuple[int, int, int]]:
    """Offsets of each element's start, content and end."""
    spans = []
    at, size = 0, len(data)
    while at < size:
        _, content, end = header(data, at, size, what)
        spans.append((at, content, end))
        at = end
    return spans
