"""The GUID partition table of a guest's disk: where the partitions lie, and the bytes of both tables."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from tdxstack.errors import UsageError

SECTOR = 512
"""Bytes in a logical block."""

ALIGNMENT = 1 << 20
"""Partitions start and end at multiples of this many bytes."""

ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64_TYPE = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
ROOT_X86_64_VERITY_TYPE = UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")

_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_TABLE_SECTORS = _ENTRIES * _ENTRY.size // SECTOR
_RESERVED_SECTORS = 1 + _TABLE_SECTORS


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: `start` and `size` in bytes, multiples of `ALIGNMENT`."""

    name: str
    type: UUID
    uuid: UUID
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A disk of `size` bytes with GUID `disk` and its partitions, in order.

    Raises `UsageError` where partitions overlap, leave the disk or are not aligned.
    """

    disk: UUID
    size: int
    partitions: tuple[Partition, ...]

    def __post_init__(self) -> None:
        free = ALIGNMENT
        for partition in self.partitions:
            if partition.start % ALIGNMENT or partition.size % ALIGNMENT or partition.size <= 0:
                raise UsageError(f"partition {partition.name} is not aligned to {ALIGNMENT} bytes")
            if partition.start < free:
                raise UsageError(
                    f"partition {partition.name} starts at byte {partition.start}, before {free}"
                )
            free = partition.start + partition.size
        if self.size % SECTOR or free > self.size - _RESERVED_SECTORS * SECTOR:
            raise UsageError(
                f"a disk of {self.size} bytes has no room for partitions that end at byte {free}"
            )

    def primary(self) -> bytes:
        """The first 34 sectors: protective MBR, header, entries (UEFI specification, section 5.3)."""
        return self._protective_mbr() + self._header(1, self._last, 2) + self._entries()

    def backup(self) -> bytes:
        """The last 33 sectors: entries, header."""
        return self._entries() + self._header(self._last, 1, self._last - _TABLE_SECTORS)

    @property
    def backup_offset(self) -> int:
        """The byte at which `backup` lies."""
        return self.size - _RESERVED_SECTORS * SECTOR

    @property
    def _last(self) -> int:
        return self.size // SECTOR - 1

    def _protective_mbr(self) -> bytes:
        whole = struct.pack(
            "<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(self._last, 0xFFFFFFFF)
        )
        return bytes(446) + whole + bytes(48) + b"\x55\xaa"

    def _entries(self) -> bytes:
        entries = b"".join(
            _ENTRY.pack(
                part.type.bytes_le,
                part.uuid.bytes_le,
                part.start // SECTOR,
                (part.start + part.size) // SECTOR - 1,
                0,
                part.name.encode("utf-16-le"),
            )
            for part in self.partitions
        )
        return entries.ljust(_ENTRIES * _ENTRY.size, b"\0")

    def _header(self, own: int, other: int, entries: int) -> bytes:
        table = self._entries()
        fields = (
            *(own, other, 1 + _RESERVED_SECTORS, self._last - _RESERVED_SECTORS, self.disk.bytes_le),
            *(entries, _ENTRIES, _ENTRY.size, zlib.crc32(table)),
        )
        checksum = zlib.crc32(_HEADER.pack(b"EFI PART", 0x00010000, _HEADER.size, 0, 0, *fields))
        return _HEADER.pack(b"EFI PART", 0x00010000, _HEADER.size, checksum, 0, *fields).ljust(SECTOR, b"\0")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A partition that has no place yet; `size` in bytes is rounded up to `ALIGNMENT`."""

    name: str
    type: UUID
    uuid: UUID
    size: int


def consecutive(disk: UUID, wanted: Sequence[Wanted], *, size: int = 0) -> PartitionTable:
    """Partitions one after the other on a disk of `size` bytes, the last with all that is left.

    Without a `size`, the disk is as large as they need.
    """
    partitions = []
    start = ALIGNMENT
    for part in wanted:
        length = -(-part.size // ALIGNMENT) * ALIGNMENT
        partitions.append(Partition(part.name, part.type, part.uuid, start, length))
        start += length
    if not size:
        return PartitionTable(disk, start + ALIGNMENT, tuple(partitions))
    end = (size - _RESERVED_SECTORS * SECTOR) // ALIGNMENT * ALIGNMENT
    last = partitions.pop()
    partitions.append(replace(last, size=end - last.start))
    return PartitionTable(disk, size, tuple(partitions))
