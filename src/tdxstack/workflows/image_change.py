"""Disk images in another form, and larger ones: by qemu-img, sfdisk and resize2fs, without root or mounts.

Everything is done to a copy, which takes the place of the image at the end and in one step.
"""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tdxstack.errors import CommandError, UsageError
from tdxstack.machine.qemu_text import escape
from tdxstack.prediction.filesystems import EXT4, content_name
from tdxstack.prediction.partitions import SECTOR, Partition, read_partitions
from tdxstack.prediction.qcow2 import image_format, open_disk
from tdxstack.run import command_line, failure, run
from tdxstack.toolbox.programs import Program

ALIGNMENT = 1 << 20
BACKUP_SIZE = 33 * SECTOR
"""Bytes of the copy of the partition table at the end of a disk."""

MAX_SIZE = 1 << 44
_SIZE = re.compile(r"(\+?)(\d{1,9})([MGT])")
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = 60 * 60.0

E2FSCK_REPAIRED = 1
"""Exit status of e2fsck that has corrected all that it found."""


class Form(StrEnum):
    """Forms of disk images."""

    RAW = "raw"
    QCOW2 = "qcow2"

    @classmethod
    def of_name(cls, path: Path) -> Form:
        """The form that a file's name asks for. Raises `UsageError` for one that asks for none."""
        forms = {".raw": cls.RAW, ".img": cls.RAW, ".qcow2": cls.QCOW2}
        if path.suffix not in forms:
            raise UsageError(
                f"{path} names no form of image", hint="call it .raw or .qcow2, or give --format"
            )
        return forms[path.suffix]


Programs = Mapping[str, Program]
GROWTH_PROGRAMS = ("qemu-img", "sfdisk", "e2fsck", "resize2fs")
"""By name; for converting, qemu-img alone."""


def convert_command(programs: Programs, source: Path, target: Path, form: Form) -> list[str]:
    """What writes `source` in the form `form` into `target`: raw is sparse, qcow2 compressed with zstd."""
    packed = ("-c", "-o", "compression_type=zstd") if form is Form.QCOW2 else ()
    return _convert(programs, source, target, form, *packed)


def convert(programs: Programs, source: Path, target: Path, form: Form) -> None:
    """Write the image `source` in another form. Raises `UsageError` for one image, `CommandError`."""
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the image itself", hint="name another file")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        made = Path(name, "disk")
        run(convert_command(programs, source, made, form), timeout=_SECONDS)
        made.replace(target)


@dataclass(frozen=True, slots=True)
class Growth:
    """What growing an image changes: the size of the disk, and of its last partition and the ext4 in it."""

    image: Path
    partition: Partition
    old_size: int
    size: int

    @property
    def partition_size(self) -> int:
        """Bytes of the partition afterwards."""
        end = (self.size - BACKUP_SIZE) // ALIGNMENT * ALIGNMENT
        return end - self.partition.start

    def commands(self, programs: Programs, work: Path, made: Path) -> list[list[str]]:
        """What is run, in order, with files in `work`; `made` is the result."""
        disk, system = work / "disk.raw", work / "partition.raw"
        place = f"offset={self.partition.start},size={self.partition_size}"
        window = f"driver=raw,{place},file.filename={escape(disk)}"
        image_tool, number = programs["qemu-img"], str(self.partition.number)
        return [
            _convert(programs, self.image, disk, Form.RAW),
            image_tool.argv("resize", "-q", "-f", "raw", disk, str(self.size)),
            programs["sfdisk"].argv("-q", "--no-reread", "--no-tell-kernel", "-N", number, disk),
            image_tool.argv("convert", "--image-opts", window, "-O", "raw", system),
            programs["e2fsck"].argv("-f", "-p", system),
            programs["resize2fs"].argv(system),
            programs["e2fsck"].argv("-f", "-n", system),
            image_tool.argv("convert", "-n", "-f", "raw", system, "--target-image-opts", window),
            image_tool.argv("convert", "-f", "raw", "-O", image_format(self.image), disk, made),
        ]

    def input_of(self, command: list[str]) -> bytes:
        """What a command is given on standard input: the partition's new size, for sfdisk."""
        return f",{self.partition_size // SECTOR}\n".encode() if "-N" in command else b""


def parse_size(text: str, now: int) -> int:
    """A size in bytes such as 8G, or +2G more than `now`. Raises `UsageError`."""
    found = _SIZE.fullmatch(text)
    size = int(found[2]) * _UNITS[found[3]] + (now if found[1] else 0) if found else 0
    if not 0 < size <= MAX_SIZE:
        raise UsageError(
            f"{text[:40]!r} is no size of a disk", hint="give it as 8G, or as +2G for what to add"
        )
    return size


def plan_growth(image: Path, readable: Path, text: str) -> Growth:
    """How to grow an image to the size `text`; `readable` is the same image in a form that is read here.

    Raises `MalformedError` for what is no disk, `UsageError` where the last partition holds no ext4 or the
    size is no larger one.
    """
    with open_disk(readable) as disk:
        partitions = read_partitions(disk).partitions
        if not partitions:
            raise UsageError(f"{image} has no partition to grow", hint="give an image with a root partition")
        last = max(partitions, key=lambda one: one.start)
        content = content_name(disk, last.start)
        growth = Growth(image, last, disk.size, parse_size(text, disk.size))
    if content != EXT4:
        raise UsageError(
            f"the last partition of {image} ({last.number}) holds {content or 'nothing known'}, not ext4",
            hint="only ext4 is grown; an image with a verified or encrypted root is built anew",
        )
    if growth.size < growth.old_size or growth.partition_size <= last.size:
        raise UsageError(
            f"{text} leaves no more room than the {growth.old_size} bytes of {image}",
            hint="give a larger size; images are not made smaller",
        )
    return growth


def grow(programs: Programs, growth: Growth, target: Path) -> None:
    """Write the grown image into `target`, which may be the image itself.

    Raises `CommandError` where a program fails; the image is as it was then.
    """
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        work = Path(name)
        made = work / "made"
        for command in growth.commands(programs, work, made):
            done = run(command, input=growth.input_of(command), timeout=_SECONDS, check=False)
            repaired = "-p" in command and done.returncode == E2FSCK_REPAIRED
            if done.returncode and not repaired:
                text = (done.stdout + done.stderr).decode(errors="replace")
                raise failure(command, done.returncode, text)
        _check(growth, made)
        if target.exists():
            made.chmod(stat.S_IMODE(target.stat().st_mode))
        made.replace(target)


def _check(growth: Growth, made: Path) -> None:
    """Raise `CommandError` unless the image has become what was planned."""
    with open_disk(made) as disk:
        found = {one.number: one for one in read_partitions(disk).partitions}[growth.partition.number]
        if (disk.size, found.size) != (growth.size, growth.partition_size):
            raise CommandError(
                f"the grown image has {disk.size} bytes and a partition of {found.size}",
                hint="nothing was changed; report this",
            )


def _convert(programs: Programs, source: Path, target: Path, form: Form, *options: str) -> list[str]:
    """qemu-img's command, told the form that was seen, so that it does not guess at others."""
    return programs["qemu-img"].argv(
        "convert", "-f", image_format(source), "-O", form.value, *options, source, target
    )


def shown(growth: Growth, command: list[str]) -> str:
    """A command of `Growth.commands` as a person would type it."""
    given = growth.input_of(command).decode().strip()
    return f"echo '{given}' | {command_line(command)}" if given else command_line(command)
