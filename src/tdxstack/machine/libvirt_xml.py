"""From a machine's specification to libvirt's domain XML (libvirt.org/formatdomain.html)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tdxstack.abi.tdreport import TD_ATTRIBUTE_DEBUG, TD_ATTRIBUTE_SEPT_VE_DISABLE
from tdxstack.errors import UsageError
from tdxstack.machine.qemu_devices import AGENT_PORT, AUTHORIZED_KEY_ITEM, SSH
from tdxstack.machine.refusals import SMBIOS_FIELDS
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import ZERO_DIGEST, Console, Disk, DiskFormat, Forward, Kind, Nic, Smbios, Td
from tdxstack.machine.spec_values import NoService, UnixAddress, VsockAddress
from tdxstack.platform import Platform

HINT = "run it with QEMU itself, or leave that out; docs/how-to/libvirt.md lists what libvirt cannot do"
METADATA = "urn:tdxstack:machine"
"""XML name space of the element that marks a domain as one of ours."""

PMU = "pmu"
"""QEMU's name of a CPU feature that libvirt has elsewhere."""

_CPU_MODES = {"host": "host-passthrough", "max": "maximum"}
"""QEMU's names of CPUs that are no models: libvirt's modes."""
_SMBIOS_TAGS = {"bios": "bios", "system": "system", "board": "baseBoard", "chassis": "chassis"}
"""The specification's name of an SMBIOS structure, and libvirt's; the fields are those that QEMU has."""


@dataclass(frozen=True, slots=True)
class DomainPlacement:
    """Where and with what a domain runs: paths are those of libvirt's host."""

    platform: Platform
    """Hardware runs on KVM, emulated on TCG."""
    authorized_key: str
    """SSH public key that may enter, one line; empty for none that tdx hands in."""
    disks: Sequence[Path]
    """What each disk writes to: the image first, unless the machine is diskless."""
    overlays: Sequence[Path] = ()
    """Those of `disks` that belong to the machine, and go with it."""
    emulator: Path | None = None
    """QEMU; None for libvirt's own choice."""
    firmware: Path | None = None
    """None for what libvirt finds by its descriptor."""
    console_log: Path | None = None
    """Where libvirt's log daemon writes down what the console says."""


def build_domain_xml(spec: MachineSpec, placement: DomainPlacement) -> str:
    """The XML of the domain. Ports that are forwarded must be numbers (`fix_ports`): libvirt chooses none.

    Raises `UsageError` that names everything that libvirt cannot do, `MalformedError` where the platform of
    `placement` cannot run `spec`.
    """
    spec = spec.changed(platform=placement.platform)
    refused = list(refusals(spec, placement))
    if refused:
        raise UsageError(f"libvirt cannot run machine {spec.name!r}: {'; '.join(refused)}", hint=HINT)
    hardware = placement.platform is Platform.HARDWARE
    domain = Element("domain", {"type": "kvm" if hardware else "qemu"})
    _text(domain, "name", spec.name)
    metadata = SubElement(domain, "metadata")
    mark = SubElement(metadata, f"{{{METADATA}}}machine", {"kind": spec.kind.value})
    for overlay in placement.overlays:
        SubElement(mark, f"{{{METADATA}}}overlay", {"path": _absolute(overlay)})
    if spec.sgx:
        # An EPC section is a memory device, for which libvirt wants slots.
        _text(
            domain,
            "maxMemory",
            str(spec.memory + sum(section.size for section in spec.sgx)),
            slots=str(len(spec.sgx)),
            unit="MiB",
        )
    _text(domain, "memory", str(spec.memory), unit="MiB")
    _memory_backing(domain, spec)
    _text(domain, "vcpu", str(spec.vcpus), placement="static")
    _tuning(domain, spec)
    _sysinfo(domain, spec, placement)
    _system(domain, spec, placement)
    _features(domain, spec)
    _cpu(domain, spec, hardware)
    clock = SubElement(domain, "clock", {"offset": "utc"})
    if spec.cpu.tsc_frequency is not None:
        SubElement(clock, "timer", {"name": "tsc", "frequency": str(spec.cpu.tsc_frequency)})
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(domain, f"on_{event}", action)
    _devices(domain, spec, placement)
    if spec.kind is Kind.TD:
        _launch_security(domain, spec.td)
    ElementTree.register_namespace("tdx", METADATA)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode") + "\n"


