"""The boot options that edk2 makes on a first boot: BootOrder and the Boot#### variables.

Sources: edk2 MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c, OvmfPkg/Library/PlatformBootManagerLib and
QemuBootOrderLib; UEFI specification 2.11, chapter 10 (device paths). All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tdxstack.measurement.event_data import BootOption

ACTIVE, HIDDEN, CATEGORY_APP = 0x001, 0x008, 0x100

ADDED_BY_FIRMWARE = UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")
"""Optional data that marks an option which the firmware made for a device that it found."""

SETUP_LABEL = "EFI Firmware Setup"
SHELL_LABEL = "EFI Internal Shell"
DEVICE_LABEL = "UEFI Misc Device"

PCI_ROOT = bytes.fromhex("02010c00d041030a00000000")
"""ACPI node PNP0A03, unique id 0."""
END = bytes.fromhex("7fff0400")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An application inside the firmware: GUIDs of its volume and file, and what the option is called.

    `listed`: it is listed with applications, and not started by itself where nothing else starts.
    """

    volume: UUID
    file: UUID
    label: str
    listed: bool = True


Place = tuple[int, int]
"""Device and function on PCI bus 0."""


def boot_variables(
    menu: BuiltIn | None,
    setup: BuiltIn | None,
    disks: Sequence[Place],
    bootable: Sequence[Place],
    shell: BuiltIn | None = None,
) -> list[tuple[str, bytes]]:
    """(name, value) of BootOrder and of each option, in the order in which they are measured.

    `menu` and `setup` are the applications that the firmware registers. `disks` are all virtio disks, by
    place: each is given a number. `bootable` are those that QEMU names, in its order: the others' options
    are deleted again. `shell` is registered after them. All three are left out where the firmware starts a
    kernel that QEMU gives it, before it makes options for disks.
    """
    built_in = [
        *([_built_in(menu, HIDDEN)] if menu else []),
        *([_built_in(setup)] if setup else []),
    ]
    after = [_built_in(shell)] if shell else []
    numbered = list(enumerate([*built_in, *(_disk(place, n) for n, place in enumerate(disks, 1)), *after]))
    of_disks = dict(zip(disks, numbered[len(built_in) :], strict=False))
    of_shell = numbered[len(built_in) + len(disks) :]
    ordered = [*(of_disks[place] for place in bootable), *numbered[: len(built_in)], *of_shell]
    order = b"".join(number.to_bytes(2, "little") for number, _ in ordered)
    return [("BootOrder", order), *((f"Boot{number:04X}", option.to_bytes()) for number, option in ordered)]


def _built_in(application: BuiltIn, attributes: int = 0) -> BootOption:
    attributes |= ACTIVE | (CATEGORY_APP if application.listed else 0)
    path = b"".join((_node(4, 7, application.volume.bytes_le), _node(4, 6, application.file.bytes_le), END))
    return BootOption(attributes, application.label, path, b"")


def _disk(place: Place, number: int) -> BootOption:
    """The option of the `number`th disk, counted from 1; edk2 tells the others from the first by number."""
    device, function = place
    label = DEVICE_LABEL if number == 1 else f"{DEVICE_LABEL} {number}"
    return BootOption(ACTIVE, label, pci_path(device, function) + END, ADDED_BY_FIRMWARE.bytes_le)


def pci_path(device: int, function: int) -> bytes:
    """PciRoot(0x0)/Pci(device,function), without an end node."""
    return PCI_ROOT + _node(1, 1, bytes((function, device)))


def _node(kind: int, subtype: int, body: bytes) -> bytes:
    return bytes((kind, subtype)) + (4 + len(body)).to_bytes(2, "little") + body
