"""Small disks with file systems, packed by struct, independently of the code under test."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from uuid import UUID

SECTOR = 512
ESP_START, ESP_SIZE = 1 << 20, 3 << 20
ROOT_START, ROOT_SIZE = 4 << 20, 1 << 20
DISK_SIZE = 6 << 20
ROOT_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-000000000001")
ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX_TYPE = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")

Tree = dict[str, "bytes | Tree"]


class Memory:
    """Bytes that are a disk."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size].ljust(size, b"\0")


def gpt(esp_type: UUID = ESP_TYPE) -> bytes:
    """The first sectors: protective MBR, header, entries."""
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s", kind.bytes_le, UUID(int=number).bytes_le, start // SECTOR, end // SECTOR, 0, b""
        )
        for number, (kind, start, end) in enumerate(
            (
                (esp_type, ESP_START, ESP_START + ESP_SIZE - 1),
                (LINUX_TYPE, ROOT_START, ROOT_START + ROOT_SIZE - 1),
            ),
            1,
        )
    ).ljust(128 * 128, b"\0")
    fields = (1, 11, 34, 1000, UUID(int=7).bytes_le, 2, 128, 128, zlib.crc32(entries))
    layout = "<8sIIIIQQQQ16sQIII"
    plain = struct.pack(layout, b"EFI PART", 0x10000, 92, 0, 0, *fields)
    header = struct.pack(layout, b"EFI PART", 0x10000, 92, zlib.crc32(plain), 0, *fields)
    return bytes(SECTOR) + header.ljust(SECTOR, b"\0") + entries


