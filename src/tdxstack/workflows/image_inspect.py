"""What a disk image is: partitions, file systems, boot chain, kernels, and who would let them start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import Contents
from tdxstack.firmware.keys import OwnKeys
from tdxstack.firmware.variables import SecureBoot
from tdxstack.image.kernel import missing_options
from tdxstack.measurement.loader_boot import kernel_release
from tdxstack.prediction.disk_boot import LOADER, SECOND_STAGE
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import MAX_LISTED, Fat
from tdxstack.prediction.filesystems import EXT4, LUKS, content_name
from tdxstack.prediction.grub.follow import GrubBoot, follow
from tdxstack.prediction.grub.volumes import find_volumes
from tdxstack.prediction.keys import databases
from tdxstack.prediction.partitions import ESP, EXTENDED, Partition, read_partitions
from tdxstack.prediction.programs import (
    GRUB,
    KERNEL,
    SHIM,
    SYSTEMD_BOOT,
    UNIFIED_KERNEL,
    KeyList,
    Program,
    describe_program,
    shim_keys,
)
from tdxstack.prediction.qcow2 import (
    Disk,
    Qcow2,
    backing_file,
    image_format,
    open_disk,
)
from tdxstack.prediction.systemd_boot import choose
from tdxstack.run import Report, silent
from tdxstack.toolbox.programs import Toolbox
from tdxstack.workflows.readable_disk import readable

TYPE_NAMES: Mapping[UUID, str] = {
    ESP: "EFI system partition",
    UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"): "Linux",
    UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"): "Linux root (x86-64)",
    UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"): "Linux root verity (x86-64)",
    UUID("41092b05-9fc8-4523-994f-2def0408b176"): "Linux root verity signature (x86-64)",
    EXTENDED: "Linux extended boot",
    UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"): "Linux swap",
    UUID("21686148-6449-6e6f-744e-656564454649"): "BIOS boot",
}
"""UEFI specification, section 5.3.3, and the Discoverable Partitions Specification."""

FIRMWARE, OWN_KEYS = "firmware", "own keys"
"""Whose keys are asked besides those of shims."""

MAX_PROGRAMS = 100


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and whether a TD can run it: `td_guest` is None where its configuration is not on the disk."""

    path: str
    version: str
    td_guest: bool | None
    missing: tuple[str, ...] = ()
    """Options that it was built without and a TD needs."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One program of the boot chain."""

    path: str
    kind: str
    version: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What is started one after the other, and the kernel's command line, as far as they can be followed."""

    stages: tuple[Stage, ...]
    command_line: str = ""
    not_followed: str = ""
    """Why it is not followed further, or ""."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that `tdx image inspect` shows."""

    path: Path
    form: str
    backing: Path | None
    size: int
    partitions: tuple[tuple[Partition, str | None], ...]
    """Each with what it holds."""
    programs: tuple[Program, ...]
    kernels: tuple[Kernel, ...]
    chain: Chain
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The document that `tdx image inspect --json` prints (docs/reference/json.md)."""
        return {
            "path": str(self.path),
            "format": self.form,
            "backing": str(self.backing) if self.backing else None,
            "size": self.size,
            "partitions": [
                {
                    "number": one.number,
                    "name": one.name,
                    "type": TYPE_NAMES.get(one.type, str(one.type)),
                    "uuid": str(one.uuid),
                    "start": one.start,
                    "size": one.size,
                    "content": content,
                }
                for one, content in self.partitions
            ],
            "programs": [asdict(one) for one in self.programs],
            "kernels": [asdict(one) for one in self.kernels],
            "chain": [asdict(one) for one in self.chain.stages],
            "command_line": self.chain.command_line or None,
            "not_followed": self.chain.not_followed or None,
            "problems": list(self.problems),
        }


def inspect_image(
    path: Path,
    firmware: Contents | None,
    own: OwnKeys | None,
    toolbox: Toolbox,
    scratch: Path,
    *,
    report: Report = silent,
) -> Inspection:
    """Look into a disk image, qcow2 or raw, without mounting it.

    It is said of each program whether the keys of `firmware`, the `own` ones, and those of a shim on the disk
    let it start. An image that is compressed with zstd is unpacked below `scratch` first.
    Raises `UnavailableError` where the image cannot be read, `MalformedError` for what is no disk; what is
    damaged within it is among the problems.
    """
    with readable(path, toolbox, scratch, report) as raw, open_disk(raw) as disk:
        return _Inspector(path, disk, firmware, own).inspect()


class _Inspector:
    """Gathers what there is; what cannot be read becomes a problem."""

    def __init__(self, path: Path, disk: Disk, firmware: Contents | None, own: OwnKeys | None) -> None:
        self._path = path
        self._disk = disk
        self._firmware = firmware
        self._own = own
        self._problems: list[str] = []
        partitions = read_partitions(disk).partitions
        self._partitions = tuple((one, content_name(disk, one.start)) for one in partitions)
        self._esp, self._extended = self._fat(ESP), self._fat(EXTENDED)
        self._systems = {
            one.number: system
            for one, content in self._partitions
            if content == EXT4 and (system := self._ext4(one)) is not None
        }

    def inspect(self) -> Inspection:
        with self._noting():
            if isinstance(self._disk, Qcow2):
                self._disk.check_whole()
        self._look_at_partitions()
        loaders = self._loaders()
        lists = self._lists(loaders)
        files = {**loaders, **self._kernel_files()}
        programs = {path: describe_program(path, data, lists) for path, data in files.items()}
        self._problems += [f"{one.path}: {one.problem}" for one in programs.values() if one.problem]
        return Inspection(
            path=self._path,
            form=image_format(self._path),
            backing=backing_file(self._path),
            size=self._disk.size,
            partitions=self._partitions,
            programs=tuple(programs.values()),
            kernels=tuple(self._kernels(programs)),
            chain=self._chain(programs),
            problems=tuple(self._problems),
        )

    def _lists(self, loaders: Mapping[str, bytes]) -> dict[str, KeyList]:
        """Whose keys are asked, by name."""
        lists = {}
        db, dbx = databases(self._firmware) if self._firmware else (b"", b"")
        if self._firmware is not None:
            lists[FIRMWARE] = KeyList(db, dbx)
        if self._own is not None:
            lists[OWN_KEYS] = KeyList(self._own.database())
        for data in loaders.values():
            if (keys := shim_keys(data, dbx)) is not None:
                lists[SHIM] = keys
        return lists

    def _look_at_partitions(self) -> None:
        if self._esp is None:
            self._problems.append("it has no EFI system partition that can be read: firmware starts nothing")
        for partition, content in self._partitions:
            end, number = partition.start + partition.size, partition.number
            if end > self._disk.size:
                self._problems.append(
                    f"partition {number} ends at byte {end}, the disk at {self._disk.size}: it is cut short"
                )
            if content == LUKS:
                self._problems.append(f"partition {number} is encrypted (LUKS): what is in it is not seen")

    def _loaders(self) -> dict[str, bytes]:
        """The EFI programs of the EFI system partition by path."""
        if self._esp is None:
            return {}
        with self._noting():
            paths = sorted(path for path in self._esp.files() if path.lower().endswith(".efi"))
            return {path: self._esp.read(path) or b"" for path in paths[:MAX_PROGRAMS]}
        return {}

    def _kernel_files(self) -> dict[str, bytes]:
        """The kernels on ext4 file systems, in /boot or in a partition that is that, by path."""
        found: dict[str, bytes] = {}
        for number, system in self._systems.items():
            with self._noting():
                for directory in ("/boot", "/"):
                    for name in system.names(directory)[:MAX_LISTED]:
                        path = f"{directory.rstrip('/')}/{name}"
                        if name.startswith("vmlinuz-") and (data := system.read(path)):
                            found[_on(number, path)] = data
        return found

    def _kernels(self, programs: Mapping[str, Program]) -> Iterator[Kernel]:
        for path, program in programs.items():
            if program.kind in (KERNEL, UNIFIED_KERNEL):
                config = self._config(program.version)
                missing = tuple(missing_options(config)) if config is not None else ()
                yield Kernel(path, program.version, None if config is None else not missing, missing)

    def _config(self, release: str) -> str | None:
        """The configuration that a kernel was built with, where a file system of the disk has it."""
        for system in self._systems.values():
            for path in (
                f"/boot/config-{release}",
                f"/config-{release}",
                f"/usr/lib/modules/{release}/config",
            ):
                with self._noting():
                    if (data := system.read(path)) is not None:
                        return data.decode("utf-8", "replace")
        return None

    def _chain(self, programs: Mapping[str, Program]) -> Chain:
        """What starts what, from the firmware on."""
        by_path = {path.lower(): program for path, program in programs.items()}
        stages = [by_path.get(LOADER.lower())]
        if stages[0] is not None and stages[0].kind == SHIM:
            stages.append(by_path.get(SECOND_STAGE.lower()))
        known = [_stage(one) for one in stages if one is not None]
        if not known or self._esp is None:
            return Chain(tuple(known))
        try:
            if known[-1].kind == GRUB:
                boot = self._grub_boot(self._esp)
                kernel = Stage(boot.kernel_path, KERNEL, kernel_release(boot.kernel) or "")
                return Chain((*known, kernel), boot.command_line)
            if known[-1].kind == SYSTEMD_BOOT and self._firmware is not None:
                last = known[-1]
                choice = choose(int(last.version), last.path, self._esp, self._extended, self._firmware)
                program = by_path.get(choice.entry.program.lower())
                chosen = _stage(program) if program else Stage(choice.entry.program, KERNEL, "")
                return Chain((*known, chosen), choice.options)
        except MalformedError as error:
            return Chain(tuple(known), not_followed=error.message)
        return Chain(tuple(known))

    def _grub_boot(self, esp: Fat) -> GrubBoot:
        """What GRUB starts, by its one configuration on the EFI system partition."""
        paths = [path for path in esp.files() if path.lower().endswith("/grub.cfg")]
        if len(paths) != 1:
            raise MalformedError(
                f"there are {len(paths)} configurations of GRUB on the EFI system partition",
                hint="see which directory the signed GRUB was built for",
            )
        partitions = [one for one, _ in self._partitions]
        volumes = find_volumes(self._disk, partitions)
        start = next(volumes[one.number] for one in partitions if one.type == ESP)
        enforced = self._firmware is None or self._firmware.secure_boot is SecureBoot.ENABLED
        return follow(start, f"/{paths[0]}", [*volumes.values()], secure_boot=enforced)

    def _fat(self, kind: UUID) -> Fat | None:
        """The FAT file system of the first partition of a kind."""
        place = next((one for one, _ in self._partitions if one.type == kind), None)
        if place is not None:
            with self._noting(f"partition {place.number}: "):
                return Fat(self._disk, place.start)
        return None

    def _ext4(self, partition: Partition) -> Ext4 | None:
        with self._noting(f"partition {partition.number}: "):
            return Ext4(self._disk, partition.start)
        return None

    @contextlib.contextmanager
    def _noting(self, place: str = "") -> Iterator[None]:
        """Make a problem of what is damaged or not followed in the block."""
        try:
            yield
        except MalformedError as error:
            self._problems.append(f"{place}{error.message}")


def _stage(program: Program) -> Stage:
    return Stage(program.path, program.kind, program.version)


def _on(number: int, path: str) -> str:
    """A file of a partition, as it is called here."""
    return f"{number}:{path}"
