"""Structures of one fixed layout: all fields in one `struct` call, and lengths checked when packing."""

from __future__ import annotations

import struct
from typing import Any

from tdxstack.abi.binary import exactly
from tdxstack.errors import MalformedError


def unpack(layout: struct.Struct, data: bytes | memoryview, what: str) -> tuple[Any, ...]:
    """The fields of `data`, which has exactly the layout's size. Raises `MalformedError` otherwise."""
    return layout.unpack(exactly(bytes(data), layout.size, what))


def pack(layout: struct.Struct, values: tuple[object, ...], what: str) -> bytes:
    """The bytes of `values`. Raises `MalformedError` if a number or byte field does not fill its place."""
    try:
        data = layout.pack(*values)
    except struct.error as error:
        raise MalformedError(
            f"{what}: {error}", hint="a field is out of range or of the wrong type"
        ) from error
    # struct pads and cuts byte strings silently; what was packed must come back unchanged.
    for index, (given, packed) in enumerate(zip(values, layout.unpack(data), strict=True)):
        if given != packed:
            size = len(given) if isinstance(given, bytes) else given
            raise MalformedError(
                f"{what}: field {index} has {size} bytes, not {len(packed)}",
                hint="give each field in full size",
            )
    return data
