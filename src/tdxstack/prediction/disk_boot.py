"""The part of a prediction that a disk decides: boot loader, its configuration, kernel and initrd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import Contents
from tdxstack.measurement.expected import ExpectedEvent, unknown_rest
from tdxstack.measurement.loader_boot import exit_events, partitions_event, program_event, stub_events
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim, shim_events
from tdxstack.measurement.unified_kernel import LINUX, NEW_STUB, UnifiedKernel, loader_name
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.grub_config import GrubBoot, follow
from tdxstack.prediction.keys import Keys, mok_list
from tdxstack.prediction.partitions import Partition, read_partitions
from tdxstack.prediction.qcow2 import Disk, open_disk

LOADER, SECOND_STAGE, FALLBACK = "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/fbx64.efi"
SAVED_VARIABLES = "NvVars"
GRUB_MODULES = "mods"
GRUB_MEASURES, GRUB_ASKS_FOR_TPM = b"grub_cmd: ", b"tpm2%s present"
DROP_INS = (f"{LOADER}.extra.d", "loader/addons", "loader/credentials")
"""Directories from which systemd-stub adds to the command line and the initrd."""

_GRUB_PREFIX = re.compile(rb"/EFI/[A-Za-z0-9_-]{1,32}(?=\0)")

USE_KNOWN = "use shim and GRUB, or a unified kernel image"
SOURCE, LOADER_DOES = "disk image", "what the boot loader does"


def disk_events(disk: Path | None, contents: Contents) -> list[ExpectedEvent]:
    """The events from the first program of a disk to the kernel's first instruction.

    What cannot be known is one event for each register that it concerns, with the reason.
    Raises `UnavailableError` where the disk image is missing.
    """
    found: list[ExpectedEvent] = []
    if disk is None:
        return unknown_rest(LOADER_DOES, SOURCE, "the machine has no disk and no kernel of its own")
    try:
        with open_disk(disk) as opened:
            found.extend(_DiskBoot(opened, contents).events())
    except MalformedError as error:
        found += unknown_rest(LOADER_DOES, SOURCE, error.message)
    return found


@dataclass(frozen=True, slots=True)
class Volumes:
    """What edk2 finds on a disk before it boots, from wherever that is.

    `fat`: it has a FAT file system. `saved_variables`: on one of them is the file in which a firmware without
    Secure Boot keeps variables, for want of flash.
    """

    fat: bool = False
    saved_variables: bool = False

    @classmethod
    def of(cls, path: Path) -> Volumes:
        """Look at a disk image. Raises as `open_disk` does."""
        with open_disk(path) as disk:
            try:
                starts = [partition.start for partition in read_partitions(disk).partitions]
            except MalformedError:
                starts = [0]
            systems = [system for start in starts if (system := _fat(disk, start)) is not None]
            return cls(bool(systems), any(system.read(SAVED_VARIABLES) is not None for system in systems))


def _fat(disk: Disk, start: int) -> Fat | None:
    try:
        return Fat(disk, start)
    except MalformedError:
        return None


class _DiskBoot:
    """One disk, followed from its EFI system partition."""

    def __init__(self, disk: Disk, contents: Contents) -> None:
        self._table = read_partitions(disk)
        self._esp = Fat(disk, self._table.esp.start)
        self._disk = disk
        self._keys = Keys(contents)
        self._retried = contents.profile.shown.fat_flush

    def events(self) -> Iterator[ExpectedEvent]:
        loader = self._image(LOADER)
        yield from self._keys.firmware_lets(loader, LOADER)
        yield partitions_event(self._table.measured)
        yield program_event(loader, LOADER, SOURCE)
        unified = UnifiedKernel.parse(loader)
        if unified is not None:
            yield from self._unified(unified)
            return
        shim = Shim.parse(loader)
        if shim is None:
            raise _not_followed(loader, LOADER)
        yield from shim_events(shim, mok_list(shim), secure_boot=self._keys.enforced)
        if self._esp.read(FALLBACK) is not None:
            raise MalformedError(f"{FALLBACK} makes boot options and starts them", hint="remove it")
        grub = self._image(SECOND_STAGE)
        yield from self._keys.shim_lets(grub, SECOND_STAGE, shim)
        yield program_event(grub, SECOND_STAGE, SOURCE)
        boot = self._grub(grub)
        if self._keys.enforced:
            # Without Secure Boot, GRUB loads the kernel by itself: nobody measures it.
            kernel = Image.parse(boot.kernel)
            yield from self._keys.shim_lets(kernel, boot.kernel_path, shim)
            yield program_event(kernel, boot.kernel_path, SOURCE)
        yield from stub_events(boot.kernel, boot.command_line, boot.initrd, terminated=False)
        yield from exit_events(retried=self._retried)

    def _unified(self, unified: UnifiedKernel) -> Iterator[ExpectedEvent]:
        if unified.stub == NEW_STUB:
            raise MalformedError(
                f"systemd-stub {NEW_STUB} on a disk adds a secret to the initrd that nobody knows beforehand",
                hint="give the image to QEMU as the kernel",
            )
        for directory in DROP_INS:
            if names := self._esp.names(directory):
                raise MalformedError(
                    f"systemd-stub may add {directory}/{names[0]} to what it starts, which is not followed",
                    hint="build it into the unified kernel image",
                )
        # An option that edk2 made by itself gives the program no load options.
        yield from unified.events("", LOADER, secure_boot=self._keys.enforced, smbios_tables=b"")
        yield from exit_events(retried=self._retried)

    def _image(self, path: str) -> Image:
        data = self._esp.read(path)
        if data is None:
            raise MalformedError(f"the EFI system partition has no file {path}", hint="install a boot loader")
        return Image.parse(data)

    def _grub(self, grub: Image) -> GrubBoot:
        if grub.section(GRUB_MODULES) is None:
            raise _not_followed(grub, SECOND_STAGE)
        if GRUB_MEASURES in grub.data and GRUB_ASKS_FOR_TPM not in grub.data:
            raise MalformedError(
                "this GRUB measures its commands although there is no TPM, which is not followed",
                hint="use GRUB 2.12 or newer",
            )
        prefixes = {match.group().decode() for match in _GRUB_PREFIX.finditer(grub.data)}
        paths = [
            path for prefix in sorted(prefixes) if self._esp.read(path := f"{prefix}/grub.cfg") is not None
        ]
        if len(paths) != 1:
            raise MalformedError(
                f"the EFI system partition has {len(paths)} configurations of GRUB where it looks for one",
                hint="see which directory the signed GRUB was built for",
            )
        by_uuid = {
            str(system.uuid): system
            for part in self._table.partitions
            if (system := self._ext4(part)) is not None
        }
        return follow(self._esp, paths[0], by_uuid)

    def _ext4(self, partition: Partition) -> Ext4 | None:
        if partition == self._table.esp:
            return None
        try:
            return Ext4(self._disk, partition.start)
        except MalformedError:
            return None  # of another kind; the search for it by name will say so


def _not_followed(image: Image, name: str) -> MalformedError:
    if image.section(LINUX) is not None:
        return MalformedError(
            f"{name} is a unified kernel image behind shim, which is not followed",
            hint=f"start it as {LOADER}",
        )
    known = loader_name(image) or "a boot loader that is not known"
    return MalformedError(f"{name} is {known}, neither shim nor GRUB", hint=USE_KNOWN)