def refusals(spec: MachineSpec, placement: DomainPlacement) -> Iterator[str]:
    """What libvirt cannot do of a machine, each with the reason (libvirt src/qemu/qemu_validate.c)."""
    if spec.kind is Kind.TD and placement.platform is Platform.EMULATED:
        yield "kind: libvirt starts TDs on KVM only, and an emulated TD runs without"
    for name in ("pks", "perfmon"):
        if getattr(spec.td, name):
            yield f"td.{name}: of a TD's attributes, libvirt lets debug and sept_ve_disable be chosen"
    if isinstance(spec.td.quote_service, VsockAddress):
        yield "td.quote_service: libvirt takes the path of a unix socket only"
    if spec.pic is not None:
        yield "pic: libvirt has no setting for it"
    for number, section in enumerate(spec.sgx):
        if not section.prealloc:
            yield f"sgx.{number}.prealloc: libvirt always allocates EPC sections beforehand"
    for number, nic in enumerate(spec.nics):
        if any(forward.host == 0 for forward in nic.forwards):
            yield f"nics.{number}.forwards: libvirt forwards ports by their numbers"


def overlays_of(domain: Element) -> list[Path]:
    """The `DomainPlacement.overlays` that a domain was made with."""
    found = domain.iterfind(f"metadata/{{{METADATA}}}machine/{{{METADATA}}}overlay")
    return [Path(overlay.get("path", "")) for overlay in found]


def fix_ports(spec: MachineSpec, free_port: Callable[[], int]) -> MachineSpec:
    """`spec` with `free_port()` for each port left to choice; its first user network leads to its SSH."""
    nics: list[Nic] = []
    for nic in spec.nics:
        forwards = list(nic.forwards)
        first = nic.type == "user" and all(other.type != "user" for other in nics)
        if first and not any((forward.guest, forward.protocol) == (SSH, "tcp") for forward in forwards):
            forwards.append(Forward(guest=SSH))
        fixed = [
            forward if forward.host else forward.model_copy(update={"host": free_port()})
            for forward in forwards
        ]
        nics.append(nic.model_copy(update={"forwards": tuple(fixed)}))
    return spec.changed(nics=tuple(nics))


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _memory_backing(domain: Element, spec: MachineSpec) -> None:
    if spec.huge_pages is not None:
        pages = SubElement(SubElement(domain, "memoryBacking"), "hugepages")
        SubElement(pages, "page", {"size": spec.huge_pages[:-1], "unit": spec.huge_pages[-1]})


def _tuning(domain: Element, spec: MachineSpec) -> None:
    if spec.pinning:
        pinning = SubElement(domain, "cputune")
        for vcpu, cpus in sorted(spec.pinning.items()):
            SubElement(pinning, "vcpupin", {"vcpu": str(vcpu), "cpuset": _set(cpus)})
    if any(node.host_nodes for node in spec.numa):
        tuning = SubElement(domain, "numatune")
        for number, node in enumerate(spec.numa):
            if node.host_nodes:
                where = {"mode": "strict", "nodeset": _set(node.host_nodes)}
                SubElement(tuning, "memnode", {"cellid": str(number), **where})


def _sysinfo(domain: Element, spec: MachineSpec, placement: DomainPlacement) -> None:
    if placement.authorized_key or spec.fw_cfg:
        _fw_cfg(SubElement(domain, "sysinfo", {"type": "fwcfg"}), spec, placement.authorized_key)
    if _has_smbios(spec):
        _smbios(SubElement(domain, "sysinfo", {"type": "smbios"}), spec.smbios)


def _fw_cfg(items: Element, spec: MachineSpec, authorized_key: str) -> None:
    if authorized_key:
        _text(items, "entry", authorized_key, name=AUTHORIZED_KEY_ITEM)
    for item in spec.fw_cfg:
        if item.file is not None:
            SubElement(items, "entry", {"name": item.name, "file": _absolute(item.file)})
        else:
            _text(items, "entry", item.text or "", name=item.name)


def _smbios(element: Element, smbios: Smbios) -> None:
    for name, tag in _SMBIOS_TAGS.items():
        said: dict[str, str] = getattr(smbios, name)
        if said:
            structure = SubElement(element, tag)
            for field in SMBIOS_FIELDS[name]:
                if field in said:
                    _text(structure, "entry", said[field], name=field)
    if smbios.oem_strings:
        strings = SubElement(element, "oemStrings")
        for string in smbios.oem_strings:
            _text(strings, "entry", string)


def _has_smbios(spec: MachineSpec) -> bool:
    return spec.smbios != Smbios()


