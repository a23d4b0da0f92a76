"""What the machines of the matrix are made of: firmware with its keys, kernels, boot loaders, disks.

Everything is Debian's, fetched through private apt roots; what a suite does not carry leaves out the cells
that need it. The initrd's only program shows the TD's event log and registers, and ends the machine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from tdxstack.errors import UnavailableError
from tdxstack.firmware.enroll import Enrollment, enroll
from tdxstack.firmware.keys import NAMES, OwnKeys, open_own_keys
from tdxstack.firmware.signing import sign
from tdxstack.image.disk import ROOT_UUID, Tools, assemble
from tdxstack.image.initramfs import cpio, modules_with_dependencies
from tdxstack.image.unified_kernel import UnifiedKernel, unified_kernel
from tdxstack.image.zstd import unpacker
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.filesystems import EXT4, content_name
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import Disk, open_disk
from tdxstack.run import run
from tdxstack.testing.matrix import Boot, Build, Cell, Kernel, Keys
from tdxstack.toolbox.apt import Deb, extract
from tdxstack.toolbox.archive import Archive
from tdxstack.workflows.readable_disk import readable
from tdxstack.workflows.workshop import Workshop

COMMAND_LINE = "console=ttyS0,115200 quiet panic=-1"
INIT = Path(__file__).with_name("matrix_init.sh")
BUSYBOX = "usr/bin/busybox"
OS_RELEASE = b"ID=matrix\nVERSION_ID=1\n"
STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
SYSTEMD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
GENERIC = "usr/share/ovmf/OVMF.fd"
GUEST_MODULE = "tdx_guest"
FIRST_PROGRAM, SECOND_PROGRAM = "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi"
DISK_SIZE = 128 << 20
SECOND_DISK_SIZE = 64 << 20
_SECONDS = 60.0

GRUB_STUB = f"""search.fs_uuid {ROOT_UUID} root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
"""
"""On the EFI system partition; Debian's signed GRUB looks for it there."""
GRUB_MENU = f"""if [ -s $prefix/grubenv ]; then load_env; fi
set default="${{saved_entry}}"
set timeout=0
menuentry 'first' --id first {{ linux /boot/absent }}
submenu 'more' --id more {{
  menuentry 'kernel' --id kernel {{
    search --no-floppy --fs-uuid --set=root {ROOT_UUID}
    linux /boot/vmlinuz {COMMAND_LINE}
    initrd /boot/initrd.img
  }}
}}
"""
GRUB_ENVIRONMENT = b"# GRUB Environment Block\nsaved_entry=more>kernel\n".ljust(1024, b"#")
LOADER_ENTRY = f"""title matrix
linux /vmlinuz
initrd /initrd.img
options {COMMAND_LINE}
""".encode()


@dataclass(frozen=True, slots=True)
class Guest:
    """A kernel, and the initrd that it is started with."""

    version: str
    kernel: bytes
    initrd: bytes


@dataclass(frozen=True, slots=True)
class MatrixMachine:
    """The files of one cell's machine; those of a direct kernel are None where a disk starts it."""

    firmware: Path
    kernel: Path | None
    initrd: Path | None
    disk: Path
    second_disk: Path | None