def fat(files: Tree, *, size: int = ESP_SIZE) -> bytes:
    """A FAT12 file system with clusters of a sector and long names throughout."""
    fat_sectors, root_entries = 20, 64
    boot = bytearray(SECTOR)
    struct.pack_into("<HBHBHHBH", boot, 11, SECTOR, 1, 1, 2, root_entries, 4000, 0xF8, fat_sectors)
    boot[510:] = b"\x55\xaa"
    table, data = [0xFF8, 0xFFF], bytearray()

    def store(content: bytes) -> int:
        if not content:
            return 0
        first = len(table)
        count = -(-len(content) // SECTOR)
        table.extend([*range(first + 1, first + count), 0xFFF])
        data.extend(content.ljust(count * SECTOR, b"\0"))
        return first

    def directory(tree: Tree) -> bytes:
        listing = b""
        for number, (name, content) in enumerate(tree.items()):
            body = directory(content) if isinstance(content, dict) else content
            attribute = 0x10 if isinstance(content, dict) else 0x20
            listing += _long_name(name)
            short = f"F{number:<7}EXT".encode()
            listing += struct.pack(
                "<11sB14xHI", short, attribute, store(body), len(body) if attribute == 0x20 else 0
            )
        return listing

    root = directory(files).ljust(root_entries * 32, b"\0")
    bits = sum(entry << 12 * number for number, entry in enumerate(table))
    packed = bits.to_bytes(fat_sectors * SECTOR, "little")
    return (bytes(boot) + packed + packed + root + bytes(data)).ljust(size, b"\0")


def _long_name(name: str) -> bytes:
    wide = (name + "\0").encode("utf-16-le")
    wide += b"\xff" * (-len(wide) % 26)
    parts = [wide[at : at + 26] for at in range(0, len(wide), 26)]
    return b"".join(
        struct.pack("<B10sBBB12sH4s", number, part[:10], 0x0F, 0, 0, part[10:22], 0, part[22:])
        for number, part in reversed(list(enumerate(parts, 1)))
    )


def ext4(files: Tree, *, size: int = ROOT_SIZE, features: int = 0x42) -> bytes:
    """An ext4 file system with blocks of 1 KiB and one group. A value that starts with "->" is a link."""
    block, inodes = 1024, {}
    data = bytearray(size)
    free = [40]
    numbers = iter(range(11, 100))

    def store(content: bytes) -> bytes:
        count = -(-len(content) // block)
        start = free[0]
        free[0] += count
        data[start * block : start * block + len(content)] = content
        return struct.pack("<HHHHIIHHI", 0xF30A, 1, 4, 0, 0, 0, count, 0, start).ljust(60, b"\0")

    def inode(mode: int, content: bytes, flags: int = 0x80000) -> bytes:
        area = store(content) if flags else content.ljust(60, b"\0")
        return struct.pack("<HHI24xI4x60s4xI", mode, 0, len(content), flags, area, 0)

    def add(number: int, value: bytes | Tree) -> None:
        if isinstance(value, dict):
            listing = b""
            for name, child in value.items():
                child_number = next(numbers)
                add(child_number, child)
                encoded = name.encode()
                length = 8 + -(-len(encoded) // 4) * 4
                listing += struct.pack("<IHBB", child_number, length, len(encoded), 0) + encoded.ljust(
                    length - 8, b"\0"
                )
            rest = -len(listing) % block or block
            inodes[number] = inode(0o40755, listing + struct.pack("<IHH", 0, rest, 0).ljust(rest, b"\0"))
        elif value.startswith(b"->"):
            inodes[number] = inode(0o120777, value[2:], 0)
        else:
            inodes[number] = inode(0o100644, value)

    add(2, files)
    for number, raw in inodes.items():
        at = 10 * block + (number - 1) * 128
        data[at : at + len(raw)] = raw
    superblock = bytearray(1024)
    struct.pack_into("<I", superblock, 20, 1)
    struct.pack_into("<II", superblock, 32, 8192, 8192)
    struct.pack_into("<I", superblock, 40, 128)
    struct.pack_into("<H", superblock, 56, 0xEF53)
    struct.pack_into("<H", superblock, 88, 128)
    struct.pack_into("<I", superblock, 96, features)
    superblock[104:120] = ROOT_UUID.bytes
    data[1024:2048] = superblock
    struct.pack_into("<III", data, 2048, 3, 4, 10)
    return bytes(data)


def disk(esp: Tree, root: Tree) -> bytes:
    data = bytearray(DISK_SIZE)
    start = gpt()
    data[: len(start)] = start
    data[ESP_START : ESP_START + ESP_SIZE] = fat(esp)
    data[ROOT_START : ROOT_START + ROOT_SIZE] = ext4(root)
    return bytes(data)


def qcow2(
    content: bytes, *, backing: Path | None = None, compressed: bool = False, features: int = 0
) -> bytes:
    """Clusters of 64 KiB; those that are all zeros are left out, so that a backing file shows through."""
    bits = 16
    cluster = 1 << bits
    clusters = [content[at : at + cluster].ljust(cluster, b"\0") for at in range(0, len(content), cluster)]
    name = str(backing).encode() if backing else b""
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        3,
        512 if name else 0,
        len(name),
        bits,
        len(content),
        0,
        1,
        cluster,
        0,
        0,
        0,
        0,
    )
    header += struct.pack(">QQQII", features, 0, 0, 4, 104)
    image = bytearray(3 * cluster)
    image[: len(header)] = header
    image[512 : 512 + len(name)] = name
    image[cluster : cluster + 8] = struct.pack(">Q", 2 * cluster | 1 << 63)
    for number, data in enumerate(clusters):
        if not any(data):
            continue
        if compressed:
            squeezer = zlib.compressobj(9, zlib.DEFLATED, -12)
            packed = squeezer.compress(data) + squeezer.flush()
            sectors = (len(image) % 512 + len(packed) - 1) // 512
            entry = 1 << 62 | sectors << (62 - (bits - 8)) | len(image)
            image += packed
        else:
            image += bytes(-len(image) % cluster)
            entry = len(image) | 1 << 63
            image += data
        image[2 * cluster + 8 * number : 2 * cluster + 8 * number + 8] = struct.pack(">Q", entry)
    return bytes(image)
