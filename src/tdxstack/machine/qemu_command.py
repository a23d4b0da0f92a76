"""From a machine's specification to QEMU's argument vector."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tdxstack.abi.tdreport import (
    TD_ATTRIBUTE_DEBUG,
    TD_ATTRIBUTE_PERFMON,
    TD_ATTRIBUTE_PKS,
    TD_ATTRIBUTE_SEPT_VE_DISABLE,
)
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.machine.placement import Placement
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind, Td
from tdxstack.machine.spec_values import NoService, QuoteAddress, UnixAddress, VsockAddress
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform

MAX_SOCKET_PATH = 107
"""Bytes that a path in struct sockaddr_un may have (unix(7))."""

AUTHORIZED_KEY_ITEM = "opt/org.tdxstack/authorized_key"
"""fw_cfg item through which the SSH key comes in; TDVF measures no such item into any RTMR."""


def build_qemu_command(spec: MachineSpec, placement: Placement, files: MachineFiles) -> list[str]:
    """The complete argument vector; nothing in it is a secret.

    Raises `UnavailableError` where a socket's path would be too long for the kernel, `MalformedError` where
    the platform of `placement` cannot run `spec`.
    """
    spec = spec.changed(platform=placement.platform)
    emulated = spec.kind is Kind.TD and placement.platform is Platform.EMULATED
    if emulated != (placement.silicon is not None):
        raise UsageError("an emulated TD needs silicon to stand in for, and no other machine has any")
    quoting = _quote_service(spec, placement)
    for socket in (
        files.monitor,
        files.console_socket,
        quoting.path if isinstance(quoting, UnixAddress) else None,
    ):
        if socket is not None and len(bytes(socket)) > MAX_SOCKET_PATH:
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
        *_machine(spec),
        *_confidential_guest(spec, placement),
        "-smp", str(spec.vcpus),
        "-m", f"{spec.memory}M",
        "-bios", str(placement.firmware),
        *_kernel(spec),
        "-blockdev", _json(driver="qcow2", node_name="disk0", discard="unmap", cache={"no-flush": True},
                           file={"driver": "file", "filename": str(files.disk)}),
        # QEMU gives a kernel of its own the first place in the boot order.
        "-device", f"virtio-blk-pci,drive=disk0,bootindex={1 if spec.direct_kernel or spec.uki else 0}",
        "-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22",
        "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",
        "-fw_cfg", f"name={AUTHORIZED_KEY_ITEM},file={_escape(files.authorized_key)}",
        "-chardev", f"socket,id=console,path={_escape(files.console_socket)},server=on,wait=off,"
                    f"logfile={_escape(files.console_log)},logappend=off",
        "-serial", "chardev:console",
        "-qmp", f"unix:{_escape(files.monitor)},server=on,wait=off",
    ]
    # fmt: on


def _machine(spec: MachineSpec) -> list[str]:
    guard = ",confidential-guest-support=tdx0" if spec.kind is Kind.TD else ""
    if spec.platform is Platform.EMULATED:
        return ["-accel", "tcg,thread=multi", "-machine", f"q35{guard}", "-cpu", "max"]
    # A TD takes the host's CPU only, with the I/O APIC outside the kernel, and no reset before QEMU 11.0.
    return ["-accel", "kvm", "-machine", f"q35,kernel-irqchip=split{guard}", "-cpu", "host", "-no-reboot"]


def _quote_service(spec: MachineSpec, placement: Placement) -> QuoteAddress | None:
    address = spec.td.quote_service or placement.quote_service
    return None if spec.kind is not Kind.TD or isinstance(address, NoService) else address


def _confidential_guest(spec: MachineSpec, placement: Placement) -> list[str]:
    if spec.kind is not Kind.TD:
        return []
    properties: dict[str, object] = {"id": "tdx0", **_launch_properties(spec.td)}
    address = _quote_service(spec, placement)
    if address is not None:
        properties["quote-generation-socket"] = _socket_address(address)
    silicon = placement.silicon
    if silicon is None:
        return ["-object", _json(qom_type="tdx-guest", **properties)]
    key = {"qom-type": "secret", "id": "report-mac", "file": str(silicon.mac_key)}
    properties |= {
        "report-mac-key": "report-mac",
        "mrseam": _base64(silicon.mrseam),
        "cpusvn": _base64(silicon.cpusvn),
        "tee-tcb-svn": _base64(silicon.tee_tcb_svn),
        "ve": spec.emulation.ve,
        "sept": spec.emulation.sept.value,
    }
    return ["-object", _json(**key), "-object", _json(qom_type="tdx-tcg-guest", **properties)]


def _socket_address(address: QuoteAddress) -> dict[str, str]:
    """A SocketAddress (QEMU qapi/sockets.json)."""
    if isinstance(address, UnixAddress):
        return {"type": "unix", "path": str(address.path)}
    assert isinstance(address, VsockAddress), "without a service there is no address"
    return {"type": "vsock", "cid": str(address.cid), "port": str(address.port)}


def _kernel(spec: MachineSpec) -> list[str]:
    """A unified kernel image comes to the firmware as any other kernel."""
    if spec.uki is not None:
        return ["-kernel", str(spec.uki.image), "-append", spec.uki.command_line]
    if spec.direct_kernel is None:
        return []
    initrd = ["-initrd", str(spec.direct_kernel.initrd)] if spec.direct_kernel.initrd else []
    return ["-kernel", str(spec.direct_kernel.kernel), *initrd, "-append", spec.direct_kernel.arguments]


def _launch_properties(td: Td) -> dict[str, object]:
    attributes = (
        (TD_ATTRIBUTE_SEPT_VE_DISABLE if td.sept_ve_disable else 0)
        | (TD_ATTRIBUTE_DEBUG if td.debug else 0)
        | (TD_ATTRIBUTE_PKS if td.pks else 0)
        | (TD_ATTRIBUTE_PERFMON if td.perfmon else 0)
    )
    return {
        "attributes": attributes,
        "mrconfigid": _base64(td.mrconfigid),
        "mrowner": _base64(td.mrowner),
        "mrownerconfig": _base64(td.mrownerconfig),
    }


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _json(**members: object) -> str:
    """One of QEMU's JSON options; underscores in a name stand for hyphens."""
    return json.dumps({name.replace("_", "-"): value for name, value in members.items()})


def _escape(path: Path) -> str:
    """A path inside a comma-separated option (QEMU doubles commas)."""
    return str(path).replace(",", ",,")
