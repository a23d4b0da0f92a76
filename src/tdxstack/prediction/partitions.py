"""The GUID partition table of a disk, and what firmware measures of it.

Sources: UEFI specification 2.11, chapter 5; edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib. All integers are
little-endian.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.prediction.qcow2 import Disk

SECTOR = 512
HEADER_SIZE = 92
SIGNATURE = b"EFI PART"
ENTRY_SIZE = 128
MAX_ENTRIES = 1024

ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
EXTENDED = UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172")
"""Extended Boot Loader Partition: where boot loaders find more entries."""

HINT = "give a disk with a GUID partition table, as an EFI system starts from"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its number, counted from 1, kind, name, and place in bytes."""

    number: int
    type: UUID
    uuid: UUID
    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The primary table of a disk."""

    header: bytes
    entries: tuple[bytes, ...]

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions there are, in the order of their entries."""
        return tuple(
            _partition(number, entry) for number, entry in enumerate(self.entries, 1) if any(entry[:16])
        )

    @property
    def esp(self) -> Partition:
        """The first EFI system partition. Raises `MalformedError` where there is none."""
        for partition in self.partitions:
            if partition.type == ESP:
                return partition
        raise MalformedError(
            "the disk has no EFI system partition", hint="give a disk that an EFI system starts"
        )

    @property
    def measured(self) -> bytes:
        """EFI_GPT_DATA: the header, the number of partitions (u64), the entries of those there are."""
        used = [entry for entry in self.entries if any(entry[:16])]
        return self.header + len(used).to_bytes(8, "little") + b"".join(used)


def read_partitions(disk: Disk) -> PartitionTable:
    """The primary partition table. Raises `MalformedError` where there is none or its checksums are wrong."""
    header = disk.read(SECTOR, HEADER_SIZE)
    if header[:8] != SIGNATURE:
        raise _bad("it has no GUID partition table")
    checksum = int.from_bytes(header[16:20], "little")
    if zlib.crc32(header[:16] + bytes(4) + header[20:]) != checksum:
        raise _bad("the checksum of its partition table's header is wrong")
    first, count, size = (
        int.from_bytes(header[at : at + width], "little") for at, width in ((72, 8), (80, 4), (84, 4))
    )
    if size != ENTRY_SIZE or count > MAX_ENTRIES:
        raise _bad(f"its partition table has {count} entries of {size} bytes")
    array = disk.read(first * SECTOR, count * size)
    if zlib.crc32(array) != int.from_bytes(header[88:92], "little"):
        raise _bad("the checksum of its partition table's entries is wrong")
    return PartitionTable(header, tuple(array[at : at + size] for at in range(0, len(array), size)))


def _partition(number: int, entry: bytes) -> Partition:
    first, last = int.from_bytes(entry[32:40], "little"), int.from_bytes(entry[40:48], "little")
    return Partition(
        number,
        UUID(bytes_le=entry[:16]),
        UUID(bytes_le=entry[16:32]),
        entry[56:128].decode("utf-16-le", "replace").partition("\0")[0],
        first * SECTOR,
        (last - first + 1) * SECTOR,
    )


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"the disk cannot be read: {problem}", hint=HINT)