def _system(domain: Element, spec: MachineSpec, placement: DomainPlacement) -> None:
    uefi = spec.kind is not Kind.LEGACY
    found = uefi and placement.firmware is None
    system = SubElement(domain, "os", {"firmware": "efi"} if found else {})
    _text(system, "type", "hvm", arch="x86_64", machine=spec.machine_type)
    if placement.firmware is not None:
        path = _absolute(placement.firmware)
        if spec.firmware_variables is not None:
            _text(system, "loader", path, readonly="yes", type="pflash")
            SubElement(system, "nvram", {"template": _absolute(spec.firmware_variables)})
        else:
            _text(system, "loader", path, type="rom")
    kernel = spec.direct_kernel
    if kernel is not None:
        _text(system, "kernel", _absolute(kernel.kernel))
        if kernel.initrd is not None:
            _text(system, "initrd", _absolute(kernel.initrd))
        _text(system, "cmdline", kernel.arguments)
    if spec.uki is not None:
        _text(system, "kernel", _absolute(spec.uki.image))
        if spec.uki.command_line:
            _text(system, "cmdline", spec.uki.command_line)
    if _has_smbios(spec):
        SubElement(system, "smbios", {"mode": "sysinfo"})


def _features(domain: Element, spec: MachineSpec) -> None:
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if spec.smm is not None:
        SubElement(features, "smm", {"state": "on" if spec.smm else "off"})
    if (pmu := spec.cpu.features.get(PMU)) is not None:
        SubElement(features, "pmu", {"state": "on" if pmu else "off"})
    if spec.kind is Kind.TD:
        # The I/O APIC outside the kernel: libvirt's words for kernel-irqchip=split.
        SubElement(features, "ioapic", {"driver": "qemu"})


def _cpu(domain: Element, spec: MachineSpec, hardware: bool) -> None:
    model = spec.cpu.model or ("host" if hardware else "max")
    if model in _CPU_MODES:
        cpu = SubElement(domain, "cpu", {"mode": _CPU_MODES[model]})
    else:
        cpu = SubElement(domain, "cpu", {"mode": "custom", "match": "exact"})
        _text(cpu, "model", model, fallback="forbid")
    shape = spec.topology
    if shape is not None:
        counts = {"sockets": shape.sockets, "cores": shape.cores, "threads": shape.threads}
        SubElement(cpu, "topology", {name: str(count) for name, count in counts.items()})
    for name, on in sorted(spec.cpu.features.items()):
        if name == PMU:
            continue
        SubElement(cpu, "feature", {"policy": "require" if on else "disable", "name": name})
    if spec.numa:
        cells = SubElement(cpu, "numa")
        for number, node in enumerate(spec.numa):
            size = {"memory": str(node.memory), "unit": "MiB"}
            SubElement(cells, "cell", {"id": str(number), "cpus": _set(node.vcpus), **size})


def _devices(domain: Element, spec: MachineSpec, placement: DomainPlacement) -> None:
    devices = SubElement(domain, "devices")
    if placement.emulator is not None:
        _text(devices, "emulator", _absolute(placement.emulator))
    boots_disk = spec.direct_kernel is None and spec.uki is None
    for number, (disk, path) in enumerate(_disks(spec, placement)):
        _disk(devices, number, disk, path, boots=boots_disk and number == 0)
    SubElement(devices, "controller", {"type": "usb", "model": "none"})
    for nic in spec.nics:
        _interface(devices, nic)
    _console(devices, spec, placement)
    if spec.guest_agent:
        channel = SubElement(devices, "channel", {"type": "unix"})
        SubElement(channel, "target", {"type": "virtio", "name": AGENT_PORT})
    if spec.tpm:
        tpm = SubElement(devices, "tpm", {"model": "tpm-tis" if spec.kind is Kind.LEGACY else "tpm-crb"})
        SubElement(tpm, "backend", {"type": "emulator", "version": "2.0"})
    for address in spec.vfio:
        _host_device(devices, address)
    SubElement(devices, "memballoon", {"model": "none"})
    rng = SubElement(devices, "rng", {"model": "virtio"})
    _text(rng, "backend", "/dev/urandom", model="random")
    if spec.vsock is not None:
        vsock = SubElement(devices, "vsock", {"model": "virtio"})
        cid = spec.vsock.cid
        SubElement(vsock, "cid", {"auto": "yes"} if cid is None else {"auto": "no", "address": str(cid)})
    for section in spec.sgx:
        memory = SubElement(devices, "memory", {"model": "sgx-epc"})
        target = SubElement(memory, "target")
        _text(target, "size", str(section.size), unit="MiB")
        if section.node is not None:
            _text(target, "node", str(section.node))


