"""Combinations in a machine's specification that QEMU, libvirt or TDX refuse, each with the reason.

Sources of what is refused: QEMU target/i386/kvm/tdx.c, hw/i386, accel/kvm and docs/system/i386/tdx.rst; Intel
TDX Module Base Architecture Specification (TD_PARAMS); libvirt src/qemu/qemu_validate.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tdxstack.machine.spec_parts import Disk, Emulation, Kind, Nic, Td
from tdxstack.platform import Platform

if TYPE_CHECKING:
    from tdxstack.machine.spec import MachineSpec

Place = tuple[str | int, ...]
Value = TypeVar("Value", bound=Hashable)

TSC_STEP, MIN_TSC, MAX_TSC = 25_000_000, 100_000_000, 10_000_000_000
"""Hz; TD_PARAMS.TSC_FREQUENCY counts steps of 25 MHz."""

HUGE_PAGES = {"2M": 2, "1G": 1024}
"""MiB."""

RESERVED_ITEM = "opt/org.tdxstack/"

SMBIOS_FIELDS = {
    "bios": ("vendor", "version", "date", "release"),
    "system": ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    "board": ("manufacturer", "product", "version", "serial", "asset", "location"),
    "chassis": ("manufacturer", "version", "serial", "asset", "sku"),
}
"""QEMU's names of the fields (hw/smbios/smbios.c)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is refused: the field, and why."""

    place: Place
    reason: str


def refusals(spec: MachineSpec) -> list[Refusal]:
    """Everything in `spec` that cannot be together; what depends on the platform, where that is said."""
    checks = (_td, _ordinary, _boot, _disks, _cpus, _numa, _memory, _devices, _networks, _platform)
    return [Refusal(place, reason) for check in checks for place, reason in check(spec)]


