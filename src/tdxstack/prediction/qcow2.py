"""Disk images, read in place: qcow2 and raw, with the images that they are overlays of.

Source: QEMU docs/interop/qcow2.rst. Integers of qcow2 are big-endian.
"""

from __future__ import annotations

import contextlib
import stat
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from tdxstack.errors import MalformedError, UnavailableError

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104
MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
OFFSET_MASK = 0x00FFFFFFFFFFFE00
COMPRESSED, ZERO = 1 << 62, 1
DIRTY_AND_CORRUPT = 0x3
"""Incompatible features that only say how the image was closed; any other changes how it is read."""
MAX_CHAIN = 8
MAX_L1 = 1 << 20
MAX_NAME = 4096
"""Bytes of the name of an image below."""

EXTERNAL_DATA, COMPRESSION_TYPE = 1 << 2, 1 << 3
"""Incompatible features: clusters are in another file, or compressed with something else than zlib."""

HINT = "give a disk image in the format qcow2 (not encrypted, compressed with zlib at most) or raw"


class Disk(Protocol):
    """Something with bytes at offsets."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; zeros behind the end."""


@contextlib.contextmanager
def open_disk(path: Path) -> Iterator[Disk]:
    """A disk image for as long as the block lasts, read-only.

    Raises `UnavailableError` where a file is missing, `MalformedError` for an image of another form.
    """
    with contextlib.ExitStack() as stack:
        yield _open(path, stack, MAX_CHAIN)


def _open(path: Path, stack: contextlib.ExitStack, depth: int) -> Disk:
    if not depth:
        raise _bad(path, f"it is an overlay of more than {MAX_CHAIN} images")
    file = _file(path, stack)
    header = file.read(HEADER_SIZE)
    if header[:4] != MAGIC:
        return Raw(file)
    below = _backing_file(path, file, header)
    return Qcow2(path, file, header, _open(below, stack, depth - 1) if below else None)


