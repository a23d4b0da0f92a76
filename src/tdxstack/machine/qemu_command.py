"""From a machine's specification to QEMU's argument vector."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tdxstack.abi.tdreport import TD_ATTRIBUTE_DEBUG, TD_ATTRIBUTE_SEPT_VE_DISABLE
from tdxstack.errors import UnavailableError
from tdxstack.machine.spec import DirectKernel, EmulatedTd, MachineSpec, TdSettings
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform

MAX_SOCKET_PATH = 107
"""Bytes that a path in struct sockaddr_un may have (unix(7))."""

AUTHORIZED_KEY_ITEM = "opt/org.tdxstack/authorized_key"
"""fw_cfg item through which the SSH key comes in; TDVF measures no such item into any RTMR."""


def build_qemu_command(spec: MachineSpec, files: MachineFiles) -> list[str]:
    """The complete argument vector; nothing in it is a secret.

    Raises `UnavailableError` where a socket's path would be too long for the kernel.
    """
    for socket in (files.monitor, files.console_socket, spec.quote_socket):
        if socket is not None and len(bytes(socket)) > MAX_SOCKET_PATH:
            raise UnavailableError(
                f"the socket path {socket} is longer than {MAX_SOCKET_PATH} bytes",
                hint="set XDG_RUNTIME_DIR to a shorter directory",
            )
    # fmt: off
    return [
        *spec.qemu,
        "-name", f"{spec.name},process=tdx-{spec.name}",
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        *_machine(spec),
        *_confidential_guest(spec),
        "-smp", str(spec.vcpus),
        "-m", f"{spec.memory_mib}M",
        "-bios", str(spec.firmware),
        *_direct_kernel(spec.direct_kernel),
        "-blockdev", _json(driver="qcow2", node_name="disk0", discard="unmap", cache={"no-flush": True},
                           file={"driver": "file", "filename": str(files.disk)}),
        # QEMU gives a kernel of its own the first place in the boot order.
        "-device", f"virtio-blk-pci,drive=disk0,bootindex={1 if spec.direct_kernel else 0}",
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
    guard = ",confidential-guest-support=tdx0" if spec.td else ""
    if spec.platform is Platform.EMULATED:
        return ["-accel", "tcg,thread=multi", "-machine", f"q35{guard}", "-cpu", "max"]
    # A TD takes the host's CPU only, with the I/O APIC outside the kernel, and no reset before QEMU 11.0.
    return ["-accel", "kvm", "-machine", f"q35,kernel-irqchip=split{guard}", "-cpu", "host", "-no-reboot"]


def _confidential_guest(spec: MachineSpec) -> list[str]:
    if spec.td is None:
        return []
    properties: dict[str, object] = {"id": "tdx0", **_launch_properties(spec.td)}
    if spec.quote_socket is not None:
        properties["quote-generation-socket"] = {"type": "unix", "path": str(spec.quote_socket)}
    if spec.emulated_td is None:
        return ["-object", _json(qom_type="tdx-guest", **properties)]
    key = {"qom-type": "secret", "id": "report-mac", "file": str(spec.emulated_td.mac_key)}
    properties |= _emulated_properties(spec.emulated_td)
    return ["-object", _json(**key), "-object", _json(qom_type="tdx-tcg-guest", **properties)]


def _direct_kernel(boot: DirectKernel | None) -> list[str]:
    if boot is None:
        return []
    initrd = ["-initrd", str(boot.initrd)] if boot.initrd else []
    return ["-kernel", str(boot.kernel), *initrd, "-append", boot.command_line]


def _launch_properties(td: TdSettings) -> dict[str, object]:
    attributes = TD_ATTRIBUTE_SEPT_VE_DISABLE | (TD_ATTRIBUTE_DEBUG if td.debug else 0)
    return {
        "attributes": attributes,
        "mrconfigid": _base64(td.mrconfigid),
        "mrowner": _base64(td.mrowner),
        "mrownerconfig": _base64(td.mrownerconfig),
    }


def _emulated_properties(td: EmulatedTd) -> dict[str, object]:
    return {
        "report-mac-key": "report-mac",
        "mrseam": _base64(td.mrseam),
        "cpusvn": _base64(td.cpusvn),
        "tee-tcb-svn": _base64(td.tee_tcb_svn),
        "ve": td.ve,
        "sept": td.sept.value,
    }


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _json(**members: object) -> str:
    """One of QEMU's JSON options; underscores in a name stand for hyphens."""
    return json.dumps({name.replace("_", "-"): value for name, value in members.items()})


def _escape(path: Path) -> str:
    """A path inside a comma-separated option (QEMU doubles commas)."""
    return str(path).replace(",", ",,")