def _td(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if spec.kind is not Kind.TD:
        return
    if spec.firmware_variables is not None:
        yield (
            ("firmware_variables",),
            "a TD has no flash: its firmware is loaded into its memory, variables included",
        )
    if spec.cpu.model not in (None, "host"):
        yield ("cpu", "model"), f"a TD has the CPU of its host, {spec.cpu.model!r} cannot be chosen"
    if not spec.machine_type.removeprefix("pc-").startswith("q35"):
        yield ("machine_type",), "a TD is a q35 machine"
    if spec.smm:
        yield ("smm",), "a TD has no system management mode"
    if spec.pic:
        yield ("pic",), "a TD has no legacy interrupt controller (PIC)"
    if spec.huge_pages is not None:
        yield ("huge_pages",), "private memory of a TD comes in pages of 4 KiB only"
    if spec.tpm:
        yield ("tpm",), "what the VMM emulates, such as a TPM, is nothing that a TD could trust"
    if spec.sgx:
        yield ("sgx",), "a TD cannot run SGX enclaves"
    frequency = spec.cpu.tsc_frequency
    if frequency is not None and not MIN_TSC <= frequency <= MAX_TSC:
        yield ("cpu", "tsc_frequency"), f"{frequency} Hz: the TSC of a TD runs at 100 MHz to 10 GHz"
    elif frequency is not None and frequency % TSC_STEP:
        yield ("cpu", "tsc_frequency"), f"{frequency} Hz: the TSC of a TD runs at a multiple of 25 MHz"


def _ordinary(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if spec.kind is Kind.TD:
        return
    for name, said in (("td", spec.td != Td()), ("emulation", spec.emulation != Emulation())):
        if said:
            yield (name,), f"is about a TD, and the machine is of kind {spec.kind.value}"
    if spec.smm and spec.firmware is not None and spec.firmware_variables is None:
        yield ("smm",), "protects variables in flash, and firmware_variables says none"
    if spec.kind is Kind.LEGACY:
        if spec.uki is not None:
            yield ("uki",), "a unified kernel image is an EFI program, which a BIOS does not start"
        if spec.firmware_variables is not None:
            yield ("firmware_variables",), "a BIOS has no EFI variables"
    if spec.firmware_variables is not None and spec.firmware is None:
        yield ("firmware",), "must be said with firmware_variables: the two belong together"


def _boot(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if spec.uki is not None and spec.direct_kernel is not None:
        yield ("uki",), "there is a direct_kernel too, and a machine starts one"
    if spec.diskless and spec.image is not None:
        yield ("image",), "the machine is diskless"
    kernel = spec.direct_kernel
    if kernel is not None:
        for name in sorted({*kernel.set} & {*kernel.remove}):
            yield ("direct_kernel", "set", name), "is removed too"
        for name in (*kernel.set, *kernel.remove):
            if not name or any(character.isspace() or character in '="' for character in name):
                yield ("direct_kernel",), f"{name[:60]!r} cannot be the name of a field of a command line"


def _disks(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    disks: list[tuple[Place, Disk]] = [(("disks", number), disk) for number, disk in enumerate(spec.disks)]
    if spec.image is not None:
        disks.insert(0, (("image",), spec.image))
    for place, disk in disks:
        if not disk.has_overlay and disk.known_format is None:
            yield (
                (*place, "format"),
                f"must be said of {disk.path.name!r}: a guest could make one look like another",
            )
    serials = [disk.serial for _, disk in disks if disk.serial]
    for serial in _repeated(serials):
        yield ("disks",), f"the serial {serial!r} is there twice"
    written = [disk.path for _, disk in disks if not disk.has_overlay and not disk.read_only]
    for path in _repeated(written):
        yield ("disks",), f"{path} would be written by two disks"


def _cpus(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    shape = spec.topology
    if shape is not None and shape.vcpus != spec.vcpus:
        product = f"{shape.sockets} sockets of {shape.cores} cores of {shape.threads} threads"
        yield ("topology",), f"{product} are {shape.vcpus} vCPUs, not {spec.vcpus}"
    for vcpu, host_cpus in spec.pinning.items():
        if not 0 <= vcpu < spec.vcpus:
            yield ("pinning", vcpu), f"there is no such vCPU: they are 0 to {spec.vcpus - 1}"
        elif not host_cpus:
            yield ("pinning", vcpu), "no CPU of the host is named"


def _numa(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if not spec.numa:
        return
    total = sum(node.memory for node in spec.numa)
    if total != spec.memory:
        yield ("numa",), f"the nodes have {total} MiB, and the machine {spec.memory}"
    there = Counter(vcpu for node in spec.numa for vcpu in node.vcpus)
    if sorted(there.elements()) != list(range(spec.vcpus)):
        yield ("numa",), f"each of the vCPUs 0 to {spec.vcpus - 1} must be in one node"


def _memory(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if spec.huge_pages is None:
        return
    for size in [node.memory for node in spec.numa] or [spec.memory]:
        if size % HUGE_PAGES[spec.huge_pages]:
            yield ("huge_pages",), f"{size} MiB are no number of pages of {spec.huge_pages}"


def _devices(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    for number, section in enumerate(spec.sgx):
        if section.node is not None and section.node >= max(len(spec.numa), 1):
            yield ("sgx", number, "node"), f"there is no NUMA node {section.node}"
    for number, item in enumerate(spec.fw_cfg):
        if (item.text is None) == (item.file is None):
            yield ("fw_cfg", number), "an item is either a text or a file"
        if item.name.startswith(RESERVED_ITEM):
            yield ("fw_cfg", number, "name"), f"{RESERVED_ITEM} is for tdx's own items"
    for table, known in SMBIOS_FIELDS.items():
        for name in getattr(spec.smbios, table):
            if name not in known:
                yield ("smbios", table, name), f"QEMU knows {', '.join(known)}"
    for name in _repeated(item.name for item in spec.fw_cfg):
        yield ("fw_cfg",), f"the item {name} is there twice"
    for address in _repeated(address[-7:] for address in spec.vfio):
        yield ("vfio",), f"the device {address} is there twice"


def _networks(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    for number, nic in enumerate(spec.nics):
        place: Place = ("nics", number)
        for name, wanted in (("interface", "tap"), ("bridge", "bridge")):
            value = getattr(nic, name)
            if nic.type == wanted and value is None:
                yield (*place, name), f"must be said of a network of type {wanted}"
            elif nic.type != wanted and value is not None:
                yield (*place, name), f"is for networks of type {wanted}, and this one is {nic.type}"
        if nic.forwards and nic.type != "user":
            yield (*place, "forwards"), f"is for networks of type user, and this one is {nic.type}"
    for mac in _repeated(nic.mac for nic in spec.nics if nic.mac):
        yield ("nics",), f"the MAC address {mac} is there twice"
    for protocol, port in _repeated(_ports(spec.nics)):
        yield ("nics",), f"the {protocol.upper()} port {port} of the host is forwarded twice"


def _ports(nics: Iterable[Nic]) -> Iterator[tuple[str, int]]:
    for nic in nics:
        for forward in nic.forwards:
            if forward.host:
                yield forward.protocol, forward.host


def _platform(spec: MachineSpec) -> Iterator[tuple[Place, str]]:
    if spec.platform is Platform.HARDWARE:
        if spec.td.debug:
            yield ("td", "debug"), "upstream QEMU refuses the DEBUG attribute of a TD; use platform emulated"
        if spec.emulation != Emulation():
            yield ("emulation",), "is for platform emulated"
    if spec.platform is Platform.EMULATED:
        if spec.cpu.model == "host":
            yield ("cpu", "model"), "there is no host CPU on platform emulated"
        if spec.sgx:
            yield ("sgx",), "SGX needs KVM, and platform emulated has none"
        if spec.td.perfmon:
            yield ("td", "perfmon"), "the emulator has no PERFMON attribute"


def _repeated(values: Iterable[Value]) -> list[Value]:
    return [value for value, times in Counter(values).items() if times > 1]
