"""Files on an ext4 file system, read in place.

Source: Linux Documentation/filesystems/ext4. All integers are little-endian.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.prediction.qcow2 import Disk

SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE = 1024, 1024
MAGIC = 0xEF53
ROOT_INODE = 2
FEATURES_READ = 0x0002 | 0x0004 | 0x0040 | 0x0080 | 0x0200 | 0x2000 | 0x4000
"""Incompatible features that do not stand in the way of reading: file types in directories, a journal to
replay, extents, 64 bit, flexible groups, checksum seed, large directories."""
FEATURE_64BIT = 0x0080
FLAG_EXTENTS, FLAG_ENCRYPTED, FLAG_INLINE = 0x00080000, 0x00000800, 0x10000000
EXTENT_MAGIC = 0xF30A
MAX_EXTENT = 32768
MAX_DEPTH, MAX_LINKS = 5, 10
MAX_FILE, MAX_DIRECTORY = 1 << 30, 4 << 20
KEPT_DIRECTORIES = 8
MAX_PATH = 4096
MAX_TREE = 1 << 19
"""Entries of one file's extent tree."""

HINT = "the boot files must lie on an ext4 or FAT file system that is not encrypted"


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    size: int
    flags: int
    block: bytes


class Ext4:
    """A file system that starts at a byte of a disk. Raises `MalformedError` for another, or a broken one."""

    def __init__(self, disk: Disk, start: int) -> None:
        self._disk = disk
        self._start = start
        block = disk.read(start + SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
        if _integer(block[56:58]) != MAGIC:
            raise _bad("it holds no ext4 file system")
        features = _integer(block[96:100])
        if features & ~FEATURES_READ:
            raise _bad(f"it uses features 0x{features & ~FEATURES_READ:x} that are not read")
        log_size = _integer(block[24:28])
        self._inodes_per_group, self._inode_size = _integer(block[40:44]), _integer(block[88:90])
        if log_size > 6 or not self._inodes_per_group or self._inode_size < 128:
            raise _bad("its sizes contradict each other")
        self._block_size = 1024 << log_size
        self._first_block = _integer(block[20:24])
        wide = features & FEATURE_64BIT
        self._descriptor_size = max(32, _integer(block[254:256])) if wide else 32
        self._directory = lru_cache(KEPT_DIRECTORIES)(self._entries)
        self.uuid = UUID(bytes=block[104:120])
        self.label = block[120:136].partition(b"\0")[0].decode("utf-8", "replace")

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        inode = self._resolve(path, MAX_LINKS)
        if inode is None or not stat.S_ISREG(inode.mode):
            return None
        return self._content(inode, MAX_FILE)

    def names(self, path: str) -> tuple[str, ...]:
        """What is in a directory, sorted; nothing where there is no such directory."""
        inode = self._resolve(path, MAX_LINKS)
        if inode is None or not stat.S_ISDIR(inode.mode):
            return ()
        return tuple(sorted(name for name in self._directory(inode) if name not in (".", "..")))

    def is_directory(self, path: str) -> bool:
        """Whether there is such a directory."""
        inode = self._resolve(path, MAX_LINKS)
        return inode is not None and stat.S_ISDIR(inode.mode)

    def _resolve(self, path: str, links: int) -> _Inode | None:
        """The inode of an absolute path, symbolic links followed."""
        if len(path) > MAX_PATH:
            raise _bad(f"a path has more than {MAX_PATH} letters")
        words = [word for word in path.split("/") if word not in ("", ".")]
        trail = [self._inode(ROOT_INODE)]
        for depth, word in enumerate(words):
            if word == "..":
                trail = trail[:-1] or trail
                continue
            if not stat.S_ISDIR(trail[-1].mode):
                return None
            number = self._directory(trail[-1]).get(word)
            if number is None:
                return None
            inode = self._inode(number)
            if stat.S_ISLNK(inode.mode):
                if not links:
                    raise _bad(f"{path} leads through more than {MAX_LINKS} symbolic links")
                target = self._link(inode)
                before = "" if target.startswith("/") else "/".join(words[:depth]) + "/"
                return self._resolve(before + "/".join([target, *words[depth + 1 :]]), links - 1)
            trail.append(inode)
        return trail[-1]

    def _link(self, inode: _Inode) -> str:
        short = inode.size < len(inode.block) and not inode.flags & FLAG_EXTENTS
        data = inode.block[: inode.size] if short else self._content(inode, self._block_size)
        return data.decode("utf-8", "surrogateescape")

    def _entries(self, directory: _Inode) -> dict[str, int]:
        """The number of the inode of each name."""
        found: dict[str, int] = {}
        data = self._content(directory, MAX_DIRECTORY)
        at = 0
        while at + 8 <= len(data):
            inode, length, name_length = (
                _integer(data[at : at + 4]),
                _integer(data[at + 4 : at + 6]),
                data[at + 6],
            )
            if length < 8:
                raise _bad(f"a directory has an entry of {length} bytes")
            if inode:
                name = data[at + 8 : at + 8 + name_length].decode("utf-8", "surrogateescape")
                found.setdefault(name, inode)
            at += length
        return found

    def _inode(self, number: int) -> _Inode:
        group, index = divmod(number - 1, self._inodes_per_group)
        table = (self._first_block + 1) * self._block_size + group * self._descriptor_size
        descriptor = self._read(table, self._descriptor_size)
        block = _integer(descriptor[8:12])
        if self._descriptor_size >= 64:
            block |= _integer(descriptor[40:44]) << 32
        raw = self._read(block * self._block_size + index * self._inode_size, 128)
        size = _integer(raw[4:8]) | _integer(raw[108:112]) << 32
        return _Inode(number, _integer(raw[:2]), size, _integer(raw[32:36]), raw[40:100])

    def _content(self, inode: _Inode, limit: int) -> bytes:
        if inode.size > limit:
            raise _bad(f"inode {inode.number} has {inode.size} bytes, at most {limit} are read")
        if inode.flags & (FLAG_ENCRYPTED | FLAG_INLINE) or not inode.flags & FLAG_EXTENTS:
            raise _bad(f"inode {inode.number} is encrypted or stored in a way that is not read")
        content = bytearray(inode.size)
        end = 0
        for first, count, start in self._extents(inode.block, MAX_DEPTH, itertools.count(1)):
            if first < end:
                raise _bad(f"inode {inode.number} has extents that overlap")
            end = first + count
            offset = first * self._block_size
            size = min(count * self._block_size, inode.size - offset)
            if size > 0:
                content[offset : offset + size] = self._read(start * self._block_size, size)
        return bytes(content)

    def _extents(self, node: bytes, depth: int, counted: Iterator[int]) -> Iterator[tuple[int, int, int]]:
        """(first block in the file, number of blocks, first block on the disk) of each written extent.

        `counted` counts the entries of the whole tree.
        """
        if _integer(node[:2]) != EXTENT_MAGIC or not depth:
            raise _bad("an extent tree is broken")
        inner = _integer(node[6:8])
        entries = min(_integer(node[2:4]), len(node) // 12 - 1)
        for at in range(12, 12 + 12 * entries, 12):
            entry = node[at : at + 12]
            if next(counted) > MAX_TREE:
                raise _bad(f"an extent tree has more than {MAX_TREE} entries")
            if inner:
                block = _integer(entry[4:8]) | _integer(entry[8:10]) << 32
                below = self._read(block * self._block_size, self._block_size)
                yield from self._extents(below, depth - 1, counted)
            elif (count := _integer(entry[4:6])) <= MAX_EXTENT:
                yield _integer(entry[:4]), count, _integer(entry[8:12]) | _integer(entry[6:8]) << 32

    def _read(self, offset: int, size: int) -> bytes:
        return self._disk.read(self._start + offset, size)


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"root file system: {problem}", hint=HINT)
