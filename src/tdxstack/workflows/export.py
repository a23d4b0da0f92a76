"""What would run for a machine, in the words of QEMU, libvirt or KubeVirt; nothing is started."""

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
from tdxstack.machine.spec_file import read_spec
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


def export_machine(
    machines: Machines, name: str, format_: Format, platform: Platform | None = None
) -> Export:
    """Of a machine that is there: the command that starts it, or its like on `platform` for others to run.

    Raises `UsageError` where there is none, or what cannot be exported.
    """
    machine = machines.open(name)
    if format_ is Format.QEMU:
        if platform is not None:
            raise UsageError("the machine has its platform already", hint="leave out --platform")
        return _qemu(machine.record.argv)
    files = machine.files
    if not files.spec.exists():
        raise UsageError(
            f"machine {name!r} was made by an older tdx: only its QEMU command is known",
            hint="use --format qemu, or --spec FILE",
        )
    spec = _on(read_spec(files.spec), platform)
    if format_ is Format.KUBEVIRT:
        return Export(build_virtual_machine(spec))
    key = files.authorized_key.read_text(encoding="ascii").strip()
    disks = [
        (disk, files.overlay(number) if disk is None or disk.has_overlay else disk.path)
        for number, disk in _disks(spec)
    ]
    note = f"libvirt's QEMU must be let into {files.directory}; stop the machine first, it has the same disks"
    return Export(_libvirt(spec, [path for _, path in disks], key), notes=[note])


def export_spec(
    machines: Machines, spec: MachineSpec, format_: Format, platform: Platform | None = None
) -> Export:
    """Of a machine that could be made, on `platform` if given.

    For QEMU, parts that are missing are fetched or built first: the command names them. Raises `UsageError`
    where the machine has no name or cannot be exported, and the parts' own errors.
    """
    if not spec.name:
        raise UsageError("the machine has no name", hint="give it one: name in its specification")
    spec = _on(spec, platform)
    if format_ is Format.KUBEVIRT:
        return Export(build_virtual_machine(spec))
    if format_ is Format.QEMU:
        return _qemu(machines.command(machines.plan(spec)))
    disks = [(disk, _place(spec.name, number, disk)) for number, disk in _disks(spec)]
    return Export(_libvirt(spec, [path for _, path in disks], ""), notes=list(_notes(disks)))


def shell_lines(argv: Sequence[str]) -> str:
    """A command as a shell takes it, an option with its value a line."""
    lines = [shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines) + "\n"


def _qemu(argv: Sequence[str]) -> Export:
    return Export(shell_lines(argv), argv=argv)


def _on(spec: MachineSpec, platform: Platform | None) -> MachineSpec:
    return spec if platform is None else spec.on(platform)


def _libvirt(spec: MachineSpec, disks: Sequence[Path], authorized_key: str) -> str:
    own_image = spec.image is None and not spec.diskless
    if spec.kind is Kind.LEGACY and own_image and spec.direct_kernel is None:
        raise UsageError("tdx's own image has boot loaders for UEFI only", hint="name another image")
    placement = DomainPlacement(
        # Whoever exports a machine means another host, which may have what this one lacks.
        platform=spec.platform or Platform.HARDWARE,
        authorized_key=authorized_key,
        disks=disks,
        firmware=spec.firmware,
    )
    return build_domain_xml(fix_ports(spec, free_port), placement)


def _disks(spec: MachineSpec) -> list[tuple[int, Disk | None]]:
    """The disks by their numbers: 0 is that to boot from, None tdx's own image."""
    boot: list[tuple[int, Disk | None]] = [] if spec.diskless else [(0, spec.image)]
    return [*boot, *enumerate(spec.disks, 1)]


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
            make = ["qemu-img", "create", "-f", "qcow2", "-b", str(disk.path), "-F", format_, str(path)]
            yield f"make {path} first: {command_line(make)}"
