"""What would run for a machine, in the words of QEMU, libvirt or KubeVirt; nothing is made or started."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.machine.allocation import free_port
from tdxstack.machine.kubevirt import build_virtual_machine
from tdxstack.machine.libvirt_xml import DomainPlacement, build_domain_xml, fix_ports
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Disk, DiskFormat, Kind
from tdxstack.platform import Platform
from tdxstack.run import command_line
from tdxstack.workflows.machines import Machines

LIBVIRT_IMAGES = Path("/var/lib/libvirt/images")
"""The storage pool that every libvirt has."""


class Format(enum.Enum):
    """Whose words."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"
    KUBEVIRT = "kubevirt"


@dataclass(frozen=True, slots=True)
class Export:
    """What would run."""

    text: str
    argv: Sequence[str] = ()
    """Of QEMU."""
    notes: Sequence[str] = ()
    """What must be done before it can run."""


def export_machine(machines: Machines, name: str, format_: Format) -> Export:
    """Of a machine that is there. Raises `UsageError` where there is none, or what cannot be exported."""
    machine = machines.open(name)
    if format_ is Format.QEMU:
        argv = machine.record.argv
        return Export(shell_lines(argv), argv=argv)
    raise UsageError(f"machine {name!r} is known as a QEMU command only", hint="give --spec FILE instead")


def export_spec(spec: MachineSpec, format_: Format) -> Export:
    """Of a machine that could be made. Raises `UsageError` where it has no name or cannot be exported."""
    if not spec.name:
        raise UsageError("the machine has no name", hint="give it one: name in its specification")
    if format_ is Format.KUBEVIRT:
        return Export(build_virtual_machine(spec))
    if format_ is Format.QEMU:
        raise UsageError("a QEMU command is known of a machine that is there", hint="give its NAME instead")
    return _libvirt(spec)


def shell_lines(argv: Sequence[str]) -> str:
    """A command as a shell takes it, an option with its value a line."""
    lines = [shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines) + "\n"


def _libvirt(spec: MachineSpec) -> Export:
    own_image = spec.image is None and not spec.diskless
    if spec.kind is Kind.LEGACY and own_image and spec.direct_kernel is None:
        raise UsageError("tdx's own image has boot loaders for UEFI only", hint="name another image")
    boot = [] if spec.diskless else [spec.image]
    disks = [(disk, _place(spec.name, number, disk)) for number, disk in enumerate([*boot, *spec.disks])]
    placement = DomainPlacement(
        # Whoever exports a machine means another host, which may have what this one lacks.
        platform=spec.platform or Platform.HARDWARE,
        authorized_key="",
        disks=[path for _, path in disks],
        firmware=spec.firmware,
    )
    text = build_domain_xml(fix_ports(spec, free_port), placement)
    return Export(text, notes=list(_notes(disks)))


def _place(name: str, number: int, disk: Disk | None) -> Path:
    """What a disk writes to: an overlay lies beside its base, so that libvirt may read both."""
    overlay = f"{name}-disk{number}.qcow2"
    if disk is None:
        return LIBVIRT_IMAGES / overlay
    return disk.path.with_name(overlay) if disk.has_overlay else disk.path


def _notes(disks: Sequence[tuple[Disk | None, Path]]) -> Iterator[str]:
    for disk, path in disks:
        if disk is None:
            yield f"make {path} first: a copy of tdx's own image (tdx image list), in qcow2"
        elif disk.has_overlay:
            format_ = (disk.known_format or DiskFormat.RAW).value
            make: list[str | Path] = [
                "qemu-img",
                "create",
                "-f",
                "qcow2",
                "-b",
                disk.path,
                "-F",
                format_,
                path,
            ]
            yield f"make {path} first: {command_line(make)}"
