"""Files on a FAT file system, read in place. Names are compared without regard to case.

Sources: Microsoft FAT specification, as in the UEFI specification 2.11, section 13.3. All integers are
little-endian. What firmware refuses: edk2 FatPkg/EnhancedFatDxe/Init.c, FatOpenDevice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tdxstack.errors import MalformedError
from tdxstack.prediction.qcow2 import Disk

ENTRY_SIZE = 32
ATTRIBUTE_LONG_NAME, ATTRIBUTE_VOLUME, ATTRIBUTE_DIRECTORY = 0x0F, 0x08, 0x10
DELETED, END = 0xE5, 0x00
FAT12_CLUSTERS, FAT16_CLUSTERS = 4085, 65525
MAX_FILE = 1 << 30
MAX_DIRECTORY = 4 << 20
MAX_DEPTH, MAX_LISTED = 8, 10_000
KEPT_DIRECTORIES = 8
MAX_NAME = 255
"""Letters of a long name."""
TABLE_PIECE = 3 << 14
"""Bytes of the table of clusters that are read at once; no entry of any width crosses two."""

HINT = "check it with fsck.vfat"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    directory: bool
    cluster: int
    size: int


class Fat:
    """A FAT12, FAT16 or FAT32 file system that starts at a byte of a disk. Raises `MalformedError`."""

    def __init__(self, disk: Disk, start: int) -> None:
        self._disk = disk
        self._start = start
        boot = disk.read(start, 512)
        sector, self._cluster_sectors = _integer(boot[11:13]), boot[13]
        if sector not in (512, 1024, 2048, 4096) or not self._cluster_sectors or boot[510:] != b"\x55\xaa":
            raise _bad("it holds no FAT file system")
        reserved, copies, root_entries = _integer(boot[14:16]), boot[16], _integer(boot[17:19])
        sectors = _integer(boot[19:21]) or _integer(boot[32:36])
        fat_sectors = _integer(boot[22:24]) or _integer(boot[36:40])
        self._cluster_size = sector * self._cluster_sectors
        self._fat_start = reserved * sector
        self._root_start = self._fat_start + copies * fat_sectors * sector
        self._root_size = root_entries * ENTRY_SIZE
        self._data_start = self._root_start + -(-self._root_size // sector) * sector
        clusters = (sectors * sector - self._data_start) // self._cluster_size
        if clusters <= 0:
            raise _bad("its sizes contradict each other")
        # other systems go by the number of clusters alone, or by the layout alone
        if large := not _integer(boot[22:24]):
            if clusters < FAT16_CLUSTERS:
                raise _bad(
                    f"firmware reads no FAT32 of {clusters} clusters, only of {FAT16_CLUSTERS} or more",
                    hint="make the partition larger, or its clusters smaller",
                )
        elif clusters >= FAT16_CLUSTERS:
            raise _bad(f"firmware reads no FAT16 of {clusters} clusters, only of less than {FAT16_CLUSTERS}")
        self._bits = 32 if large else 12 if clusters < FAT12_CLUSTERS else 16
        self._clusters = min(clusters, fat_sectors * sector * 8 // self._bits - 2)
        self._root_cluster = _integer(boot[44:48]) if self._bits == 32 else 0
        self._table = lru_cache(64)(self._table_piece)
        self._directory = lru_cache(KEPT_DIRECTORIES)(self._entries)
        serial = boot[67:71] if self._bits == 32 else boot[39:43]
        self.uuid = f"{_integer(serial[2:]):04X}-{_integer(serial[:2]):04X}"
        """The volume's serial number, as programs show it."""

    @property
    def label(self) -> str:
        """The volume's name; empty without one."""
        for raw in self._records(self._root_cluster):
            if raw[11] & ATTRIBUTE_VOLUME and raw[11] != ATTRIBUTE_LONG_NAME and raw[0] != DELETED:
                return raw[:11].decode("latin-1").rstrip(" ")
        return ""

    def read(self, path: str) -> bytes | None:
        """The content of a file, its path with "/" between names; None where there is none."""
        entry = self._find(path)
        if entry is None or entry.directory:
            return None
        if entry.size > MAX_FILE:
            raise _bad(f"{path} claims {entry.size} bytes")
        data = self._chain(entry.cluster, entry.size)
        if len(data) < entry.size:
            raise _bad(f"{path} has {len(data)} bytes of {entry.size}")
        return data[: entry.size]

    def is_directory(self, path: str) -> bool:
        """Whether there is such a directory."""
        found = self._find(path) if path.strip("/") else _Entry("", True, 0, 0)
        return found is not None and found.directory

    def names(self, path: str) -> tuple[str, ...]:
        """The names of the files in a directory; none where there is no such directory."""
        found = self._find(path)
        if found is None or not found.directory:
            return ()
        return tuple(entry.name for entry in self._directory(found.cluster) if not entry.directory)

    def files(self) -> Iterator[str]:
        """The paths of all files, "/" between names, without one before the first."""
        left = MAX_LISTED
        waiting = [("", self._root_cluster, MAX_DEPTH)]
        while waiting:
            above, cluster, depth = waiting.pop()
            for entry in self._directory(cluster):
                left -= 1
                if not left or not depth:
                    raise _bad(f"it has more than {MAX_LISTED} files, or directories {MAX_DEPTH} deep")
                if not entry.directory:
                    yield f"{above}{entry.name}"
                elif entry.name not in (".", "..") and entry.cluster:
                    waiting.append((f"{above}{entry.name}/", entry.cluster, depth - 1))

    def _find(self, path: str) -> _Entry | None:
        found = _Entry("", True, self._root_cluster, 0)
        for word in path.strip("/").split("/"):
            if not found.directory:
                return None
            wanted = word.lower()
            matches = (entry for entry in self._directory(found.cluster) if entry.name.lower() == wanted)
            entry = next(matches, None)
            if entry is None:
                return None
            found = entry
        return found

    def _records(self, cluster: int) -> Iterator[bytes]:
        if cluster:
            data = self._chain(cluster, MAX_DIRECTORY)
        else:
            data = self._read(self._root_start, self._root_size)
        for at in range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE):
            if data[at] == END:
                return
            yield data[at : at + ENTRY_SIZE]

    def _entries(self, cluster: int) -> tuple[_Entry, ...]:
        found = []
        long_name = ""
        for raw in self._records(cluster):
            if raw[0] == DELETED:
                long_name = ""
            elif raw[11] == ATTRIBUTE_LONG_NAME:
                part = (raw[1:11] + raw[14:26] + raw[28:32]).decode("utf-16-le", "replace")
                long_name = (part.partition("\0")[0] + long_name)[:MAX_NAME]
            else:
                if not raw[11] & ATTRIBUTE_VOLUME:
                    first = _integer(raw[26:28]) | (_integer(raw[20:22]) << 16 if self._bits == 32 else 0)
                    directory = bool(raw[11] & ATTRIBUTE_DIRECTORY)
                    found.append(
                        _Entry(long_name or _short_name(raw), directory, first, _integer(raw[28:32]))
                    )
                long_name = ""
        return tuple(found)

    def _chain(self, cluster: int, limit: int) -> bytes:
        """The content of a chain of clusters, at most `limit` bytes and the rest of a cluster.

        A chain that leads back into itself ends there.
        """
        chain: dict[int, None] = {}
        while 2 <= cluster < self._clusters + 2 and cluster not in chain:
            if len(chain) * self._cluster_size >= limit:
                break
            chain[cluster] = None
            cluster = self._next(cluster)
        starts = (self._data_start + (cluster - 2) * self._cluster_size for cluster in chain)
        return b"".join(self._read(start, self._cluster_size) for start in starts)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            pair = self._integer_in_table(cluster * 3 // 2, 2)
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = self._bits // 8
        return self._integer_in_table(cluster * width, width) & 0x0FFFFFFF

    def _integer_in_table(self, at: int, width: int) -> int:
        number, within = divmod(at, TABLE_PIECE)
        return _integer(self._table(number)[within : within + width])

    def _table_piece(self, number: int) -> bytes:
        return self._read(self._fat_start + number * TABLE_PIECE, TABLE_PIECE)

    def _read(self, offset: int, size: int) -> bytes:
        return self._disk.read(self._start + offset, size)


def _short_name(raw: bytes) -> str:
    name, extension = (part.decode("latin-1").rstrip(" ") for part in (raw[:8], raw[8:11]))
    return f"{name}.{extension}" if extension else name


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bad(problem: str, *, hint: str = HINT) -> MalformedError:
    return MalformedError(f"EFI system partition: {problem}", hint=hint)
