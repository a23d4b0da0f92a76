"""The kernel of a guest image, for machines whose firmware does not start it from the disk."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import MalformedError
from tdxstack.files import write_atomically
from tdxstack.image.built import INITRD, KERNEL, Image
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.partitions import Partition, read_partitions
from tdxstack.prediction.qcow2 import Disk, open_disk

HINT = "build the image again with `tdx image build --boot direct`"


def kernel_beside(image: Image) -> DirectKernel | None:
    """The kernel that lies beside the disk, for an image of which firmware starts nothing; else None."""
    kernel = image.file(KERNEL)
    if kernel is None:
        return None
    return DirectKernel(kernel=kernel, initrd=image.file(INITRD), command_line=image.kernel_command_line)


def take_kernel(image: Image, directory: Path, *arguments: str) -> DirectKernel:
    """Put kernel and initrd of `image` into `directory`; its command line gets `arguments` at the end.

    Raises `MalformedError` where the image does not have them where ours have.
    """
    boot = kernel_in(image, directory, *arguments)
    with open_disk(image.path) as disk:
        root = _root(disk, image)
        for path in (boot.kernel, boot.initrd):
            if path is not None:
                _place(root, path)
    return boot


def kernel_in(image: Image, directory: Path, *arguments: str) -> DirectKernel:
    """What `take_kernel` makes."""
    return DirectKernel(
        kernel=directory / f"vmlinuz-{image.kernel_version}",
        initrd=directory / f"initrd.img-{image.kernel_version}",
        command_line=" ".join([image.kernel_command_line, *arguments]),
    )


def _root(disk: Disk, image: Image) -> Ext4:
    for partition in read_partitions(disk).partitions:
        system = _ext4(disk, partition)
        if system is not None and str(system.uuid) == image.root_uuid:
            return system
    raise MalformedError(f"{image.path} has no root file system {image.root_uuid}", hint=HINT)


def _ext4(disk: Disk, partition: Partition) -> Ext4 | None:
    try:
        return Ext4(disk, partition.start)
    except MalformedError:
        return None


def _place(root: Ext4, target: Path) -> None:
    source = f"boot/{target.name}"
    data = root.read(source)
    if data is None:
        raise MalformedError(f"the guest image has no /{source}", hint=HINT)
    write_atomically(target, data)
