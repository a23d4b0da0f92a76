"""Firmware volumes: the files inside a firmware image, also those that are packed.

Sources: UEFI Platform Initialization specification 1.8, volume 3, chapters 2 and 3; the LZMA section's
GUID is edk2's MdeModulePkg/Include/Guid/LzmaDecompress.h. All integers are little-endian.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import MalformedError

SIGNATURE = b"_FVH"
SIGNATURE_OFFSET = 40
HEADER_SIZE = 56
SCAN_STEP = 4096
"""Volumes in an image start at multiples of this many bytes."""

FILE_HEADER_SIZE, LARGE_FILE_HEADER_SIZE = 24, 32
FILE_ALIGNMENT, SECTION_ALIGNMENT = 8, 4
ATTRIBUTE_LARGE_FILE = 0x01
FILE_TYPE_PADDING = 0xF0
FREE = b"\xff" * FILE_HEADER_SIZE
"""What follows the last file. A padding file has a name of ones too, but a size."""

SECTION_GUID_DEFINED = 0x02
SECTION_PE32, SECTION_TE = 0x10, 0x12
SECTION_USER_INTERFACE = 0x15
SECTION_VOLUME_IMAGE = 0x17
GUID_DEFINED_HEADER_SIZE = 20

NV_DATA = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
"""File system of the volume that holds the UEFI variables instead of files."""
FFS2 = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
FFS3 = UUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
LZMA = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")

MAX_DEPTH = 8
MAX_UNPACKED = 64 << 20
"""Bytes that one image may unpack to; edk2's volumes have 12 MiB."""

DAMAGED = "the firmware image is damaged"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume: its GUID, the text of its user interface section, and its PE32 or TE section."""

    name: UUID
    type: int
    label: str | None
    code: bytes | None


@dataclass(frozen=True, slots=True)
class Volume:
    """One firmware volume.

    `offset` is that in the image, None for a volume that was packed into another one. `name` is the
    GUID in the extended header. `data` are all its bytes.
    """

    name: UUID | None
    filesystem: UUID
    offset: int | None
    data: bytes
    files: tuple[File, ...]

    def file(self, name: UUID) -> File | None:
        """The file with that GUID, or None."""
        return next((file for file in self.files if file.name == name), None)


def volumes(image: bytes) -> tuple[Volume, ...]:
    """All volumes of an image, each followed by those that are packed into it.

    Raises `MalformedError` for a volume that claims more than there is. Sections of unknown kinds are
    passed over.
    """
    found: list[Volume] = []
    budget = _Budget(MAX_UNPACKED)
    at = 0
    while at + HEADER_SIZE <= len(image):
        if image[at + SIGNATURE_OFFSET :][:4] != SIGNATURE:
            at += SCAN_STEP
            continue
        volume, nested = _volume(image[at:], at, budget, 0)
        found += [volume, *nested]
        at += -(-len(volume.data) // SCAN_STEP) * SCAN_STEP
    return tuple(found)


class _Budget:
    """What may still be unpacked, in bytes."""

    def __init__(self, left: int) -> None:
        self._left = left

    def unpack(self, data: bytes) -> bytes:
        """The content of an LZMA section."""
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
        try:
            unpacked = decompressor.decompress(data, self._left + 1)
        except (lzma.LZMAError, EOFError):
            raise _bad("a compressed section cannot be unpacked") from None
        self._left -= len(unpacked)
        if self._left < 0:
            raise _bad(f"it unpacks to more than {MAX_UNPACKED} bytes")
        if not decompressor.eof:
            raise _bad("a compressed section is cut short")
        return unpacked


def _volume(data: bytes, offset: int | None, budget: _Budget, depth: int) -> tuple[Volume, list[Volume]]:
    """The volume at the start of `data`, and those inside it."""
    place = f"volume at 0x{offset:x}" if offset is not None else "packed volume"
    filesystem = UUID(bytes_le=data[16:32])
    size = _integer(data[32:40])
    header_size, extended = _integer(data[48:50]), _integer(data[52:54])
    if not HEADER_SIZE <= header_size <= size <= len(data) or extended + 20 > size:
        raise _bad(f"the {place} claims 0x{size:x} bytes, 0x{len(data):x} are left")
    data = data[:size]
    name, start = None, header_size
    if extended:
        name = UUID(bytes_le=data[extended : extended + 16])
        start = extended + _integer(data[extended + 16 : extended + 20])
    files: list[File] = []
    nested: list[Volume] = []
    if filesystem in (FFS2, FFS3):
        for kind, guid, body in _files(data, start, place):
            sections = list(_sections(body, budget, depth)) if kind != FILE_TYPE_PADDING else []
            files.append(_file(guid, kind, sections))
            for section_type, section in sections:
                if section_type == SECTION_VOLUME_IMAGE and section[SIGNATURE_OFFSET:][:4] == SIGNATURE:
                    inner, deeper = _volume(section, None, budget, depth + 1)
                    nested += [inner, *deeper]
    return Volume(name, filesystem, offset, data, tuple(files)), nested


def _files(data: bytes, start: int, place: str) -> Iterator[tuple[int, UUID, bytes]]:
    """(type, GUID, body) of each file of a volume."""
    at = _align(start, FILE_ALIGNMENT)
    while at + FILE_HEADER_SIZE <= len(data) and data[at : at + FILE_HEADER_SIZE] != FREE:
        header, size = FILE_HEADER_SIZE, _integer(data[at + 20 : at + 23])
        if data[at + 19] & ATTRIBUTE_LARGE_FILE:
            header, size = LARGE_FILE_HEADER_SIZE, _integer(data[at + 24 : at + 32])
        if not header <= size <= len(data) - at:
            raise _bad(f"a file of the {place} claims 0x{size:x} bytes at offset 0x{at:x}")
        yield data[at + 18], UUID(bytes_le=data[at : at + 16]), data[at + header : at + size]
        at = _align(at + size, FILE_ALIGNMENT)


def _sections(body: bytes, budget: _Budget, depth: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each section, those inside packed sections included. What is no section ends it."""
    if depth > MAX_DEPTH:
        raise _bad(f"sections are nested more than {MAX_DEPTH} deep")
    at = 0
    while at + 4 <= len(body):
        header, size, kind = 4, _integer(body[at : at + 3]), body[at + 3]
        if size == 0xFFFFFF:
            header, size = 8, _integer(body[at + 4 : at + 8])
        if not header <= size <= len(body) - at:
            return  # a raw file has no sections
        content = body[at + header : at + size]
        if kind == SECTION_GUID_DEFINED and len(content) >= GUID_DEFINED_HEADER_SIZE:
            packed = content[max(0, _integer(content[16:18]) - header) :]
            if UUID(bytes_le=content[:16]) == LZMA:
                yield from _sections(budget.unpack(packed), budget, depth + 1)
        else:
            yield kind, content
        at = _align(at + size, SECTION_ALIGNMENT)


def _file(name: UUID, kind: int, sections: list[tuple[int, bytes]]) -> File:
    contents = dict(reversed(sections))
    label = contents.get(SECTION_USER_INTERFACE)
    text = label.decode("utf-16-le", "replace").partition("\0")[0] if label is not None else None
    return File(name, kind, text, contents.get(SECTION_PE32, contents.get(SECTION_TE)))


def _align(offset: int, to: int) -> int:
    return -(-offset // to) * to


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"firmware volumes: {problem}", hint=DAMAGED)
