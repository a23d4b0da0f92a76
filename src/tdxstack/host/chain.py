"""The checks of `tdx doctor`, causes before their consequences."""

from __future__ import annotations

from typing import Final

from tdxstack.errors import UsageError
from tdxstack.host.check import Check
from tdxstack.host.checks import (
    bios,
    emulated,
    guest,
    kernel,
    kvm,
    module,
    pccs,
    processor,
    qgs,
    registration,
    tuning,
    vmm,
)

CHAIN: Final[tuple[Check, ...]] = (
    processor.Model(),
    processor.Kind(),
    processor.Seamrr(),
    bios.Tme(),
    bios.TmeMt(),
    bios.Integrity(),
    bios.KeySplit(),
    bios.Seamrr(),
    bios.Sgx(),
    bios.Mcheck(),
    kernel.Config(),
    kernel.Version(),
    kernel.CommandLine(),
    kernel.Hibernation(),
    kernel.Hotplug(),
    processor.Erratum(),
    kvm.Device(),
    kvm.Requirements(),
    kvm.Parameter(),
    module.Loaded(),
    module.Version(),
    module.Initialized(),
    module.Tcb(),
    kvm.VmTypes(),
    kvm.Capacity(),
    vmm.Qemu(),
    vmm.QemuTdx(),
    vmm.Firmware(),
    vmm.Libvirt(),
    vmm.DomainCapabilities(),
    processor.Production(),
    qgs.SgxDevices(),
    qgs.SgxPermissions(),
    qgs.Service(),
    qgs.Socket(),
    qgs.Answer(),
    pccs.Config(),
    pccs.Answer(),
    pccs.Certificate(),
    pccs.ApiKey(),
    pccs.CacheAge(),
    registration.State(),
    registration.Pck(),
    tuning.HugePages(),
    tuning.Vhost(),
    tuning.Numa(),
    guest.TdReport(),
    guest.Quote(),
    guest.EventLog(),
    guest.Registers(),
    emulated.Emulator(),
)


def check_named(name: str) -> Check:
    """The check with this id. Raises `UsageError`, which names near ones."""
    for check in CHAIN:
        if check.id == name:
            return check
    near = [check.id for check in CHAIN if name.split(".")[0] in check.id or name.split(".")[-1] in check.id]
    names = near or sorted({check.id.split(".")[0] + ".*" for check in CHAIN})
    raise UsageError(f"there is no check {name!r}", hint=f"there are: {', '.join(names)}")
