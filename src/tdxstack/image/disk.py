"""A guest's disk: an EFI system partition and a root file system, filled without mounting anything."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tdxstack.errors import CommandError
from tdxstack.image.gpt import (
    ESP_TYPE,
    ROOT_X86_64_TYPE,
    ROOT_X86_64_VERITY_TYPE,
    SECTOR,
    Partition,
    PartitionTable,
    Wanted,
    consecutive,
)
from tdxstack.image.recipe import Format, Root
from tdxstack.run import Completed, Report, run, silent
from tdxstack.toolbox.programs import Toolbox

ESP_SIZE = 32 << 20
"""Bytes of the EFI system partition, unless its files need more."""

DISK_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3031")
ESP_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3032")
ROOT_PARTITION_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3033")
ROOT_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034")
HASH_SEED = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3035")
VERITY_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3036")
ESP_VOLUME_ID = "74647831"

_SECONDS = 10 * 60.0
_ROOT_HASH = re.compile(r"[0-9a-f]{64}")
_FAT_OVERHEAD = 4 << 20


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs of the toolbox, run so that the same input gives the same bytes everywhere."""

    toolbox: Toolbox
    epoch: int
    """Time of everything that is made, in seconds since 1970."""
    report: Report = silent

    def run(self, name: str, *arguments: str | Path) -> Completed:
        """Run the program `name` to its end. Raises `CommandError` where it fails, also for want of space."""
        fixed = ["env", "TZ=UTC", f"SOURCE_DATE_EPOCH={self.epoch}"]
        program = self.toolbox.program(name, self.report)
        return run([*fixed, *program.argv(*arguments)], timeout=_SECONDS)


@dataclass(frozen=True, slots=True)
class VerifiedRoot:
    """A read-only file system and its hash tree (dm-verity), as files."""

    data: Path
    hashes: Path
    root_hash: str
    """SHA-256 in hex."""


def verified_root(tools: Tools, kind: Root, archive: Path, work: Path) -> VerifiedRoot:
    """Make the file system of the tar archive `archive` and its hash tree, below `work`."""
    data, hashes, digest = work / "root.img", work / "root.verity", work / "root.hash"
    if kind is Root.VERITY_EROFS:
        # lz4 takes a third off what is read and hashed, and is unpacked faster than it is hashed
        fixed = ("-zlz4", f"-T{tools.epoch}", "--mkfs-time", f"-U{ROOT_UUID}")
        tools.run("mkfs.erofs", "--quiet", *fixed, "--tar=f", data, archive)
    else:
        # what ext4 needs besides the files' contents: inodes, bitmaps, partly filled blocks
        size = archive.stat().st_size * 5 // 4 + (32 << 20)
        arguments = [*ext4_arguments(0), "-O", "^has_journal", "-d", str(archive), str(data)]
        tools.run("mkfs.ext4", *arguments, f"{size // 4096 * 4}k")
    salt = HASH_SEED.bytes.hex()
    # the file of the root hash is what veritysetup creates, but the others it opens
    hashes.touch()
    tools.run(
        "veritysetup",
        *("format", f"--uuid={VERITY_UUID}", f"--salt={salt}", "--hash=sha256"),
        *(f"--root-hash-file={digest}", data, hashes),
    )
    found = digest.read_text().strip()
    if not _ROOT_HASH.fullmatch(found):
        raise CommandError(f"veritysetup gave no root hash but {found[:80]!r}")
    return VerifiedRoot(data, hashes, found)


def table(root: VerifiedRoot | None, esp: Mapping[str, bytes], *, size: int) -> PartitionTable:
    """The partition table of a disk. `size` bytes count for a root that is not verified.

    The partitions of a verified root are named by its root hash, as the Discoverable Partitions
    Specification has it. Without files there is no EFI system partition.
    """
    wanted = [Wanted("esp", ESP_TYPE, ESP_UUID, _esp_size(esp))] if esp else []
    if root is None:
        wanted.append(Wanted("root", ROOT_X86_64_TYPE, ROOT_PARTITION_UUID, 0))
        return consecutive(DISK_UUID, wanted, size=size)
    digest = bytes.fromhex(root.root_hash)
    data, hashes = UUID(bytes=digest[:16]), UUID(bytes=digest[16:])
    wanted.append(Wanted("root", ROOT_X86_64_TYPE, data, root.data.stat().st_size))
    wanted.append(Wanted("root-verity", ROOT_X86_64_VERITY_TYPE, hashes, root.hashes.stat().st_size))
    return consecutive(DISK_UUID, wanted)