def _disks(spec: MachineSpec, placement: DomainPlacement) -> Iterator[tuple[Disk | None, Path]]:
    """Each disk, and the path that it writes to; None for tdx's own image."""
    said: list[Disk | None] = [] if spec.diskless else [spec.image]
    yield from zip([*said, *spec.disks], placement.disks, strict=True)


def _disk(devices: Element, number: int, disk: Disk | None, path: Path, *, boots: bool) -> None:
    known = DiskFormat.QCOW2 if disk is None or disk.has_overlay else disk.known_format
    element = SubElement(devices, "disk", {"type": "file", "device": "disk"})
    format = (known or DiskFormat.RAW).value
    SubElement(element, "driver", {"name": "qemu", "type": format, "discard": "unmap"})
    SubElement(element, "source", {"file": _absolute(path)})
    SubElement(element, "target", {"dev": f"vd{_letters(number)}", "bus": "virtio"})
    if disk is not None and disk.read_only:
        SubElement(element, "readonly")
    if disk is not None and disk.serial is not None:
        _text(element, "serial", disk.serial)
    if boots:
        SubElement(element, "boot", {"order": "1"})


def _letters(number: int) -> str:
    """a to z, then aa and so on."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


def _interface(devices: Element, nic: Nic) -> None:
    types = {"user": "user", "tap": "ethernet", "bridge": "bridge"}
    interface = SubElement(devices, "interface", {"type": types[nic.type]})
    if nic.mac is not None:
        SubElement(interface, "mac", {"address": nic.mac})
    if nic.bridge is not None:
        SubElement(interface, "source", {"bridge": nic.bridge})
    if nic.interface is not None:
        SubElement(interface, "target", {"dev": nic.interface, "managed": "no"})
    SubElement(interface, "model", {"type": "virtio"})
    if nic.forwards:
        # libvirt forwards ports with passt only, not with QEMU's own user network.
        SubElement(interface, "backend", {"type": "passt"})
    for forward in nic.forwards:
        _forward(interface, forward)
    SubElement(interface, "rom", {"enabled": "no"})


def _forward(interface: Element, forward: Forward) -> None:
    element = SubElement(interface, "portForward", {"proto": forward.protocol, "address": forward.address})
    SubElement(element, "range", {"start": str(forward.host), "to": str(forward.guest)})


def _console(devices: Element, spec: MachineSpec, placement: DomainPlacement) -> None:
    if spec.console is Console.SERIAL:
        console = SubElement(devices, "serial", {"type": "pty"})
        target = {"type": "isa-serial", "port": "0"}
    else:
        console = SubElement(devices, "console", {"type": "pty"})
        target = {"type": "virtio", "port": "0"}
    if placement.console_log is not None:
        SubElement(console, "log", {"file": _absolute(placement.console_log), "append": "off"})
    SubElement(console, "target", target)


def _host_device(devices: Element, address: str) -> None:
    slot, _, function = address.rpartition(".")
    *domain, bus, device = slot.split(":")
    parts = {"domain": domain[0] if domain else "0000", "bus": bus, "slot": device, "function": function}
    element = SubElement(devices, "hostdev", {"mode": "subsystem", "type": "pci", "managed": "yes"})
    SubElement(SubElement(element, "source"), "address", {name: f"0x{part}" for name, part in parts.items()})


def _launch_security(domain: Element, td: Td) -> None:
    element = SubElement(domain, "launchSecurity", {"type": "tdx"})
    policy = td.debug * TD_ATTRIBUTE_DEBUG | td.sept_ve_disable * TD_ATTRIBUTE_SEPT_VE_DISABLE
    _text(element, "policy", f"{policy:#x}")
    for tag, digest in (
        ("mrConfigId", td.mrconfigid),
        ("mrOwner", td.mrowner),
        ("mrOwnerConfig", td.mrownerconfig),
    ):
        if digest != ZERO_DIGEST:
            _text(element, tag, base64.b64encode(digest).decode())
    if not isinstance(td.quote_service, NoService):
        service = SubElement(element, "quoteGenerationService")
        # Without a path, libvirt takes that of Intel's tdx-qgs package.
        if isinstance(td.quote_service, UnixAddress):
            service.set("path", _absolute(td.quote_service.path))


def _absolute(path: Path) -> str:
    if not path.is_absolute():
        raise UsageError(f"libvirt's daemon cannot find the path {path}", hint="give it from the root on")
    return str(path)


def _set(numbers: Sequence[int]) -> str:
    """Numbers as libvirt lists them: 0-3,8."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ",".join("-".join(str(end) for end in range_) for range_ in ranges)
