"""What QEMU tells a machine's firmware about its hardware, asked of the QEMU that will run it.

QEMU makes the ACPI tables anew when they are read, from what the firmware has programmed until then. So
the few registers that they depend on are programmed first, as edk2 programs them.

Sources: QEMU docs/specs/fw_cfg.rst, hw/i386/acpi-build.c, hw/pci-host/q35.c; edk2 OvmfPkg/PlatformPei,
OvmfPkg/Library/PlatformInitLib and MdeModulePkg/Bus/Pci/PciHostBridgeDxe.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import make_private, write_atomically
from tdxstack.machine.stopped import Launch
from tdxstack.run import Conversation, converse

FORMAT = 1
"""Counts up with every change to what is asked."""

SECONDS = 60.0

TABLE_LOADER, RSDP, ACPI_TABLES = "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"
SMBIOS_TABLES = "etc/smbios/smbios-tables"
BOOT_ORDER = "bootorder"
WANTED = (
    *(TABLE_LOADER, RSDP, ACPI_TABLES, SMBIOS_TABLES, BOOT_ORDER),
    *("etc/extra-pci-roots", "etc/boot-menu-wait", "etc/reserved-memory-end", "opt/ovmf/X-PciMmio64Mb"),
)
"""The named items that firmware measures, in itself or what it makes of them."""

NAMED_KERNEL = "etc/boot/kernel"

ITEM_BOOT_MENU = 0x0E
ITEM_SETUP_SIZE, ITEM_SETUP_DATA = 0x17, 0x18
ITEM_DIRECTORY = 0x19
DIRECTORY_ENTRY_SIZE = 64
MAX_FILES, MAX_ITEM = 1024, 4 << 20

DMA_HIGH_PORT, DMA_LOW_PORT = 0x514, 0x518
DMA_READ, DMA_SELECT = 0x02, 0x08
REQUEST_ADDRESS, DATA_ADDRESS = 0x1000, 0x1000000

PCI_ADDRESS_PORT, PCI_DATA_PORT = 0xCF8, 0xCFC
HOST_BRIDGE, LPC_BRIDGE = (0, 0), (31, 0)
PCIEXBAR, PCIEXBAR_VALUE = 0x60, 0xE0000001
PM_BASE, PM_BASE_VALUE, ACPI_CONTROL, ACPI_ENABLE = 0x40, 0x600, 0x44, 0x80
MMIO64_BASE = 0x380000000000
"""Where edk2 puts 64-bit BARs: the last eighth of 46 address bits, to which it limits what the CPU has.

Only the lowest counts: QEMU derives the window from it and from the highest one, rounded up to 32 GiB.
"""

BAR_64_PREFETCHABLE, BAR_KIND_MASK = 0x0C, 0x0F
ENABLE_IO_MEMORY_MASTER = 7

VIRTIO = 0x1AF4
VIRTIO_BLOCK = (0x1001, 0x1042)
"""Device ids of a virtio disk, transitional and modern."""


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A function on PCI bus 0."""

    device: int
    function: int
    vendor_id: int
    device_id: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the firmware of a stopped machine would read.

    files: fw_cfg items by name, of `WANTED` those there are. boot_menu: item 0x0E, 2 bytes.
    kernel_setup: the first part of a direct kernel as QEMU hands it over, its header patched or not.
    named_kernel: whether QEMU also offers the kernel as the item etc/boot/kernel.
    td_cpu: whether the CPU was that of a TD.
    """

    files: Mapping[str, bytes]
    boot_menu: bytes
    kernel_setup: bytes
    named_kernel: bool
    functions: tuple[PciFunction, ...]
    td_cpu: bool

    @property
    def disks(self) -> tuple[PciFunction, ...]:
        """The virtio disks."""
        return tuple(
            one for one in self.functions if one.vendor_id == VIRTIO and one.device_id in VIRTIO_BLOCK
        )


def hardware(launch: Launch, cache: Path, *, confidential: bool) -> Hardware:
    """Ask the machine's QEMU, or remember what it answered to the same question (in `cache`).

    Raises `UnavailableError` or `CommandError` where QEMU is missing or cannot start the machine.
    """
    argv = launch.stopped_command(confidential=confidential)
    inputs = [Path(argv[0]), *(path for path in (launch.kernel, launch.initrd) if path is not None)]
    identity = [_identity(path) for path in inputs]
    key = hashlib.sha256(json.dumps([FORMAT, confidential, argv, identity]).encode()).hexdigest()[:32]
    path = make_private(cache) / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _from_json(path.read_bytes())
    with converse(argv, timeout=SECONDS) as conversation:
        found = _ask(_Machine(conversation), td_cpu=confidential)
    write_atomically(path, _to_json(found))
    return found


def _identity(path: Path) -> tuple[str, int, int]:
    """What tells a file from another one of its name. Raises `UnavailableError` where it is missing."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", hint="the machine needs it to start"
        ) from None
    return str(path), stat.st_size, stat.st_mtime_ns


def _ask(machine: _Machine, *, td_cpu: bool) -> Hardware:
    functions = machine.functions()
    machine.program(functions)
    directory = machine.directory()
    setup_size = int.from_bytes(machine.item(ITEM_SETUP_SIZE, 4), "little")
    return Hardware(
        files={name: machine.item(*directory[name]) for name in WANTED if name in directory},
        boot_menu=machine.item(ITEM_BOOT_MENU, 2),
        kernel_setup=machine.item(ITEM_SETUP_DATA, setup_size) if setup_size else b"",
        named_kernel=NAMED_KERNEL in directory,
        functions=tuple(functions),
        td_cpu=td_cpu,
    )