def assemble(
    tools: Tools, root: Path | VerifiedRoot, esp: Mapping[str, bytes], work: Path, *, size: int
) -> Path:
    """Make the raw, sparse disk and return its path.

    `root` is the tar archive of a writable ext4 root file system, or a verified root. `esp` are the files
    of the EFI system partition by path. Raises `CommandError` where a program fails.
    """
    verified = root if isinstance(root, VerifiedRoot) else None
    layout = table(verified, esp, size=size)
    partitions = {partition.name: partition for partition in layout.partitions}
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(layout.size)
        file.write(layout.primary())
        file.seek(layout.backup_offset)
        file.write(layout.backup())
    if esp:
        tools.run("mkfs.vfat", *vfat_arguments(partitions["esp"]), raw, str(partitions["esp"].size // 1024))
        fill_fat(tools, f"{raw}@@{partitions['esp'].start}", esp, work / "esp")
    if verified is not None:
        _copy_into(raw, partitions["root"].start, verified.data)
        _copy_into(raw, partitions["root-verity"].start, verified.hashes)
    else:
        place = partitions["root"]
        arguments = [*ext4_arguments(place.start), "-d", str(root), str(raw)]
        tools.run("mkfs.ext4", *arguments, f"{place.size // 1024}k")
    return raw


def convert(tools: Tools, raw: Path, target: Path, kind: Format) -> None:
    """Turn the disk `raw` into the file `target` of another format; `raw` is gone afterwards."""
    if kind is Format.RAW:
        raw.replace(target)
        return
    compressed = ("-c", "-o", "compression_type=zstd") if kind is Format.QCOW2_ZSTD else ()
    tools.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *compressed, raw, target)
    raw.unlink()


def vfat_arguments(partition: Partition) -> list[str]:
    """What mkfs.vfat makes the EFI system partition with."""
    return [
        *("--invariant", "-F", "16", "-i", ESP_VOLUME_ID, "-n", "ESP"),
        f"--offset={partition.start // SECTOR}",
    ]


def ext4_arguments(start: int) -> list[str]:
    """What mkfs.ext4 makes the root file system with: nothing random, nothing left to do on first use."""
    extended = (
        f"offset={start}",
        f"hash_seed={HASH_SEED}",
        "assume_storage_prezeroed=1",
        "lazy_itable_init=0",
        "lazy_journal_init=0",
        "nodiscard",
    )
    return ["-q", "-F", "-L", "root", "-U", str(ROOT_UUID), "-m", "0", "-E", ",".join(extended)]


def fill_fat(tools: Tools, image: str, files: Mapping[str, bytes], staging: Path) -> None:
    """Put `files` into the FAT file system `image`, as mtools name it; `staging` is a new directory."""
    staging.mkdir()
    made: set[str] = set()
    for index, (path, data) in enumerate(sorted(files.items())):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory = "/".join(parts[:depth])
            if directory not in made:
                tools.run("mmd", "-i", image, f"::{directory}")
                made.add(directory)
        source = staging / str(index)
        source.write_bytes(data)
        os.utime(source, (tools.epoch, tools.epoch))
        tools.run("mcopy", "-m", "-i", image, source, f"::{path}")


def _esp_size(files: Mapping[str, bytes]) -> int:
    return max(ESP_SIZE, sum(len(data) for data in files.values()) + _FAT_OVERHEAD)


def _copy_into(disk: Path, offset: int, source: Path) -> None:
    with disk.open("r+b") as out, source.open("rb") as file:
        out.seek(offset)
        while chunk := file.read(4 << 20):
            out.write(chunk)
