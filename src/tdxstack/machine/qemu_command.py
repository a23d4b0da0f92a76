"""From a machine's specification, and what was found and made for it, to QEMU's argument vector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.machine import qemu_devices
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_td import quote_service, td_objects
from tdxstack.machine.qemu_text import escape, json_option
from tdxstack.machine.refusals import HUGE_PAGES
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Cpu, Kind
from tdxstack.machine.spec_values import UnixAddress
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform

MAX_SOCKET_PATH = 107
"""Bytes that a path in struct sockaddr_un may have (unix(7))."""

MIB = 1 << 20


def build_qemu_command(spec: MachineSpec, placement: Placement, files: MachineFiles) -> list[str]:
    """The complete argument vector; nothing in it is a secret.

    Raises `UnavailableError` where a socket's path would be too long for the kernel, `MalformedError` where
    the platform of `placement` cannot run `spec`.
    """
    spec = spec.changed(platform=placement.platform)
    emulated = spec.kind is Kind.TD and placement.platform is Platform.EMULATED
    if emulated != (placement.silicon is not None):
        raise UsageError("an emulated TD needs silicon to stand in for, and no other machine has any")
    if spec.kind is Kind.TD and placement.firmware is None:
        raise UsageError("a TD needs a TDVF firmware", hint="name one with firmware")
    for socket in _sockets(spec, placement, files):
        if len(bytes(socket)) > MAX_SOCKET_PATH:
            raise UnavailableError(
                f"the socket path {socket} is longer than {MAX_SOCKET_PATH} bytes",
                hint="set XDG_RUNTIME_DIR to a shorter directory",
            )
    # fmt: off
    return [
        *placement.qemu,
        "-name", f"{spec.name},process=tdx-{spec.name}",
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        *_machine(spec, placement),
        *(td_objects(spec, placement) if spec.kind is Kind.TD else []),
        "-smp", _smp(spec),
        "-m", f"{spec.memory}M",
        *_memory(spec),
        *_enclave_memory(spec),
        *_firmware(spec, placement),
        *_kernel(spec),
        *qemu_devices.disks(spec, files),
        *qemu_devices.networks(spec, placement),
        "-device", "virtio-rng-pci",
        *qemu_devices.others(spec, placement, files),
        *qemu_devices.firmware_items(spec, files),
        *qemu_devices.consoles(spec, files),
        "-qmp", f"unix:{escape(files.monitor)},server=on,wait=off",
    ]
    # fmt: on


def _sockets(spec: MachineSpec, placement: Placement, files: MachineFiles) -> Iterator[Path]:
    yield files.monitor
    yield files.console_socket
    if spec.guest_agent:
        yield files.agent
    if spec.tpm:
        yield files.tpm_socket
    quoting = quote_service(spec, placement)
    if isinstance(quoting, UnixAddress):
        yield quoting.path


def _machine(spec: MachineSpec, placement: Placement) -> list[str]:
    options = [spec.machine_type]
    hardware = placement.platform is Platform.HARDWARE
    if hardware and spec.kind is Kind.TD:
        # KVM has no I/O APIC for a TD: QEMU has it.
        options.append("kernel-irqchip=split")
    options += [
        f"{name}={_switch(value)}"
        for name, value in (("smm", spec.smm), ("pic", spec.pic))
        if value is not None
    ]
    if spec.kind is Kind.TD:
        options.append("confidential-guest-support=tdx0")
    if spec.huge_pages and not spec.numa:
        options.append("memory-backend=ram0")
    for number, section in enumerate(spec.sgx):
        options.append(f"sgx-epc.{number}.memdev=epc{number}")
        options.append(f"sgx-epc.{number}.node={section.node or 0}")
    if placement.variables is not None:
        options += ["pflash0=flash0", "pflash1=flash1"]
    accelerator = "kvm" if hardware else "tcg,thread=multi"
    words = ["-accel", accelerator, "-machine", ",".join(options), "-cpu", _cpu(spec, hardware=hardware)]
    if spec.kind is Kind.TD and hardware and not placement.td_can_reset:
        words.append("-no-reboot")
    return words


def _cpu(spec: MachineSpec, *, hardware: bool) -> str:
    cpu: Cpu = spec.cpu
    words = [cpu.model or ("host" if hardware else "max")]
    if spec.sgx:
        words += ["sgx=on", "sgx-provisionkey=on"]
    words += [f"{name}={_switch(value)}" for name, value in cpu.features.items()]
    if cpu.tsc_frequency is not None:
        words.append(f"tsc-frequency={cpu.tsc_frequency}")
    return ",".join(words)


def _smp(spec: MachineSpec) -> str:
    shape = spec.topology
    if shape is None:
        return str(spec.vcpus)
    return f"{spec.vcpus},sockets={shape.sockets},cores={shape.cores},threads={shape.threads}"


def _memory(spec: MachineSpec) -> list[str]:
    """Memory that is of more than one node of the guest, or of certain pages or nodes of the host."""
    if not spec.numa:
        return _memory_backend("ram0", spec.memory, (), spec) if spec.huge_pages else []
    words = []
    for number, node in enumerate(spec.numa):
        words += _memory_backend(f"ram{number}", node.memory, node.host_nodes, spec)
        cpus = "".join(f",cpus={vcpu}" for vcpu in node.vcpus)
        words += ["-numa", f"node,nodeid={number}{cpus},memdev=ram{number}"]
    return words


def _memory_backend(name: str, size: int, host_nodes: tuple[int, ...], spec: MachineSpec) -> list[str]:
    members: dict[str, object] = {"id": name, "size": size * MIB}
    if host_nodes:
        members |= {"host-nodes": list(host_nodes), "policy": "bind"}
    if spec.huge_pages is None:
        return ["-object", json_option(qom_type="memory-backend-ram", **members)]
    pages = HUGE_PAGES[spec.huge_pages] * MIB
    members |= {"hugetlb": True, "hugetlbsize": pages, "prealloc": True}
    return ["-object", json_option(qom_type="memory-backend-memfd", **members)]


def _enclave_memory(spec: MachineSpec) -> list[str]:
    words = []
    for number, section in enumerate(spec.sgx):
        members = {"id": f"epc{number}", "size": section.size * MIB, "prealloc": section.prealloc}
        words += ["-object", json_option(qom_type="memory-backend-epc", **members)]
    return words


def _firmware(spec: MachineSpec, placement: Placement) -> list[str]:
    if placement.firmware is None:
        # QEMU brings the BIOS of its own, SeaBIOS.
        return []
    if placement.variables is None:
        return ["-bios", str(placement.firmware)]
    # A firmware with SMM keeps the variables to itself: nothing else may write to the flash.
    words = ["-global", "driver=cfi.pflash01,property=secure,value=on"] if spec.smm else []
    for number, path in enumerate((placement.firmware, placement.variables)):
        file = {"driver": "file", "filename": str(path)}
        words += [
            "-blockdev",
            json_option(driver="raw", node_name=f"flash{number}", read_only=not number, file=file),
        ]
    return words


def _kernel(spec: MachineSpec) -> list[str]:
    """A unified kernel image comes to the firmware as any other kernel."""
    if spec.uki is not None:
        append = ["-append", spec.uki.command_line] if spec.uki.command_line else []
        return ["-kernel", str(spec.uki.image), *append]
    if spec.direct_kernel is None:
        return []
    initrd = ["-initrd", str(spec.direct_kernel.initrd)] if spec.direct_kernel.initrd else []
    return ["-kernel", str(spec.direct_kernel.kernel), *initrd, "-append", spec.direct_kernel.arguments]


def _switch(value: bool) -> str:
    return "on" if value else "off"
