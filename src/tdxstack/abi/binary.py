"""A bounds-checked reader for little-endian structures. Every short read is a `MalformedError`."""

from __future__ import annotations

from tdxstack.errors import MalformedError

HINT = "the data is cut short or is not what it is taken for"


class Reader:
    """Reads `data` from front to back. `what` names the structure in errors, as in "TD quote"."""

    __slots__ = ("_data", "offset", "what")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data).cast("B")
        self.what = what
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.offset

    def take(self, size: int, field: str) -> bytes:
        """The next `size` bytes, copied."""
        return bytes(self.view(size, field))

    def view(self, size: int, field: str) -> memoryview:
        """The next `size` bytes, not copied: for parts that are read further."""
        if not 0 <= size <= self.remaining:
            raise MalformedError(
                f"{self.what}: {field} needs {size} bytes at offset {self.offset}, {self.remaining} are left",
                hint=HINT,
            )
        start = self.offset
        self.offset += size
        return self._data[start : self.offset]

    def peek(self, size: int) -> bytes:
        """Up to `size` bytes from here, copied, without reading them."""
        return bytes(self._data[self.offset : self.offset + size])

    def rest(self) -> bytes:
        """All bytes not read yet, copied."""
        return self.take(self.remaining, "rest")

    def u8(self, field: str) -> int:
        """The next byte."""
        return self.take(1, field)[0]

    def u16(self, field: str) -> int:
        """The next 2 bytes, little-endian."""
        return int.from_bytes(self.take(2, field), "little")

    def u32(self, field: str) -> int:
        """The next 4 bytes, little-endian."""
        return int.from_bytes(self.take(4, field), "little")

    def u64(self, field: str) -> int:
        """The next 8 bytes, little-endian."""
        return int.from_bytes(self.take(8, field), "little")

    def end(self) -> None:
        """Raise `MalformedError` unless every byte has been read."""
        if self.remaining:
            raise MalformedError(
                f"{self.what}: {self.remaining} bytes follow the end at offset {self.offset}",
                hint="cut the data to the structure's own size",
            )


def exactly(data: bytes, size: int, what: str) -> bytes:
    """`data` itself, if it has `size` bytes; else `MalformedError`."""
    if len(data) != size:
        raise MalformedError(f"{what} is {len(data)} bytes long, not {size}", hint=HINT)
    return data
