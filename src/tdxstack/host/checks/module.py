"""The TDX module: loaded, new enough, initialised, and up to date."""

from __future__ import annotations

import re

from tdxstack.host import kernel_log
from tdxstack.host.check import ENABLING_GUIDE, KERNEL_GUIDE, Check, Circumstances, Finding, Purpose, optional
from tdxstack.host.kernel_log import ModuleVersion
from tdxstack.host.module import Releases
from tdxstack.host.tcb_bar import MODULES_LINK, bar_at, least_svn, oldest_above
from tdxstack.host_access import Host, HostError

SYSFS_VERSION = "/sys/devices/faux/tdx_host/version"
"""Kernels that can update the module at run time have it (Linux, ABI sysfs-devices-faux-tdx-host)."""

UPDATE = (
    "update the BIOS, or, with the SEAM Loader enabled, put a newer TDX module on the EFI system partition: "
    "tdx host module stage FILE"
)
LOG_COMMAND = "sudo dmesg | grep -i tdx"
FIRST_USABLE = ModuleVersion(1, 5)


class Loaded(Check):
    """Whether the BIOS has loaded a module."""

    id = "module.loaded"
    purpose = Purpose.LAUNCH
    looks_at = "the kernel's log: virt/tdx: module not loaded"
    expected = "the BIOS' SEAM loader has loaded a TDX module"
    why = (
        "The BIOS loads the TDX module from its own flash or from the EFI system partition before Linux "
        "starts."
    )
    fix = "BIOS: enable the SEAM Loader and update the BIOS; some versions come without a TDX module"
    link = ENABLING_GUIDE
    needs = (
        "bios.tdx",
        "bios.mcheck",
        "kernel.hibernation",
        "kernel.version",
        "kernel.cmdline",
        "kvm.parameter",
    )
    proved_by = ("kvm.vm_types", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        log = host.kernel_log()
        if kernel_log.not_loaded(log):
            return self.fail(
                "virt/tdx: module not loaded", "the BIOS enables TDX, but has loaded no TDX module"
            )
        if _version(host) or kernel_log.initialized(log):
            return self.ok("the module has answered")
        return self.unsure(f"{log.source} does not tell", LOG_COMMAND)


class Version(Check):
    """Whether the kernel can work with the module."""

    id = "module.version"
    purpose = Purpose.LAUNCH
    looks_at = f"{SYSFS_VERSION}; else the kernel's log"
    expected = "version 1.5.05 or newer: one that keeps RBP and answers TDH.SYS.RD"
    why = (
        "Linux needs calls that modules before 1.5 do not have (SEAMCALL 0x22 fails with "
        "0xc000050500000000), and refuses modules that clobber RBP."
    )
    fix = UPDATE
    link = MODULES_LINK
    needs = ("module.loaded",)
    proved_by = ("kvm.vm_types", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        version = _version(host)
        if any("upgrade TDX module" in line for line in kernel_log.failures_of(host)):
            return self.fail(
                str(version or "not told"), "the TDX module is too old: it clobbers the frame pointer (RBP)"
            )
        if version is None:
            return self.unsure("neither sysfs nor the log names the module's version", LOG_COMMAND)
        if version < FIRST_USABLE:
            return self.fail(str(version), f"the TDX module {version} is too old: Linux needs 1.5 or newer")
        return self.ok(str(version))


class Initialized(Check):
    """Whether the kernel has started the module."""

    id = "module.initialized"
    purpose = Purpose.LAUNCH
    looks_at = "the kernel's log: virt/tdx: module initialized"
    expected = "the module is initialised"
    why = (
        "Linux starts the module when kvm_intel is loaded with tdx=1, and gives it memory for its tables "
        "(PAMT)."
    )
    fix = (
        "go through the BIOS settings once more: TME, TME-MT, TDX, SEAM Loader, key split and SGX all have "
        "to be set; tdx explain tells what a status code means"
    )
    link = KERNEL_GUIDE
    needs = ("module.version",)
    proved_by = ("kvm.vm_types",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        log = host.kernel_log()
        if kernel_log.initialized(log):
            return self.ok(f"initialised ({log.source})")
        if failures := kernel_log.failures(log):
            return self.fail("; ".join(failures[:3]), _reason(failures))
        if not log.complete:
            return self.unsure(f"{log.source} has lost its beginning", "journalctl -k -b | grep -i tdx")
        if kernel_log.key_range(log) is None:
            return self.fail(
                "the log has no line virt/tdx: BIOS enabled",
                "the kernel has found no TDX: it is off in the BIOS, or not built into the kernel",
            )
        return self.fail(
            "BIOS enabled, but never initialised",
            "the BIOS gives TDX keys, but the module was never started: BIOS half configured, or kvm_intel "
            "not loaded with tdx=1",
        )


class Tcb(Check):
    """Whether verifiers call the module up to date."""

    id = "module.tcb"
    purpose = Purpose.ADVICE
    looks_at = "the module's version against a dated table of Intel's TCB recoveries"
    expected = "a security version that Intel's TCB info calls UpToDate"
    why = (
        "TDs start with an older module, but verifiers reject their quotes as OutOfDate. The table is part "
        "of tdxstack; tdx collateral fetch gets what Intel says today."
    )
    fix = UPDATE
    link = MODULES_LINK
    needs = ("module.version",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        version = _version(host)
        if version is None:
            return self.unsure("neither sysfs nor the log names the module's version", LOG_COMMAND)
        bar = bar_at(version.major, circumstances.now)
        if bar is None:
            return self.unsure(f"no bar is known for modules {version.major}.x", "tdx collateral show")
        releases = Releases.load()
        svn = least_svn(version, releases)
        since = f"{bar.since:%Y-%m-%d}"
        if svn is not None and svn >= bar.svn:
            return self.ok(f"{version} has SVN {svn} or newer; {bar.svn} is asked for since {since}")
        return self.warn(
            f"{version} has SVN {svn if svn is not None else 'below all published ones'}",
            f"since {since} quotes of this module are OutOfDate: SVN {bar.svn} is asked for, which "
            f"{oldest_above(bar, releases)} has ({bar.source})",
        )


def _version(host: Host) -> ModuleVersion | None:
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(\..*)?", optional(host, SYSFS_VERSION))
    if found:
        return ModuleVersion(int(found[1]), int(found[2]), int(found[3]))
    try:
        return kernel_log.module_version(host.kernel_log())
    except HostError:
        return None


def _reason(failures: list[str]) -> str:
    """The likely cause of what the kernel says."""
    told = "\n".join(failures)
    for words, reason in (
        ("too few private KeyIDs", "the key split leaves TDX too few keys"),
        (
            "no TDX private KeyIDs",
            "the kernel has no TDX keys: TDX is off in the BIOS, or hibernation is possible",
        ),
        ("not enabled by BIOS", "the BIOS has not initialised TDX: a setting is missing, often SGX"),
        ("disabled platform", "TDX is off in the BIOS"),
        ("TDMRs exhausted", "the memory map has more gaps than the TDX module can describe: update the BIOS"),
        ("Hibernation support", "hibernation is possible, so the kernel has left TDX off"),
        (
            "SEAMCALL",
            "the TDX module refuses a call of the kernel: it is too old, or the BIOS half configured",
        ),
        ("required for TDX", "KVM lacks something that TDX needs"),
    ):
        if words in told:
            return reason
    return "the kernel could not start the TDX module"
