"""A guest's disk: an EFI system partition and a root file system, filled without mounting anything."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from tdxstack.image import recipe
from tdxstack.image.gpt import SECTOR, Partition, PartitionTable, two_partitions
from tdxstack.image.guest_side import GuestFile
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.programs import Toolbox

_SECONDS = 10 * 60.0


def table() -> PartitionTable:
    """The partition table of every guest's disk."""
    return two_partitions(
        recipe.DISK_UUID,
        recipe.ESP_UUID,
        recipe.ROOT_PARTITION_UUID,
        esp_size=recipe.ESP_SIZE,
        size=recipe.DISK_SIZE,
    )


def root_archive(base: Path, files: Sequence[GuestFile], target: Path, *, epoch: int) -> None:
    """Write the tar archive `base` to `target` with `files`, dated `epoch`, added or in place of its own."""
    replaced = {file.path for file in files}
    with tarfile.open(base) as source, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as out:
        directories = set()
        for member in source:
            name = member.name.removeprefix("./")
            if member.isdir():
                directories.add(name)
            if name not in replaced:
                out.addfile(member, source.extractfile(member) if member.isreg() else None)
        for file in files:
            _add_parents(out, file.path, directories, epoch)
            info = tarfile.TarInfo(f"./{file.path}")
            info.mtime, info.mode, info.size = epoch, file.mode, len(file.data)
            if file.link:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
            out.addfile(info, BytesIO(file.data))


def assemble(
    toolbox: Toolbox, root: Path, esp: Mapping[str, bytes], work: Path, *, epoch: int, report: Report = silent
) -> Path:
    """Make the qcow2 disk whose root file system is the tar archive `root`, and return its path.

    `esp` are the files of the EFI system partition by path. Raises `CommandError` where a program fails, also
    for want of space.
    """
    layout = table()
    esp_partition, root_partition = layout.partitions
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(layout.size)
        file.write(layout.primary())
        file.seek(layout.backup_offset)
        file.write(layout.backup())

    def tool(name: str, *arguments: str | Path) -> None:
        # Both keep the times in the file systems the same everywhere.
        fixed = ["env", "TZ=UTC", f"SOURCE_DATE_EPOCH={epoch}"]
        run([*fixed, *toolbox.program(name, report).argv(*arguments)], timeout=_SECONDS)

    tool("mkfs.vfat", *vfat_arguments(esp_partition), raw, str(esp_partition.size // 1024))
    _fill_esp(tool, f"{raw}@@{esp_partition.start}", esp, work / "esp", epoch)
    tool("mkfs.ext4", *ext4_arguments(root_partition), "-d", root, raw, f"{root_partition.size // 1024}k")
    disk = work / "disk.qcow2"
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    raw.unlink()
    return disk


def vfat_arguments(partition: Partition) -> list[str]:
    """What mkfs.vfat makes the EFI system partition with."""
    return [
        "--invariant",
        "-F",
        "16",
        "-i",
        recipe.ESP_VOLUME_ID,
        "-n",
        "ESP",
        f"--offset={partition.start // SECTOR}",
    ]


def ext4_arguments(partition: Partition) -> list[str]:
    """What mkfs.ext4 makes the root file system with: nothing random, nothing left to do on first use."""
    extended = (
        f"offset={partition.start}",
        f"hash_seed={recipe.HASH_SEED}",
        "assume_storage_prezeroed=1",
        "lazy_itable_init=0",
        "lazy_journal_init=0",
        "nodiscard",
    )
    return ["-q", "-F", "-L", "root", "-U", str(recipe.ROOT_UUID), "-m", "0", "-E", ",".join(extended)]


def _fill_esp(
    tool: Callable[..., None], image: str, files: Mapping[str, bytes], staging: Path, epoch: int
) -> None:
    staging.mkdir()
    made: set[str] = set()
    for index, (path, data) in enumerate(sorted(files.items())):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory = "/".join(parts[:depth])
            if directory not in made:
                tool("mmd", "-i", image, f"::{directory}")
                made.add(directory)
        source = staging / str(index)
        source.write_bytes(data)
        os.utime(source, (epoch, epoch))
        tool("mcopy", "-m", "-i", image, source, f"::{path}")


def _add_parents(out: tarfile.TarFile, path: str, present: set[str], epoch: int) -> None:
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if name not in present:
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, epoch
            out.addfile(info)
            present.add(name)
