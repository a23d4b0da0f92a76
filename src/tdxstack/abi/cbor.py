"""CBOR (RFC 8949) as evidence is written in it: items of definite length, read once from front to back."""

from __future__ import annotations

import struct

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError


class MajorType:
    """The first three bits of an item."""

    UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)


MAX_DEPTH = 16
_SIMPLE_VALUES = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_HINT = "the data is damaged, or CBOR of a kind that is not read"


def read_head(reader: Reader) -> tuple[int, int, int]:
    """Of the next item the major type, the additional information (5 bits) and the argument."""
    at = reader.offset
    first = reader.u8("CBOR item")
    major, info = first >> 5, first & 0x1F
    if info < 24:
        return major, info, info
    if info > 27:
        kind = "of indefinite length" if info == 31 else "of a reserved kind"
        raise MalformedError(f"{reader.what}: CBOR item 0x{first:02x} at offset {at} is {kind}", hint=_HINT)
    return major, info, int.from_bytes(reader.take(1 << (info - 24), "argument of a CBOR item"), "big")


def read_item(reader: Reader, limit: int) -> object:
    """The next item with all in it: None, bool, int, float, str, bytes, list or dict. Tags are left out.

    Raises `MalformedError` where it is made of more than `limit` items, or of more than 16 in each other.
    """
    return _Items(reader, limit).read(0)


class _Items:
    """Reads items and counts them."""

    def __init__(self, reader: Reader, limit: int) -> None:
        self.reader, self.limit, self.count = reader, limit, 0

    def read(self, depth: int) -> object:
        at = self.reader.offset
        self.count += 1
        if self.count > self.limit or depth > MAX_DEPTH:
            many = f"more than {self.limit} CBOR items" if self.count > self.limit else "CBOR items too deep"
            raise MalformedError(f"{self.reader.what}: {many} up to offset {at}", hint=_HINT)
        major, info, argument = read_head(self.reader)
        match major:
            case MajorType.UNSIGNED:
                return argument
            case MajorType.NEGATIVE:
                return -1 - argument
            case MajorType.BYTES:
                return self.reader.take(argument, "CBOR byte string")
            case MajorType.TEXT:
                return self._text(argument)
            case MajorType.ARRAY:
                return [self.read(depth + 1) for _ in range(argument)]
            case MajorType.MAP:
                return self._map(argument, depth)
            case MajorType.TAG:
                return self.read(depth + 1)
        if info in _FLOATS:
            return float(struct.unpack(_FLOATS[info], argument.to_bytes(1 << (info - 24), "big"))[0])
        if argument in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[argument]
        raise self._refusal(f"simple value {argument}", at)

    def _text(self, size: int) -> str:
        at = self.reader.offset
        try:
            return str(self.reader.view(size, "CBOR text"), "utf-8")
        except UnicodeDecodeError:
            raise self._refusal("text that is no UTF-8", at) from None

    def _map(self, size: int, depth: int) -> dict[object, object]:
        members: dict[object, object] = {}
        for _ in range(size):
            at = self.reader.offset
            key = self.read(depth + 1)
            if type(key) not in (int, str, bytes) or key in members:
                raise self._refusal("a key that is there twice, or no number and no string", at)
            members[key] = self.read(depth + 1)
        return members

    def _refusal(self, what: str, at: int) -> MalformedError:
        return MalformedError(f"{self.reader.what}: {what} at offset {at}", hint=_HINT)
