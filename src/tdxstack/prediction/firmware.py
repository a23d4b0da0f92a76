"""The part of a prediction that firmware and hardware alone decide."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tdxstack.abi.td_hob import build
from tdxstack.abi.tdvf import Metadata
from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import Contents
from tdxstack.firmware.variables import SecureBoot
from tdxstack.machine.stopped import Launch
from tdxstack.measurement import smbios
from tdxstack.measurement.boot_options import boot_variables
from tdxstack.measurement.firmware_boot import FirmwareInputs
from tdxstack.prediction.hardware import ACPI_TABLES, BOOT_ORDER, RSDP, SMBIOS_TABLES, TABLE_LOADER, Hardware

MEASURED_ITEMS = (
    "etc/extra-pci-roots",
    "BootMenu",
    "etc/boot-menu-wait",
    "etc/reserved-memory-end",
    "opt/ovmf/X-PciMmio64Mb",
    BOOT_ORDER,
)
"""In the order of edk2's OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c."""

_DISK_PATH = re.compile(r"/pci@i0cf8/[^/@]+@([0-9a-f]+)(?:,([0-9a-f]+))?/disk@0,0")

UNKNOWN_CPU = (
    "the SMBIOS table names the CPU that the TD has, and this host cannot start a TD of that kind to ask QEMU"
)
TAKE_TDVF = "take a firmware built for TDX, such as OVMF.inteltdx*.fd"
NO_STRINGS = "the firmware's vendor, version and date were not found in it"


def check_firmware(contents: Contents, name: str) -> Metadata:
    """The metadata of a firmware. Raises `MalformedError` for one that no TD can start with."""
    if contents.metadata is None or contents.problems:
        raise MalformedError(f"no TD can start with {name}: {'; '.join(contents.problems)}", hint=TAKE_TDVF)
    return contents.metadata


def firmware_inputs(contents: Contents, launch: Launch, machine: Hardware) -> FirmwareInputs:
    """What a firmware that measures will measure of itself and of its machine; raises as `check_firmware`."""
    metadata = check_firmware(contents, str(launch.firmware))
    profile = contents.profile
    items = {**machine.files, "BootMenu": machine.boot_menu}
    table, table_reason = _smbios(contents, machine)
    variables, variables_reason = _boot_variables(contents, launch, machine)
    acpi = (TABLE_LOADER, RSDP, ACPI_TABLES) if profile.shown.acpi else ()
    measured = MEASURED_ITEMS if profile.shown.fw_cfg else ()
    return FirmwareInputs(
        profile=profile,
        td_hob=build(metadata, launch.memory_mib << 20).measured(),
        configuration=contents.configuration,
        fw_cfg=[(name, items[name]) for name in measured if name in items],
        policy=contents.policy,
        acpi=[(name, machine.files[name]) for name in acpi],
        smbios=table,
        smbios_reason=table_reason,
        boot_variables=variables,
        boot_variables_reason=variables_reason,
    )


def _smbios(contents: Contents, machine: Hardware) -> tuple[bytes | None, str]:
    if not machine.td_cpu:
        return None, UNKNOWN_CPU
    if contents.strings is None:
        return None, NO_STRINGS
    return smbios.measured(smbios.published(machine.files[SMBIOS_TABLES], contents.strings)), ""


def _boot_variables(
    contents: Contents, launch: Launch, machine: Hardware
) -> tuple[Sequence[tuple[str, bytes]] | None, str]:
    """The boot variables, or None and why they are not known."""
    if launch.kernel is not None:
        return boot_variables(contents.menu, contents.setup, [], []), ""
    # In a TD, edk2 connects every disk, bootable or not.
    disks = [(one.device, one.function) for one in machine.disks]
    bootable = []
    order = machine.files.get(BOOT_ORDER, b"").rstrip(b"\0").decode("latin-1")
    if not order:
        return None, "QEMU names no device to boot from"
    for path in order.split("\n"):
        place = _DISK_PATH.fullmatch(path)
        if place is None:
            return None, f"boot options for the device {path!r} are not modelled, only those of virtio disks"
        bootable.append((int(place[1], 16), int(place[2] or "0", 16)))
    if not set(bootable) <= set(disks):
        return None, "a device in QEMU's boot order is no virtio disk"
    if contents.shell is not None and contents.secure_boot is SecureBoot.ENABLED:
        return None, "it is not known whether a firmware with a shell makes an option of it under Secure Boot"
    return boot_variables(contents.menu, contents.setup, disks, bootable, contents.shell), ""
