"""Machines on a libvirt, from a specification to their removal, with the overlays that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tdxstack.errors import TdxError, UnavailableError, UsageError
from tdxstack.interrupts import to_the_end
from tdxstack.machine.allocation import free_port
from tdxstack.machine.libvirt import Libvirt, Mode
from tdxstack.machine.libvirt_calls import element
from tdxstack.machine.libvirt_xml import DomainPlacement, build_domain_xml, fix_ports, overlays_of
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Disk, DiskFormat
from tdxstack.platform import Platform


def domain_xml(spec: MachineSpec, authorized_key: str) -> str:
    """What `create` defines: every overlay lies beside its base. Raises `UsageError` for what cannot be.

    Ports that are left to choice are chosen as they are free on this host.
    """
    if not spec.name:
        raise UsageError("the machine has no name", hint="give it one: name in its specification")
    if spec.image is None and not spec.diskless:
        raise UsageError(
            f"machine {spec.name!r} names no image",
            hint="put one into a storage pool of libvirt's host, and name it: image",
        )
    placement = DomainPlacement(
        platform=spec.platform or Platform.HARDWARE,
        authorized_key=authorized_key,
        disks=[_written(spec, number, disk) for number, disk in _disks(spec)],
        overlays=[_written(spec, number, disk) for number, disk in _disks(spec) if disk.has_overlay],
        firmware=spec.firmware,
    )
    return build_domain_xml(fix_ports(spec, free_port), placement)


async def create(libvirt: Libvirt, spec: MachineSpec, authorized_key: str) -> None:
    """Define a machine and make its overlays, all of it or nothing. Raises as `domain_xml` and libvirt do."""
    xml = domain_xml(spec, authorized_key)
    await libvirt.refuse_taken.aio(spec.name)
    made: list[Path] = []
    try:
        for number, disk in _disks(spec):
            if disk.has_overlay:
                format_ = (disk.known_format or DiskFormat.RAW).value
                name = _overlay(spec.name, number)
                made.append(await libvirt.make_overlay.aio(disk.path, format_, name))
        await libvirt.define.aio(xml)
    except BaseException:
        await to_the_end(_remove_overlays(libvirt, made))
        raise


async def remove(libvirt: Libvirt, name: str, *, force: bool = False) -> None:
    """Forget a machine that has ended, and delete its overlays; `force` ends it first.

    Raises `UnavailableError` where it runs, or where an overlay cannot be deleted; the machine is gone then.
    """
    overlays = overlays_of(element(await libvirt.xml.aio(name)))
    if force:
        await libvirt.shutdown.aio(name, Mode.FORCE)
    await libvirt.undefine.aio(name)
    if left := await _remove_overlays(libvirt, overlays):
        raise UnavailableError(
            f"machine {name!r} is removed, and not all its overlays: {'; '.join(left)}",
            hint="virsh vol-delete does it, once nothing is in the way",
        )


async def _remove_overlays(libvirt: Libvirt, paths: Sequence[Path]) -> list[str]:
    """Delete volumes, and return why one could not be."""
    left = []
    for path in paths:
        try:
            await libvirt.remove_overlay.aio(path)
        except TdxError as error:
            left.append(error.message)
    return left


def _disks(spec: MachineSpec) -> list[tuple[int, Disk]]:
    boot = [] if spec.image is None else [spec.image]
    return list(enumerate([*boot, *spec.disks]))


def _written(spec: MachineSpec, number: int, disk: Disk) -> Path:
    return disk.path.with_name(_overlay(spec.name, number)) if disk.has_overlay else disk.path


def _overlay(name: str, number: int) -> str:
    return f"{name}-disk{number}.qcow2"
