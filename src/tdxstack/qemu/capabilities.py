"""What versions of QEMU, libvirt and Linux can do with TDs: one table of facts, each with its source.

Where the thing itself can be asked, it is (`how` says by what); a version decides only where nothing else
does. docs/reference/capabilities.md is made from the table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

Version = tuple[int, ...]


class Component(enum.Enum):
    """What a fact is about."""

    QEMU = "QEMU"
    LIBVIRT = "libvirt"
    LINUX_HOST = "Linux on the host"
    LINUX_GUEST = "Linux in a TD"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is so in the versions from `since` on, and before `before` where that is given."""

    component: Component
    what: str
    since: Version
    how: str
    """How it is found out here; "version" where only the version says."""
    source: str
    before: Version | None = None

    def holds(self, version: Version) -> bool:
        """Whether it is so in `version`."""
        return self.since <= version and (self.before is None or version < self.before)

    @property
    def versions(self) -> str:
        """The versions in words."""
        since = ".".join(str(number) for number in self.since)
        if self.before is None:
            return f"{since} and newer"
        return f"{since} to before {'.'.join(str(number) for number in self.before)}"


CONFIDENTIAL_GUEST_RESET: Final = "confidential-guest-reset"

TDX_GUEST: Final = Fact(
    Component.QEMU,
    "starts TDs on KVM (object `tdx-guest`)",
    (10, 1),
    "QMP `qom-list-types`",
    "qapi/qom.json; release notes of 10.1",
)
TD_ENDS_AT_RESET: Final = Fact(
    Component.QEMU,
    "ends a TD on KVM that is reset or reboots, so that it is started with `-no-reboot`",
    (10, 1),
    f"QMP `query-qmp-schema`: `tdx-guest` is without the feature `{CONFIDENTIAL_GUEST_RESET}`",
    "release notes of 11.0; qapi/qom.json",
    before=(11, 0),
)
REFUSES_DEBUG: Final = Fact(
    Component.QEMU,
    "refuses the attribute DEBUG of a TD on KVM: it lets SEPT_VE_DISABLE, PKS and PERFMON be set",
    (10, 1),
    "version: QEMU lists no attributes that it supports",
    "target/i386/kvm/tdx.c, `TDX_SUPPORTED_TD_ATTRS`",
)
NO_MIGRATION: Final = Fact(
    Component.QEMU,
    "can neither migrate a TD nor save it",
    (10, 1),
    "version",
    "docs/system/i386/tdx.rst",
)
PANIC_INFORMATION: Final = Fact(
    Component.QEMU,
    "says in `GUEST_PANICKED` what fatal error a TD has reported (`info` of type `tdx`)",
    (10, 1),
    "the event itself",
    "qapi/run-state.json",
)
LIBVIRT_TDX: Final = Fact(
    Component.LIBVIRT,
    "has domains with `<launchSecurity type='tdx'>`",
    (11, 6),
    "the element `tdx` of `virsh domcapabilities`",
    "docs/formatdomain.rst; NEWS.rst",
)
LIBVIRT_TDX_EVERYWHERE: Final = Fact(
    Component.LIBVIRT,
    "says that every host has TDX",
    (11, 6),
    "version",
    "NEWS.rst, 11.10.0",
    before=(11, 10),
)
LIBVIRT_FIRMWARE: Final = Fact(
    Component.LIBVIRT,
    "chooses a firmware for TDs by its descriptor",
    (11, 8),
    "version",
    "NEWS.rst, 11.8.0",
)
LIBVIRT_FIRMWARE_FEATURES: Final = Fact(
    Component.LIBVIRT,
    "lists features of firmware in its domain capabilities",
    (12, 1),
    "the element `firmwareFeatures` of `virsh domcapabilities`",
    "NEWS.rst, 12.1.0",
)
KVM_TDX: Final = Fact(
    Component.LINUX_HOST,
    "can run TDs, if built with CONFIG_KVM_INTEL_TDX and loaded with kvm_intel.tdx=1",
    (6, 16),
    "ioctl KVM_CHECK_EXTENSION(KVM_CAP_VM_TYPES), bit 5",
    "Documentation/virt/kvm/x86/intel-tdx.rst; arch/x86/kvm/vmx/tdx.c",
)
KVM_SMALL_PAGES: Final = Fact(
    Component.LINUX_HOST,
    "gives TDs private memory in pages of 4 KiB only",
    (6, 16),
    "version: nothing newer is known to be otherwise",
    "arch/x86/kvm/vmx/tdx.c",
)
KVM_ATTRIBUTES: Final = Fact(
    Component.LINUX_HOST,
    "lets no attribute of a TD be set but SEPT_VE_DISABLE",
    (6, 16),
    "KVM_TDX_CAPABILITIES, which QEMU asks when it starts a TD",
    "arch/x86/kvm/vmx/tdx.c, `KVM_SUPPORTED_TD_ATTRS`",
)
GUEST_MEASUREMENTS: Final = Fact(
    Component.LINUX_GUEST,
    "reads and extends RTMRs below /sys/devices/virtual/misc/tdx_guest/measurements",
    (6, 16),
    "the files",
    "Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest",
)

FACTS: Final = (
    *(TDX_GUEST, TD_ENDS_AT_RESET, REFUSES_DEBUG, NO_MIGRATION, PANIC_INFORMATION),
    *(LIBVIRT_TDX, LIBVIRT_TDX_EVERYWHERE, LIBVIRT_FIRMWARE, LIBVIRT_FIRMWARE_FEATURES),
    *(KVM_TDX, KVM_SMALL_PAGES, KVM_ATTRIBUTES, GUEST_MEASUREMENTS),
)
