from __future__ import annotations

import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import UsageError
from tdxstack.image.gpt import (
    ALIGNMENT,
    ESP_TYPE,
    ROOT_X86_64_TYPE,
    SECTOR,
    Partition,
    PartitionTable,
    Wanted,
    consecutive,
)

DISK, ESP, ROOT = (UUID(int=number) for number in (1, 2, 3))
MIB = 1 << 20


def table(size: int = 256 * MIB) -> PartitionTable:
    wanted = [Wanted("esp", ESP_TYPE, ESP, 32 * MIB), Wanted("root", ROOT_X86_64_TYPE, ROOT, 0)]
    return consecutive(DISK, wanted, size=size)


def test_a_disk_as_large_as_its_partitions() -> None:
    layout = consecutive(DISK, [Wanted("a", ESP_TYPE, ESP, 1), Wanted("b", ESP_TYPE, ROOT, MIB + 1)])
    assert [(part.start, part.size) for part in layout.partitions] == [(MIB, MIB), (2 * MIB, 2 * MIB)]
    assert layout.size == 5 * MIB


def header(sector: bytes) -> tuple[int, int, int, int, int, int, int, bytes]:
    """The fields of a header whose checksum is right, read by hand from the UEFI specification's table."""
    assert sector[:8] == b"EFI PART"
    assert struct.unpack_from("<IIII", sector, 8)[:2] == (0x10000, 92)
    (checksum,) = struct.unpack_from("<I", sector, 16)
    assert zlib.crc32(sector[:16] + bytes(4) + sector[20:92]) == checksum
    own, other, first, last = struct.unpack_from("<QQQQ", sector, 24)
    entries, count, size, table_checksum = struct.unpack_from("<QIII", sector, 72)
    assert (count, size) == (128, 128)
    return own, other, first, last, entries, table_checksum, len(sector), sector[56:72]


def test_primary_and_backup_point_at_each_other() -> None:
    layout = table()
    primary, backup = layout.primary(), layout.backup()
    last = 256 * MIB // SECTOR - 1
    assert len(primary) == 34 * SECTOR
    assert len(backup) == 33 * SECTOR
    assert layout.backup_offset == 256 * MIB - 33 * SECTOR
    own, other, first, final, entries, checksum, _, disk = header(primary[SECTOR : 2 * SECTOR])
    assert (own, other, first, final, entries) == (1, last, 34, last - 33, 2)
    assert checksum == zlib.crc32(primary[2 * SECTOR :])
    assert disk == DISK.bytes_le
    own, other, first, final, entries, checksum, _, disk = header(backup[-SECTOR:])
    assert (own, other, first, final, entries) == (last, 1, 34, last - 33, last - 32)
    assert checksum == zlib.crc32(backup[:-SECTOR])
    assert backup[:-SECTOR] == primary[2 * SECTOR :]


def test_entries() -> None:
    entries = table().primary()[2 * SECTOR :]
    assert entries[:16] == bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b") == ESP_TYPE.bytes_le
    assert entries[16:32] == ESP.bytes_le
    assert struct.unpack_from("<QQQ", entries, 32) == (2048, 2048 + 65535, 0)
    assert entries[56:64] == "esp\0".encode("utf-16-le")
    assert struct.unpack_from("<QQ", entries, 128 + 32) == (2048 + 65536, 255 * 2048 - 1)
    assert not any(entries[256:])


def test_protective_mbr() -> None:
    mbr = table().primary()[:SECTOR]
    assert mbr[510:] == b"\x55\xaa"
    assert mbr[446 + 4] == 0xEE
    assert struct.unpack_from("<II", mbr, 446 + 8) == (1, 256 * 2048 - 1)


@given(st.integers(min_value=34, max_value=4096))
def test_root_takes_what_is_left(mib: int) -> None:
    size = mib * MIB
    if mib == 34:
        with pytest.raises(UsageError):
            table(size)
        return
    layout = table(size)
    esp, root = layout.partitions
    assert root.start == esp.start + esp.size
    assert root.size % ALIGNMENT == 0
    assert root.start + root.size <= layout.backup_offset < root.start + root.size + 2 * ALIGNMENT


@pytest.mark.parametrize(
    "partitions",
    [
        (Partition("a", ESP_TYPE, ESP, 0, MIB),),
        (Partition("a", ESP_TYPE, ESP, MIB + 512, MIB),),
        (Partition("a", ESP_TYPE, ESP, MIB, 0),),
        (Partition("a", ESP_TYPE, ESP, MIB, 4 * MIB), Partition("b", ESP_TYPE, ROOT, 2 * MIB, MIB)),
        (Partition("a", ESP_TYPE, ESP, MIB, 8 * MIB),),
    ],
    ids=["over the table", "not aligned", "empty", "overlap", "past the end"],
)
def test_impossible_tables_are_refused(partitions: tuple[Partition, ...]) -> None:
    with pytest.raises(UsageError):
        PartitionTable(DISK, 8 * MIB, partitions)