class Parts:
    """Makes each part once, below `work`. Raises `UnavailableError` for what the archive does not carry."""

    def __init__(self, workshop: Workshop, work: Path) -> None:
        self._workshop = workshop
        self._work = work
        self._tools = Tools(workshop.toolbox, 0)
        self._guest = lru_cache(maxsize=None)(self._make_guest)
        self._disk = lru_cache(maxsize=None)(self._make_disk)
        self._firmware = lru_cache(maxsize=None)(self._make_firmware)

    def machine(self, cell: Cell) -> MatrixMachine:
        """The files of a cell's machine."""
        guest = self._guest(cell.kernel)
        kernel = initrd = None
        if cell.boot is Boot.UKI:
            kernel = self._kept(f"{cell.kernel.value}.{cell.keys.value}.efi", self._unified(cell))
        elif cell.boot is Boot.DIRECT:
            kernel = self._kept(f"{cell.kernel.value}.{cell.keys.value}", self._signed(guest.kernel, cell))
            initrd = self._kept(f"{cell.kernel.value}.initrd", guest.initrd)
        from_qemu = cell.boot in (Boot.UKI, Boot.DIRECT)
        second = self._second_disk if cell.disks > 1 else None
        disk = self._second_disk if from_qemu else self._disk(cell.boot, cell.keys, cell.kernel)
        return MatrixMachine(self._firmware(cell.firmware, cell.keys), kernel, initrd, disk, second)

    @cached_property
    def _own_keys(self) -> OwnKeys:
        return open_own_keys(self._work / "keys")

    @cached_property
    def _second_disk(self) -> Path:
        """An empty disk."""
        path = self._work / "empty.raw"
        with path.open("wb") as file:
            file.truncate(SECOND_DISK_SIZE)
        return path

    def _signed(self, program: bytes, cell: Cell) -> bytes:
        if cell.keys is not Keys.OWN:
            return program
        return sign(program, self._own_keys, self._workshop.toolbox)

    def _unified(self, cell: Cell) -> bytes:
        guest = self._guest(cell.kernel)
        stub = (self._package("systemd-boot-efi") / STUB).read_bytes()
        parts = UnifiedKernel(stub, guest.kernel, guest.version, guest.initrd, COMMAND_LINE, OS_RELEASE)
        keys = self._own_keys if cell.keys is Keys.OWN else None
        return unified_kernel(parts, self._tools, self._new("uki"), keys)

    # firmware

    def _make_firmware(self, build: Build, keys: Keys) -> Path:
        image = self._firmware_image(build)
        if keys in (Keys.NONE, Keys.VENDOR):
            return image
        own = {name: self._own_keys.certificate_file(name) for name in NAMES} if keys is Keys.OWN else {}
        program = self._workshop.toolbox.program("virt-fw-vars")
        made = enroll(program.argv(), image, image.read_bytes(), Enrollment(own))
        return self._kept(f"{build.value}.{keys.value}.fd", made.image)

    def _firmware_image(self, build: Build) -> Path:
        match build:
            case Build.INTEL_TDX:
                return self._workshop.firmware().path
            case Build.GENERIC_202608:
                return self._package("ovmf-generic", lambda archive: archive.unstable) / GENERIC
            case Build.GENERIC_202502:
                return self._package("ovmf", lambda archive: archive.stable) / GENERIC
            case Build.GENERIC_202211:
                return self._package("ovmf", lambda _: ("bookworm",)) / GENERIC

    # kernel and initrd

    def _make_guest(self, kernel: Kernel) -> Guest:
        if kernel is Kernel.NEW:
            return self._guest_of_image()
        meta = self._fetched("linux-image-cloud-amd64")
        depends = run(["dpkg-deb", "--field", str(meta.path), "Depends"], timeout=_SECONDS).stdout.decode()
        package = depends.partition(" ")[0].strip()
        tree = self._package(package)
        version = package.removeprefix("linux-image-")
        return Guest(version, (tree / f"boot/vmlinuz-{version}").read_bytes(), self._initrd([]))

    def _guest_of_image(self) -> Guest:
        """The kernel of tdx's own guest image, with the module that shows a TD's registers."""
        image = self._workshop.image().path
        with readable(image, self._workshop.toolbox, self._work) as raw, open_disk(raw) as disk:
            root = _root(disk)
            version = root.names("/usr/lib/modules")[0]
            directory = f"/usr/lib/modules/{version}"

            def read(path: str) -> bytes:
                data = root.read(path)
                if data is None:
                    raise UnavailableError(f"the guest image has no {path}", hint="tdx image build --refresh")
                return data

            listed = read(f"{directory}/modules.dep").decode()
            built_in = read(f"{directory}/modules.builtin").decode()
            modules = modules_with_dependencies(
                (GUEST_MODULE,),
                listed,
                built_in,
                lambda path: read(f"{directory}/{path}"),
                unpacker(self._workshop.toolbox, self._work),
            )
            return Guest(version, read("/vmlinuz"), self._initrd(modules))

    def _initrd(self, modules: list[tuple[str, bytes]]) -> bytes:
        busybox = (self._package("busybox-static") / BUSYBOX).read_bytes()
        files: Mapping[str, bytes | None] = {
            **dict.fromkeys(("dev", "proc", "sys", "modules")),
            "init": INIT.read_bytes(),
            "busybox": busybox,
            **{f"modules/{number:02}-{name}": data for number, (name, data) in enumerate(modules)},
        }
        return cpio(files, {"init", "busybox"})

    # disks

    def _make_disk(self, boot: Boot, keys: Keys, kernel: Kernel) -> Path:
        cell = Cell(boot, keys, Build.INTEL_TDX, kernel, 1, 1024, 1, nic=True)
        guest = self._guest(kernel)
        root: dict[str, bytes] = {}
        match boot:
            case Boot.GRUB:
                shim, grub = (
                    next((self._package(package) / "usr/lib").rglob(name)).read_bytes()
                    for package, name in (
                        ("shim-signed", "shimx64.efi.signed"),
                        ("grub-efi-amd64-signed", "grubx64.efi.signed"),
                    )
                )
                esp = {FIRST_PROGRAM: shim, SECOND_PROGRAM: grub, "EFI/debian/grub.cfg": GRUB_STUB.encode()}
                root = {
                    "boot/vmlinuz": guest.kernel,
                    "boot/initrd.img": guest.initrd,
                    "boot/grub/grub.cfg": GRUB_MENU.encode(),
                    "boot/grub/grubenv": GRUB_ENVIRONMENT,
                }
            case _:
                esp = self._systemd_boot(cell) | {
                    "loader/loader.conf": b"timeout 0\ndefault matrix*\n",
                    "loader/entries/matrix+3.conf": LOADER_ENTRY,
                    "vmlinuz": self._signed(guest.kernel, cell),
                    "initrd.img": guest.initrd,
                }
        work = self._new("disk")
        work.mkdir()
        return assemble(self._tools, _archive(work / "root.tar", root), esp, work, size=_size(esp, root))

    def _systemd_boot(self, cell: Cell) -> dict[str, bytes]:
        """The loader alone, or behind shim where only that starts it."""
        if cell.keys is not Keys.VENDOR:
            program = (self._package("systemd-boot-efi") / SYSTEMD_BOOT).read_bytes()
            return {FIRST_PROGRAM: self._signed(program, cell)}
        program = (self._package("systemd-boot-efi-amd64-signed") / f"{SYSTEMD_BOOT}.signed").read_bytes()
        shim = next((self._package("shim-signed") / "usr/lib").rglob("shimx64.efi.signed")).read_bytes()
        return {FIRST_PROGRAM: shim, SECOND_PROGRAM: program}

    # packages and files

    def _package(
        self, name: str, suites: Callable[[Archive], tuple[str, ...]] = lambda archive: archive.stable
    ) -> Path:
        """The unpacked package."""
        deb = self._fetched(name, suites)
        return extract([deb], self._work / deb.path.stem)

    def _fetched(
        self, name: str, suites: Callable[[Archive], tuple[str, ...]] = lambda archive: archive.stable
    ) -> Deb:
        return self._workshop.apt(suites).fetch((name,), with_dependencies=False)[0]

    def _kept(self, name: str, data: bytes) -> Path:
        path = self._work / name
        path.write_bytes(data)
        return path

    def _new(self, name: str) -> Path:
        """A path that is not in use."""
        number = 0
        while (path := self._work / f"{name}{number}").exists():
            number += 1
        return path


def _root(disk: Disk) -> Ext4:
    """The first ext4 file system of a disk."""
    for partition in read_partitions(disk).partitions:
        if content_name(disk, partition.start) == EXT4:
            return Ext4(disk, partition.start)
    raise UnavailableError("the guest image has no ext4 file system", hint="tdx image build --refresh")


def _archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar archive of files by path, with their directories."""
    with tarfile.open(path, "w") as archive:
        made: set[str] = set()
        for name, data in files.items():
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    directory = tarfile.TarInfo(str(parent))
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(directory)
            file = tarfile.TarInfo(name)
            file.size = len(data)
            archive.addfile(file, io.BytesIO(data))
    return path


def _size(*trees: Mapping[str, bytes]) -> int:
    """Bytes of a disk that has room for the files of two file systems."""
    needed = sum(len(data) for tree in trees for data in tree.values())
    return DISK_SIZE + (-(-needed // (1 << 20)) << 20)