class _Machine:
    """A stopped QEMU behind its test protocol (QEMU system/qtest.c)."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def functions(self) -> list[PciFunction]:
        """What is on PCI bus 0."""
        found = []
        for device in range(32):
            for function in range(8):
                identity = self._pci_read(device, function, 0)
                if identity & 0xFFFF != 0xFFFF:
                    found.append(PciFunction(device, function, identity & 0xFFFF, identity >> 16))
                elif function == 0:
                    break
        return found

    def program(self, functions: list[PciFunction]) -> None:
        """Set the registers that the ACPI tables depend on, as edk2 does."""
        self._pci_write(*HOST_BRIDGE, PCIEXBAR + 4, 0)
        self._pci_write(*HOST_BRIDGE, PCIEXBAR, PCIEXBAR_VALUE)
        self._pci_write(*LPC_BRIDGE, PM_BASE, PM_BASE_VALUE)
        self._pci_write(*LPC_BRIDGE, ACPI_CONTROL, ACPI_ENABLE)
        for one in functions:
            for bar in range(0x10, 0x24, 4):
                value = self._pci_read(one.device, one.function, bar)
                if value & BAR_KIND_MASK == BAR_64_PREFETCHABLE:
                    self._pci_write(one.device, one.function, bar, MMIO64_BASE & 0xFFFFFFFF)
                    self._pci_write(one.device, one.function, bar + 4, MMIO64_BASE >> 32)
                    self._pci_write(one.device, one.function, 4, ENABLE_IO_MEMORY_MASTER)
                    return

    def directory(self) -> dict[str, tuple[int, int]]:
        """(selector, size) of each named item."""
        count = int.from_bytes(self.item(ITEM_DIRECTORY, 4), "big")
        if count > MAX_FILES:
            raise CommandError(f"QEMU's fw_cfg has {count} items, at most {MAX_FILES} are reasonable")
        data = self.item(ITEM_DIRECTORY, 4 + count * DIRECTORY_ENTRY_SIZE)[4:]
        entries = [data[at : at + DIRECTORY_ENTRY_SIZE] for at in range(0, len(data), DIRECTORY_ENTRY_SIZE)]
        return {
            entry[8:].partition(b"\0")[0].decode("latin-1"): (
                int.from_bytes(entry[4:6], "big"),
                int.from_bytes(entry[:4], "big"),
            )
            for entry in entries
        }

    def item(self, selector: int, size: int) -> bytes:
        """The first `size` bytes of a fw_cfg item, through its DMA interface."""
        if not size:
            return b""
        if size > MAX_ITEM:
            raise CommandError(f"QEMU's fw_cfg item 0x{selector:x} has {size} bytes")
        control = selector << 16 | DMA_SELECT | DMA_READ
        request = control.to_bytes(4, "big") + size.to_bytes(4, "big") + DATA_ADDRESS.to_bytes(8, "big")
        self._ask(f"write 0x{REQUEST_ADDRESS:x} {len(request)} 0x{request.hex()}")
        self._ask(f"outl 0x{DMA_HIGH_PORT:x} 0")
        self._ask(f"outl 0x{DMA_LOW_PORT:x} 0x{REQUEST_ADDRESS.to_bytes(4, 'little').hex()}")
        if int(self._ask(f"readl 0x{REQUEST_ADDRESS:x}"), 16):
            raise CommandError(f"QEMU did not hand over its fw_cfg item 0x{selector:x}")
        return bytes.fromhex(self._ask(f"read 0x{DATA_ADDRESS:x} {size}").removeprefix("0x"))

    def _pci_read(self, device: int, function: int, register: int) -> int:
        self._select(device, function, register)
        return int(self._ask(f"inl 0x{PCI_DATA_PORT:x}"), 16)

    def _pci_write(self, device: int, function: int, register: int, value: int) -> None:
        self._select(device, function, register)
        self._ask(f"outl 0x{PCI_DATA_PORT:x} 0x{value:x}")

    def _select(self, device: int, function: int, register: int) -> None:
        address = 1 << 31 | device << 11 | function << 8 | register
        self._ask(f"outl 0x{PCI_ADDRESS_PORT:x} 0x{address:x}")

    def _ask(self, line: str) -> str:
        return self._conversation.ask(line, "OK")


def _to_json(found: Hardware) -> bytes:
    document = {
        "files": {name: base64.b64encode(data).decode() for name, data in found.files.items()},
        "boot_menu": found.boot_menu.hex(),
        "kernel_setup": base64.b64encode(found.kernel_setup).decode(),
        "named_kernel": found.named_kernel,
        "functions": [(one.device, one.function, one.vendor_id, one.device_id) for one in found.functions],
        "td_cpu": found.td_cpu,
    }
    return json.dumps(document).encode()


def _from_json(data: bytes) -> Hardware:
    document = json.loads(data)
    return Hardware(
        files={name: base64.b64decode(text) for name, text in document["files"].items()},
        boot_menu=bytes.fromhex(document["boot_menu"]),
        kernel_setup=base64.b64decode(document["kernel_setup"]),
        named_kernel=document["named_kernel"],
        functions=tuple(PciFunction(*fields) for fields in document["functions"]),
        td_cpu=document["td_cpu"],
    )
