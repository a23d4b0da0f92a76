"""What a specified machine needs of QEMU, and what the QEMU that is to run it lacks."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.errors import UnavailableError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Console, Emulation, Kind
from tdxstack.platform import Platform
from tdxstack.qemu.abilities import Abilities


def check_qemu(spec: MachineSpec, platform: Platform, qemu: Abilities) -> None:
    """Raise `UnavailableError` that names everything that `spec` needs on `platform` and `qemu` lacks."""
    lacking = [
        f"{field}: no {type_}" for field, type_ in needed_types(spec, platform) if type_ not in qemu.types
    ]
    lacking += [
        f"{field}: {td} has no {name}" for field, td, name in _lacking_properties(spec, platform, qemu)
    ]
    if lacking:
        raise UnavailableError(
            f"QEMU {qemu.version} cannot run this machine: {'; '.join(lacking)}",
            hint="install another QEMU, or leave out what it lacks",
        )


def needed_types(spec: MachineSpec, platform: Platform) -> Iterator[tuple[str, str]]:
    """(field, QEMU's name of the type) of what the machine is made of, where not every QEMU has it."""
    hardware = platform is Platform.HARDWARE
    yield "platform", "kvm-accel" if hardware else "tcg-accel"
    if spec.kind is Kind.TD:
        yield "kind", "tdx-guest" if hardware else "tdx-tcg-guest"
    if spec.machine_type[-1].isdigit() and "." in spec.machine_type:
        yield "machine_type", f"{spec.machine_type}-machine"
    if spec.vsock is not None:
        yield "vsock", "vhost-vsock-pci"
    if spec.tpm:
        yield "tpm", "tpm-tis" if spec.kind is Kind.LEGACY else "tpm-crb"
        yield "tpm", "tpm-emulator"
    if spec.sgx:
        yield "sgx", "memory-backend-epc"
    if spec.huge_pages is not None:
        yield "huge_pages", "memory-backend-memfd"
    if spec.vfio:
        yield "vfio", "vfio-pci"
    if spec.console is Console.VIRTIO:
        yield "console", "virtconsole"
    if spec.guest_agent:
        yield "guest_agent", "virtserialport"
    if spec.cpu.model not in (None, "host", "max"):
        yield "cpu.model", f"{spec.cpu.model}-x86_64-cpu"


def _lacking_properties(
    spec: MachineSpec, platform: Platform, qemu: Abilities
) -> Iterator[tuple[str, str, str]]:
    """(field, object, property) of what cannot be said of the TD."""
    name = "tdx-guest" if platform is Platform.HARDWARE else "tdx-tcg-guest"
    td = qemu.td_objects.get(name)
    if spec.kind is not Kind.TD or td is None:
        return
    wanted = {
        "mrconfigid": any(spec.td.mrconfigid),
        "mrowner": any(spec.td.mrowner),
        "mrownerconfig": any(spec.td.mrownerconfig),
        "quote-generation-socket": spec.td.quote_service is not None,
        "ve": spec.emulation.ve,
        "sept": spec.emulation.sept is not Emulation().sept,
    }
    for property_, is_wanted in wanted.items():
        if is_wanted and property_ not in td.properties:
            yield ("emulation" if property_ in ("ve", "sept") else "td"), name, property_
