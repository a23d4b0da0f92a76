"""What a partition holds, told by its signature.

Sources: the formats' own documentation, as libblkid has it: Linux Documentation/filesystems, LUKS1 and LUKS2
on-disk format specifications, systemd's and cryptsetup's dm-verity superblock.
"""

from __future__ import annotations

from tdxstack.errors import MalformedError
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.qcow2 import Disk

EXT4, FAT, LUKS = "ext4", "FAT", "LUKS"

_SIGNATURES = (
    (0, b"LUKS\xba\xbe", LUKS),
    (0, b"verity\0\0", "dm-verity hashes"),
    (0, b"XFSB", "XFS"),
    (0, b"hsqs", "squashfs"),
    (512, b"LABELONE", "LVM"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (4086, b"SWAPSPACE2", "swap"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (1024 + 56, b"\x53\xef", EXT4),
)


def content_name(disk: Disk, start: int) -> str | None:
    """What starts at a byte of a disk, such as `ext4` or `LUKS`; None for nothing that is known."""
    for offset, signature, name in _SIGNATURES:
        if disk.read(start + offset, len(signature)) == signature:
            return name
    return FAT if open_fat(disk, start) is not None else None


def open_fat(disk: Disk, start: int) -> Fat | None:
    """The FAT file system there, None for another or a broken one."""
    try:
        return Fat(disk, start)
    except MalformedError:
        return None
