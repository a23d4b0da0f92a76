"""The SMBIOS table as edk2 publishes it in a TD, and the part of it that is measured.

Sources: SMBIOS specification 3.7, chapter 6; edk2 OvmfPkg/SmbiosPlatformDxe,
MdeModulePkg/Universal/SmbiosDxe and SmbiosMeasurementDxe. All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.errors import MalformedError

BIOS_INFORMATION = 0
END_OF_TABLE = 127
OEM_BEGIN = 128

HEADER_SIZE = 4
END_HANDLE = 0xFEFF

BIOS_INFORMATION_BODY = bytes.fromhex("010200e803000800000000000000001c0000ffff0000")
"""What OvmfPkg/SmbiosPlatformDxe states behind the header: strings 1 to 3, segment 0xE800, a virtual
machine with UEFI, no versions."""

UNMEASURED = frozenset({11, 15, 18, 31, 33})
"""Types of which edk2 measures the header alone; so it does for every type from 128 on."""

MASKED_STRINGS: dict[int, tuple[int, ...]] = {
    1: (0x07,),
    2: (0x07,),
    3: (0x07, 0x08),
    4: (0x20, 0x21, 0x22),
    17: (0x18, 0x19, 0x1A),
    22: (0x07,),
    39: (0x08, 0x09, 0x0A),
}
"""By type, offsets of string numbers: edk2 blanks the string and zeroes the number."""

MASKED_FIELDS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0x08, 16), (0x18, 1)),
    2: ((0x0A, 1),),
    4: ((0x23, 1), (0x24, 1), (0x25, 1), (0x2A, 2), (0x2C, 2), (0x2E, 2), (0x11, 1), (0x16, 2)),
    22: ((0x10, 2), (0x12, 2)),
    23: ((0x05, 2),),
    27: ((0x0C, 2),),
}
"""By type, (offset, size) of fields that edk2 zeroes."""

DAMAGED = "QEMU's SMBIOS tables are damaged"


@dataclass(frozen=True, slots=True)
class FirmwareStrings:
    """What a firmware says of itself in the BIOS information structure."""

    vendor: str
    version: str
    date: str


def structures(table: bytes) -> Iterator[bytes]:
    """Each structure of a table with its strings. Raises `MalformedError` where one has no end."""
    at = 0
    while at < len(table):
        length = table[at + 1] if at + HEADER_SIZE <= len(table) else 0
        end = table.find(b"\0\0", at + length)
        if length < HEADER_SIZE or end < 0:
            raise MalformedError(f"SMBIOS: the structure at offset {at} has no end", hint=DAMAGED)
        yield table[at : end + 2]
        at = end + 2


def published(qemu: bytes, firmware: FirmwareStrings) -> bytes:
    """The table that the operating system sees: QEMU's structures, the firmware's own, the end."""
    found = [structure for structure in structures(qemu) if structure[0] != END_OF_TABLE]
    if not any(structure[0] == BIOS_INFORMATION for structure in found):
        handles = {_handle(structure) for structure in found}
        free = next(handle for handle in range(0xFEFF) if handle not in handles)
        strings = b"".join(
            text.encode("ascii", "replace") + b"\0"
            for text in (firmware.vendor, firmware.version, firmware.date)
        )
        found.append(_structure(BIOS_INFORMATION, free, BIOS_INFORMATION_BODY) + strings + b"\0")
    found.append(_structure(END_OF_TABLE, END_HANDLE, b"") + b"\0\0")
    return b"".join(found)


def measured(table: bytes) -> bytes:
    """The bytes that edk2 hashes: the published table without what tells machines of one kind apart."""
    return b"".join(_mask(structure) for structure in structures(table))


def _mask(structure: bytes) -> bytes:
    kind, length = structure[0], structure[1]
    if kind in UNMEASURED or kind >= OEM_BEGIN:
        return structure[:HEADER_SIZE].ljust(len(structure), b"\0")
    masked = bytearray(structure)
    for offset in MASKED_STRINGS.get(kind, ()):
        if offset < length and structure[offset]:
            start, end = _string(structure, structure[offset])
            masked[start:end] = b" " * (end - start)
            masked[offset] = 0
    for offset, size in MASKED_FIELDS.get(kind, ()):
        if offset + size <= length:
            masked[offset : offset + size] = bytes(size)
    return bytes(masked)


def _string(structure: bytes, number: int) -> tuple[int, int]:
    """Start and end of a string of a structure, counted from 1; edk2 takes the last where there are fewer."""
    start = end = structure[1]
    for _ in range(number):
        if end != structure[1]:
            end += 1
        if structure[end] == 0:
            break
        start, end = end, structure.index(b"\0", end)
    return start, end


def _structure(kind: int, handle: int, body: bytes) -> bytes:
    return bytes((kind, HEADER_SIZE + len(body))) + handle.to_bytes(2, "little") + body


def _handle(structure: bytes) -> int:
    return int.from_bytes(structure[2:4], "little")
