"""The file systems of a disk, as GRUB finds and names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tdxstack.errors import MalformedError
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.filesystems import content_name, open_fat
from tdxstack.prediction.grub.files import Volume
from tdxstack.prediction.partitions import Partition
from tdxstack.prediction.qcow2 import Disk

FIRST_DISK = "hd0"


def find_volumes(disk: Disk, partitions: Sequence[Partition], name: str = FIRST_DISK) -> dict[int, Volume]:
    """The ext4 and FAT file systems by the number of their partition; `name` is what GRUB calls the disk."""
    found = {}
    for one in partitions:
        files = _ext4(disk, one.start) or open_fat(disk, one.start)
        if files is not None:
            found[one.number] = Volume(f"{name},gpt{one.number}", files, str(files.uuid), files.label)
    return found


def name_others(disk: Disk, partitions: Sequence[Partition], found: Mapping[int, Volume]) -> list[str]:
    """What the partitions hold that have no file system in `found`, as far as it is known."""
    names = {one.number: content_name(disk, one.start) for one in partitions if one.number not in found}
    return [f"partition {number} holds {name}, which is not read" for number, name in names.items() if name]


def _ext4(disk: Disk, start: int) -> Ext4 | None:
    try:
        return Ext4(disk, start)
    except MalformedError:
        return None  # of another kind; the search for it by name will say so
