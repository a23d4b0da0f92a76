"""Hardware or emulated: which one a command runs on, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tdxstack.errors import UnavailableError
from tdxstack.host_access import Kvm

KVM_CAP_VM_TYPES = 235
KVM_X86_TDX_VM = 5
"""Bit in KVM_CAP_VM_TYPES (Linux Documentation/virt/kvm/api.rst and arch/x86/include/uapi/asm/kvm.h)."""


class Platform(enum.Enum):
    """What executes the TD: a TDX module on a TDX CPU, or the patched QEMU's TCG."""

    HARDWARE = "hardware"
    EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class PlatformChoice:
    """A platform and the sentence that says why it was chosen."""

    platform: Platform
    reason: str

    @property
    def emulated(self) -> bool:
        return self.platform is Platform.EMULATED


def choose_platform(host: Kvm, requested: Platform | None) -> PlatformChoice:
    """Take hardware where KVM offers TD virtual machines, else emulated; `requested` overrides.

    Raises `UnavailableError` when hardware is requested and absent.
    """
    if requested is Platform.EMULATED:
        return PlatformChoice(Platform.EMULATED, "requested")
    absent = why_no_tdx(host)
    if not absent:
        return PlatformChoice(Platform.HARDWARE, "KVM offers the TDX VM type")
    if requested is Platform.HARDWARE:
        raise UnavailableError(
            f"this machine cannot run TDs on hardware: {absent}",
            hint="use --platform emulated, or make the host ready (BIOS, kernel >= 6.16, kvm_intel.tdx=1)",
        )
    return PlatformChoice(Platform.EMULATED, absent)


def why_no_tdx(host: Kvm) -> str:
    """Why KVM offers no TDX virtual machines; empty where it does."""
    try:
        types = host.kvm_extension(KVM_CAP_VM_TYPES)
    except UnavailableError as error:
        return error.message
    if not types >> KVM_X86_TDX_VM & 1:
        return f"KVM does not offer the TDX VM type (KVM_CAP_VM_TYPES is {types:#x}, bit 5 is clear)"
    return ""
