"""The part of a prediction that a disk decides: boot loader, its configuration, kernel and initrd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.abi.event_log import EV_IPL
from tdxstack.errors import MalformedError, about
from tdxstack.firmware.variables import KeyState
from tdxstack.measurement.expected import ExpectedEvent, hashed, unknown_rest
from tdxstack.measurement.loader_boot import (
    exit_events,
    kernel_version,
    partitions_event,
    program_event,
    stub_events,
)
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim, shim_events
from tdxstack.measurement.unified_kernel import NEW_STUB, UnifiedKernel, smbios_events, systemd_boot_version
from tdxstack.prediction import systemd_boot
from tdxstack.prediction.boot_entries import without_tries
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.filesystems import open_fat
from tdxstack.prediction.grub.follow import GrubBoot, follow
from tdxstack.prediction.grub.volumes import FIRST_DISK, find_volumes, name_others
from tdxstack.prediction.keys import Keys, mok_list
from tdxstack.prediction.partitions import EXTENDED, read_partitions
from tdxstack.prediction.qcow2 import Disk, open_disk
from tdxstack.prediction.systemd_boot import choose

LOADER, SECOND_STAGE, FALLBACK = "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/fbx64.efi"
SAVED_VARIABLES = "NvVars"
GRUB_MODULES = "mods"
GRUB_MEASURES, GRUB_ASKS_FOR_TPM = b"grub_cmd: ", b"tpm2%s present"
DROP_INS = ("loader/addons", "loader/credentials")
"""Directories, besides one of its own, from which systemd-stub adds to the command line and the initrd."""

_GRUB_PREFIX = re.compile(rb"/EFI/[A-Za-z0-9_-]{1,32}(?=\0)")

USE_KNOWN = "use shim and GRUB, systemd-boot, or a unified kernel image"
SOURCE, LOADER_DOES = "disk image", "what the boot loader does"


@dataclass(frozen=True, slots=True)
class Start:
    """What the boot from a disk depends on, besides the disk.

    `keys`: the firmware's. `flushes_fat`: it flushes FAT volumes when boot services end. `smbios_tables`: the
    VMM's structures, None where they are not known. `one_disk`: the machine has no other.
    """

    keys: KeyState
    flushes_fat: bool
    smbios_tables: bytes | None
    one_disk: bool


def disk_events(disk: Path | None, start: Start, called: Path | None = None) -> list[ExpectedEvent]:
    """The events from the first program of a disk to the kernel's first instruction.

    What cannot be known is one event for each register that it concerns, with the reason, which names the
    disk as it is `called`. Raises `UnavailableError` where the disk image is missing.
    """
    found: list[ExpectedEvent] = []
    if disk is None:
        return unknown_rest(LOADER_DOES, SOURCE, "the machine has no disk and no kernel of its own")
    try:
        with open_disk(disk) as opened, about(f"disk image {called or disk}"):
            found.extend(_DiskBoot(opened, start).events())
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
            systems = [system for start in starts if (system := open_fat(disk, start)) is not None]
            return cls(bool(systems), any(system.read(SAVED_VARIABLES) is not None for system in systems))


class _DiskBoot:
    """One disk, followed from its EFI system partition."""

    def __init__(self, disk: Disk, start: Start) -> None:
        self._table = read_partitions(disk)
        self._esp = Fat(disk, self._table.esp.start)
        self._disk = disk
        self._start = start
        self._keys = Keys(start.keys)

    def events(self) -> Iterator[ExpectedEvent]:
        loader = self._image(LOADER)
        with about(LOADER):
            yield from self._keys.firmware_lets(loader, LOADER)
        yield partitions_event(self._table.measured)
        yield program_event(loader, LOADER, SOURCE)
        with about(LOADER):
            shim = Shim.parse(loader)
        if shim is None:
            yield from self._run(loader, LOADER, None)
        else:
            yield from shim_events(shim, mok_list(shim), secure_boot=self._keys.enforced)
            if self._esp.read(FALLBACK) is not None:
                raise MalformedError(f"{FALLBACK} makes boot options and starts them", hint="remove it")
            second = self._image(SECOND_STAGE)
            yield from self._load(second, SECOND_STAGE, shim)
            yield from self._run(second, SECOND_STAGE, shim)
        yield from exit_events(retried=self._start.flushes_fat)

    def _load(self, image: Image, name: str, shim: Shim | None) -> Iterator[ExpectedEvent]:
        """A program that shim loads, or the firmware where there is none."""
        with about(name):
            yield from self._keys.let(image, name, shim)
        yield program_event(image, name, SOURCE)

    def _run(self, program: Image, name: str, shim: Shim | None) -> Iterator[ExpectedEvent]:
        """What a first program does, or shim's second stage."""
        unified, version = _unified_kernel(program, name), systemd_boot_version(program)
        if unified is not None:
            yield from self._unified(unified, self._esp, name, "")
        elif version is not None:
            yield from self._systemd_boot(version, name, shim)
        elif shim is not None and program.section(GRUB_MODULES) is not None:
            yield from self._grub(program, shim)
        else:
            raise MalformedError(f"{name} is a boot loader that is not known", hint=USE_KNOWN)

    def _unified(
        self, unified: UnifiedKernel, volume: Fat, path: str, options: str
    ) -> Iterator[ExpectedEvent]:
        if unified.stub == NEW_STUB:
            raise MalformedError(
                f"systemd-stub {NEW_STUB} on a disk adds a secret to the initrd that nobody knows beforehand",
                hint="give the image to QEMU as the kernel",
            )
        for directory in (f"{without_tries(path)}.extra.d", *DROP_INS):
            if names := volume.names(directory):
                raise MalformedError(
                    f"systemd-stub may add {directory}/{names[0]} to what it starts, which is not followed",
                    hint="build it into the unified kernel image",
                )
        # An option that edk2 made by itself gives the program no load options.
        with about(path):
            yield from unified.events(options, path, secure_boot=self._keys.enforced, smbios_tables=b"")

    def _systemd_boot(self, version: int, itself: str, shim: Shim | None) -> Iterator[ExpectedEvent]:
        partition = next((part for part in self._table.partitions if part.type == EXTENDED), None)
        extended = open_fat(self._disk, partition.start) if partition else None
        choice = choose(version, itself, self._esp, extended, self._start.keys)
        if version == systemd_boot.NEW:
            if self._start.smbios_tables is None:
                raise MalformedError(
                    f"systemd-boot {version} measures SMBIOS structures, which the platform does not publish",
                    hint="use systemd-boot 257",
                )
            yield from smbios_events(self._start.smbios_tables)
            if choice.configuration is not None:
                meaning = f"systemd-boot's {systemd_boot.CONFIGURATION}"
                yield hashed("rtmr1", EV_IPL, choice.configuration, meaning, SOURCE)
        entry = choice.entry
        program = _program(entry.volume.read(entry.program) or b"", entry.program)
        initrd, options = choice.initrd, choice.options
        yield from self._load(program, entry.program, shim)
        if options:
            data = (options + "\0").encode("utf-16-le")
            yield hashed("rtmr2", EV_IPL, data, f"load options from systemd-boot: {options}", SOURCE)
        unified = _unified_kernel(program, entry.program)
        if unified is None:
            _check_kernel(program.data, entry.program)
            yield from stub_events(program.data, options, initrd, terminated=True)
        elif initrd:
            raise MalformedError(
                f"{entry.name} gives a unified kernel image a second initrd", hint="build it into the image"
            )
        else:
            yield from self._unified(unified, entry.volume, entry.program, options)

    def _grub(self, program: Image, shim: Shim) -> Iterator[ExpectedEvent]:
        boot = self._grub_boot(program)
        if self._keys.enforced:
            # Without Secure Boot, GRUB loads the kernel by itself: nobody measures it.
            yield from self._load(_program(boot.kernel, boot.kernel_path), boot.kernel_path, shim)
        _check_kernel(boot.kernel, boot.kernel_path)
        yield from stub_events(boot.kernel, boot.command_line, boot.initrd, terminated=False)

    def _image(self, path: str) -> Image:
        data = self._esp.read(path)
        if data is None:
            raise MalformedError(f"the EFI system partition has no file {path}", hint="install a boot loader")
        return _program(data, path)

    def _grub_boot(self, grub: Image) -> GrubBoot:
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
        # With more disks, it is not known which of them GRUB finds first.
        volumes = find_volumes(
            self._disk, self._table.partitions, FIRST_DISK if self._start.one_disk else "disk"
        )
        start, path = volumes[self._table.esp.number], f"/{paths[0].lstrip('/')}"
        others = name_others(self._disk, self._table.partitions, volumes)
        secure_boot = self._keys.enforced
        return follow(start, path, [*volumes.values()], secure_boot=secure_boot, others=others)


def _program(data: bytes, path: str) -> Image:
    with about(path):
        return Image.parse(data)


def _unified_kernel(program: Image, path: str) -> UnifiedKernel | None:
    with about(path):
        return UnifiedKernel.parse(program)


def _check_kernel(data: bytes, path: str) -> None:
    if kernel_version(data) is None:
        raise MalformedError(f"{path} is no Linux kernel", hint=USE_KNOWN)
