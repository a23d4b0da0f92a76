"""What a libvirt says of TDX, and how far it can be believed."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.machine.libvirt_calls import element
from tdxstack.qemu.capabilities import LIBVIRT_TDX_EVERYWHERE


@dataclass(frozen=True, slots=True)
class TdxSupport:
    """What a libvirt says of TDX on its host."""

    supported: bool | None
    """None where it says yes and is of a version that says so everywhere."""
    reason: str


def tdx_support(domain_capabilities: str, version: tuple[int, int]) -> TdxSupport:
    """What domain capabilities (libvirt.org/formatdomaincaps.html) of that libvirt say of TDX."""
    features = element(domain_capabilities).find("features")
    says = features.find("tdx") if features is not None else None
    types = features.iterfind("launchSecurity/enum[@name='sectype']/value") if features is not None else ()
    release = ".".join(str(number) for number in version)
    if says is None:
        return TdxSupport(False, f"libvirt {release} knows no TDX: it came with 11.6")
    if says.get("supported") != "yes" or "tdx" not in [value.text for value in types]:
        return TdxSupport(False, f"libvirt {release} says that its host or QEMU has no TDX")
    if LIBVIRT_TDX_EVERYWHERE.holds(version):
        return TdxSupport(None, f"libvirt {release} says that every host has TDX; 11.10 and newer look")
    return TdxSupport(True, f"libvirt {release} says that its host has TDX")