def _file(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            # Whoever opens a pipe may wait for ever.
            raise UnavailableError(
                f"disk image {path} is neither a file nor a block device", hint="name an existing disk image"
            )
        return stack.enter_context(path.open("rb"))
    except OSError as error:
        raise UnavailableError(
            f"disk image {path} cannot be read: {error.strerror}", hint="name an existing disk image"
        ) from None


def image_format(path: Path) -> str:
    """What QEMU calls the form of an image: qcow2 or raw. Raises `UnavailableError`."""
    with contextlib.ExitStack() as stack:
        return "qcow2" if _file(path, stack).read(4) == MAGIC else "raw"


def is_packed_with_zstd(path: Path) -> bool:
    """Whether an image, or one that it is an overlay of, is compressed in the one way that is not read here.

    Raises `UnavailableError` where one of them is missing.
    """
    below: Path | None = path
    for _ in range(MAX_CHAIN):
        if below is None:
            break
        with contextlib.ExitStack() as stack:
            header = _file(below, stack).read(HEADER_SIZE)
        version, features = int.from_bytes(header[4:8], "big"), int.from_bytes(header[72:80], "big")
        if header[:4] == MAGIC and version == 3 and features & COMPRESSION_TYPE:
            return True
        try:
            below = backing_file(below)
        except MalformedError:
            break
    return False


def is_whole(path: Path) -> bool:
    """Whether an image names no other file that QEMU would open with it. Raises `UnavailableError`."""
    with contextlib.ExitStack() as stack:
        header = _file(path, stack).read(HEADER_SIZE)
    features = int.from_bytes(header[72:80], "big") if header[4:8] == bytes((0, 0, 0, 3)) else 0
    return header[:4] != MAGIC or not (any(header[8:16]) or features & EXTERNAL_DATA)


def backing_file(path: Path) -> Path | None:
    """The image that `path` is an overlay of; None where it is none. Raises as `open_disk` does."""
    with contextlib.ExitStack() as stack:
        file = _file(path, stack)
        header = file.read(HEADER_SIZE)
        return _backing_file(path, file, header) if header[:4] == MAGIC else None


def _backing_file(path: Path, file: BinaryIO, header: bytes) -> Path | None:
    offset, size = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
    if not offset:
        return None
    name = _read(file, offset, min(size, MAX_NAME)).decode("utf-8", "surrogateescape")
    if not name or "\0" in name or name.startswith(("json:", "nbd:")):
        raise _bad(path, f"it is an overlay of {name[:80]!r}, which is no file")
    return path.parent / name


class Raw:
    """A file that is the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def read(self, offset: int, size: int) -> bytes:
        if offset >= self.size:
            return bytes(size)
        self._file.seek(offset)
        return self._file.read(size).ljust(size, b"\0")


class Qcow2:
    """An image of clusters, each of its own, of the image below, or zeros."""

    def __init__(self, path: Path, file: BinaryIO, header: bytes, backing: Disk | None) -> None:
        self._path = path
        self._file = file
        self._backing = backing
        version, bits = int.from_bytes(header[4:8], "big"), int.from_bytes(header[20:24], "big")
        if version not in (2, 3) or not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
            raise _bad(path, f"it has version {version} and clusters of 2^{bits} bytes")
        features = int.from_bytes(header[72:80], "big") if version == 3 else 0
        if features & ~DIRTY_AND_CORRUPT or any(header[32:36]):
            raise _bad(path, f"it is encrypted or uses features 0x{features:x} that are not read")
        self.size = int.from_bytes(header[24:32], "big")
        self._bits = bits
        self._packed_mask = (1 << (62 - (bits - 8))) - 1
        self._end = file.seek(0, 2)
        entries = int.from_bytes(header[36:40], "big")
        if entries > MAX_L1:
            raise _bad(path, f"its first table has {entries} entries")
        start = int.from_bytes(header[40:48], "big")
        table = _read(file, start, 8 * entries)
        if len(table) < 8 * entries:
            raise _bad(path, f"it is cut short: it has {self._end} bytes, and its first table is at {start}")
        self._l1 = [int.from_bytes(table[at : at + 8], "big") & OFFSET_MASK for at in range(0, len(table), 8)]
        self._l2 = lru_cache(64)(self._read_l2)

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size > 0:
            within = offset & ((1 << self._bits) - 1)
            length = min(size, (1 << self._bits) - within)
            parts.append(self._cluster_part(offset >> self._bits, within, length))
            offset, size = offset + length, size - length
        return b"".join(parts)

    def check_whole(self) -> None:
        """Raise `MalformedError` where the file ends before a cluster of the image, or of one below it.

        Takes time in proportion to the file.
        """
        # Each once: a table of tables may name one as often as it likes.
        for table_offset in dict.fromkeys(filter(None, self._l1)):
            if table_offset % (1 << self._bits):
                raise _bad(self._path, f"its table at byte {table_offset} is not at a cluster")
            table = self._read_l2(table_offset)
            for at in range(0, len(table) - 7, 8):
                entry = int.from_bytes(table[at : at + 8], "big")
                if entry & COMPRESSED:
                    self._check_end(entry & self._packed_mask)
                elif entry & OFFSET_MASK:
                    self._check_end(entry & OFFSET_MASK)
        if isinstance(self._backing, Qcow2):
            self._backing.check_whole()

    def _cluster_part(self, number: int, within: int, length: int) -> bytes:
        per_table = 1 << (self._bits - 3)
        index, table_offset = number % per_table, 0
        if number // per_table < len(self._l1):
            table_offset = self._l1[number // per_table]
        entry = 0
        if table_offset:
            entry = int.from_bytes(self._l2(table_offset)[8 * index : 8 * index + 8], "big")
        if entry & COMPRESSED:
            return self._uncompressed(entry)[within : within + length]
        if entry & ZERO:
            return bytes(length)
        if entry & OFFSET_MASK:
            self._check_end(entry & OFFSET_MASK)
            self._file.seek((entry & OFFSET_MASK) + within)
            return self._file.read(length).ljust(length, b"\0")
        if self._backing is None:
            return bytes(length)
        return self._backing.read((number << self._bits) + within, length)

    def _uncompressed(self, entry: int) -> bytes:
        offset = entry & self._packed_mask
        self._check_end(offset)
        sectors = (entry & (COMPRESSED - 1)) >> self._packed_mask.bit_length()
        self._file.seek(offset)
        data = self._file.read((sectors + 1) * 512 - (offset & 511))
        try:
            cluster = zlib.decompressobj(-12).decompress(data, 1 << self._bits)
        except zlib.error:
            raise _bad(self._path, f"the compressed cluster at byte {offset} is damaged") from None
        return cluster.ljust(1 << self._bits, b"\0")

    def _read_l2(self, offset: int) -> bytes:
        self._check_end(offset)
        self._file.seek(offset)
        return self._file.read(1 << self._bits)

    def _check_end(self, offset: int) -> None:
        """The last cluster may be shorter than others; one that starts behind the end is missing."""
        if offset >= self._end:
            raise _bad(self._path, f"it is cut short: it has {self._end} bytes, and a cluster at {offset}")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """What a file has there; nothing behind its end, where seeking may fail."""
    if offset >= file.seek(0, 2):
        return b""
    file.seek(offset)
    return file.read(size)


def _bad(path: Path, problem: str) -> MalformedError:
    return MalformedError(f"disk image {path}: {problem}", hint=HINT)
