"""What a disk image is: partitions, file systems, boot chain, kernels, and who would let them start."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.keys import OwnKeys
from tdxstack.image.kernel import missing_options
from tdxstack.measurement.loader_boot import kernel_release
from tdxstack.prediction.disk_boot import LOADER, SECOND_STAGE
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import MAX_LISTED
from tdxstack.prediction.filesystems import EXT4, LUKS, content_name, open_fat
from tdxstack.prediction.grub.follow import GrubBoot, follow
from tdxstack.prediction.grub.volumes import find_volumes
from tdxstack.prediction.keys import databases
from tdxstack.prediction.partitions import ESP, Partition, read_partitions
from tdxstack.prediction.programs import (
    GRUB,
    KERNEL,
    SHIM,
    UNIFIED_KERNEL,
    KeyList,
    Program,
    describe_program,
    shim_keys,
)
from tdxstack.prediction.qcow2 import (
    Disk,
    backing_file,
    image_format,
    is_compressed_by_other_means,
    open_disk,
)
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.programs import Toolbox

TYPE_NAMES: Mapping[UUID, str] = {
    ESP: "EFI system partition",
    UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"): "Linux",
    UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"): "Linux root (x86-64)",
    UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"): "Linux root verity (x86-64)",
    UUID("41092b05-9fc8-4523-994f-2def0408b176"): "Linux root verity signature (x86-64)",
    UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172"): "Linux extended boot",
    UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"): "Linux swap",
    UUID("21686148-6449-6e6f-744e-656564454649"): "BIOS boot",
}
"""UEFI specification, section 5.3.3, and the Discoverable Partitions Specification."""

FIRMWARE, OWN_KEYS = "firmware", "own keys"
"""Whose keys are asked besides those of shims."""

MAX_PROGRAMS = 100
CONVERT_SECONDS = 30 * 60.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and whether a TD can run it: `td_guest` is None where its configuration is not on the disk."""

    path: str
    version: str
    td_guest: bool | None
    missing: tuple[str, ...] = ()
    """Options that it was built without and a TD needs."""


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
    chain: tuple[str, ...]
    """What is started one after the other, as far as it can be followed."""
    command_line: str | None
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
            "chain": list(self.chain),
            "command_line": self.command_line,
            "problems": list(self.problems),
        }


def key_lists(firmware: bytes | None, own: OwnKeys | None) -> dict[str, KeyList]:
    """The keys of a firmware image and the user's own, by the name of whose they are."""
    lists = {}
    if firmware is not None:
        lists[FIRMWARE] = KeyList(*databases(open_contents(firmware)))
    if own is not None:
        lists[OWN_KEYS] = KeyList(own.database())
    return lists


def inspect_image(
    path: Path, lists: Mapping[str, KeyList], toolbox: Toolbox, scratch: Path, *, report: Report = silent
) -> Inspection:
    """Look into a disk image, qcow2 or raw, without mounting it.

    `lists` are keys by the name of whose they are; shims on the disk add theirs. An image that is compressed
    with zstd is unpacked below `scratch` first. Raises `UnavailableError` where it cannot be read,
    `MalformedError` for what is no disk or damaged; damage within a file system is among the problems.
    """
    with readable(path, toolbox, scratch, report) as raw, open_disk(raw) as disk:
        return _Inspector(path, disk, lists).inspect()


@contextlib.contextmanager
def readable(path: Path, toolbox: Toolbox, scratch: Path, report: Report = silent) -> Iterator[Path]:
    """The image, or what qemu-img unpacks of it where it is compressed in a way that is not read here."""
    if not is_compressed_by_other_means(path):
        yield path
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="inspect.", dir=scratch) as name:
        unpacked = Path(name, "disk.raw")
        report(f"unpacking {path.name}", None)
        argv = toolbox.program("qemu-img", report).argv("convert", "-f", "qcow2", "-O", "raw", path, unpacked)
        run(argv, timeout=CONVERT_SECONDS)
        yield unpacked


class _Inspector:
    """Gathers what there is; what cannot be read becomes a problem."""

    def __init__(self, path: Path, disk: Disk, lists: Mapping[str, KeyList]) -> None:
        self._path = path
        self._disk = disk
        self._lists = dict(lists)
        self._problems: list[str] = []
        partitions = read_partitions(disk).partitions
        self._partitions = tuple((one, content_name(disk, one.start)) for one in partitions)
        esp = next((one for one in partitions if one.type == ESP), None)
        self._esp = open_fat(disk, esp.start) if esp else None
        self._systems = {
            one.number: system
            for one, content in self._partitions
            if content == EXT4 and (system := self._ext4(one)) is not None
        }

    def inspect(self) -> Inspection:
        self._look_at_partitions()
        loaders = self._loaders()
        files = self._kernel_files()
        for keys in filter(None, map(shim_keys, loaders.values())):
            self._lists[SHIM] = KeyList(keys)
        programs = {
            path: describe_program(path, data, self._lists) for path, data in {**loaders, **files}.items()
        }
        boot = self._grub_boot() if any(one.kind == GRUB for one in programs.values()) else None
        return Inspection(
            path=self._path,
            form=image_format(self._path),
            backing=backing_file(self._path),
            size=self._disk.size,
            partitions=self._partitions,
            programs=tuple(programs.values()),
            kernels=tuple(self._kernels(programs)),
            chain=tuple(_chain(programs, boot)),
            command_line=boot.command_line if boot else None,
            problems=tuple(self._problems),
        )

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

    def _grub_boot(self) -> GrubBoot | None:
        """What GRUB starts, by its one configuration on the EFI system partition."""
        assert self._esp is not None, "GRUB was found on it"
        with self._noting():
            paths = [path for path in self._esp.files() if path.lower().endswith("/grub.cfg")]
            if len(paths) != 1:
                raise MalformedError(f"there are {len(paths)} configurations of GRUB beside it")
            partitions = [one for one, _ in self._partitions]
            volumes = find_volumes(self._disk, partitions)
            start = next(volumes[one.number] for one in partitions if one.type == ESP)
            path = f"/{paths[0].lstrip('/')}"
            return follow(start, path, [*volumes.values()], secure_boot=True)
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


def _chain(programs: Mapping[str, Program], boot: GrubBoot | None) -> Iterator[str]:
    """What starts what, from the firmware on, as far as it is known."""
    by_path = {path.lower(): program for path, program in programs.items()}
    loader = by_path.get(LOADER.lower())
    stages = [loader] if loader else []
    if loader is not None and loader.kind == SHIM:
        stages += [one] if (one := by_path.get(SECOND_STAGE.lower())) else []
    for stage in stages:
        yield f"{stage.path}: {stage.kind} {stage.version}".rstrip()
    if stages and stages[-1].kind == GRUB and boot is not None:
        yield f"{boot.kernel_path}: {KERNEL} {kernel_release(boot.kernel) or ''}".rstrip()


def _on(number: int, path: str) -> str:
    """A file of a partition, as it is called here."""
    return f"{number}:{path}"
