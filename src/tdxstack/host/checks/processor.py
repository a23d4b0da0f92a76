"""The CPU and what kind of machine it sits in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdxstack.host.check import ENABLING_GUIDE, Check, Circumstances, Finding, Purpose, optional
from tdxstack.host_access import AbsentError, Host

CPUINFO = "/proc/cpuinfo"
CPUINFO_BYTES = 1 << 16
"""The first CPU's part has some KiB; machines have hundreds of CPUs."""

INTEL = "GenuineIntel"
OTHER_VENDORS = {"AuthenticAMD": "AMD", "HygonGenuine": "Hygon", "CentaurHauls": "Zhaoxin"}

TDX_MODELS = {
    143: "4th generation Xeon Scalable (Sapphire Rapids); only some SKUs have TDX",
    173: "Xeon 6 with P-cores (Granite Rapids)",
    174: "Xeon 6 SoC (Granite Rapids-D)",
    175: "Xeon 6 with E-cores (Sierra Forest)",
    207: "5th generation Xeon Scalable (Emerald Rapids)",
}
"""Models of family 6 that a published TDX module names in its SIGSTRUCT (intel tdx-module.binaries): 806F8,
A06D0, A06E0, A06F0, C06F0."""

OLDER_MODELS = {
    85: "1st to 3rd generation Xeon Scalable (Skylake, Cascade Lake, Cooper Lake)",
    106: "3rd generation Xeon Scalable (Ice Lake); it has SGX, but no TDX",
    108: "Xeon D (Ice Lake-D); it has SGX, but no TDX",
}


@dataclass(frozen=True, slots=True)
class Processor:
    """The first CPU of /proc/cpuinfo."""

    vendor: str
    family: int
    model: int
    stepping: int
    name: str
    flags: frozenset[str]
    bugs: frozenset[str]

    @classmethod
    def parse(cls, cpuinfo: str) -> Processor:
        """Read the first block; what is missing there is 0 or empty."""
        block = cpuinfo.split("\n\n", 1)[0]
        fields = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in block.splitlines())
        }
        return cls(
            vendor=fields.get("vendor_id", ""),
            family=_number(fields.get("cpu family", "")),
            model=_number(fields.get("model", "")),
            stepping=_number(fields.get("stepping", "")),
            name=re.sub(r"\s+", " ", fields.get("model name", "")),
            flags=frozenset(fields.get("flags", "").split()),
            bugs=frozenset(fields.get("bugs", "").split()),
        )

    @classmethod
    def of(cls, host: Host) -> Processor:
        """The first CPU of `host`."""
        return cls.parse(host.read(CPUINFO, limit=CPUINFO_BYTES).decode(errors="replace"))

    @property
    def why_no_tdx(self) -> str:
        """Why this CPU cannot run TDs; empty where that is not known of it."""
        if not self.vendor:
            return f"{CPUINFO} names no vendor"
        if self.vendor != INTEL:
            return f"{OTHER_VENDORS.get(self.vendor, self.vendor)} CPUs do not have it"
        if (self.family == 6 and self.model in TDX_MODELS) or {"tdx_host_platform", "tdx_guest"} & self.flags:
            return ""
        if self.family == 6 and self.model in OLDER_MODELS:
            return OLDER_MODELS[self.model]
        return "" if "tme" in self.flags else "it does not even encrypt memory (TME)"

    def __str__(self) -> str:
        return (
            f"{self.name or self.vendor} (family {self.family}, model {self.model}, stepping {self.stepping})"
        )


def _number(digits: str) -> int:
    return int(digits) if digits.isdecimal() and len(digits) < 10 else 0


class Model(Check):
    """Which CPU it is: does its line have TDX at all?"""

    id = "cpu.model"
    purpose = Purpose.LAUNCH
    looks_at = "vendor, family, model and flags in /proc/cpuinfo"
    expected = "an Intel Xeon of a line that has TDX"
    why = (
        "TDX came with 5th generation Xeon Scalable; of the 4th generation only some SKUs have it. No BIOS "
        "setting adds it to another CPU."
    )
    fix = "use a machine with a 5th generation Xeon Scalable, a Xeon 6 or a TDX SKU of the 4th generation"
    link = ENABLING_GUIDE
    gate = True

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        cpu = Processor.of(host)
        found = str(cpu)
        if not cpu.vendor:
            return self.unsure(f"{CPUINFO} names no vendor", "lscpu")
        if cpu.why_no_tdx:
            return self.fail(found, f"this machine lacks a CPU with TDX: {cpu.why_no_tdx}")
        if cpu.family == 6 and cpu.model in TDX_MODELS:
            return self.ok(f"{found}: {TDX_MODELS[cpu.model]}")
        if {"tdx_host_platform", "tdx_guest"} & cpu.flags:
            return self.ok(found)
        return self.warn(found, "this CPU model is in no published TDX module's list of supported CPUs")


class Kind(Check):
    """Bare metal, an ordinary virtual machine, or a TD."""

    id = "machine.kind"
    purpose = Purpose.LAUNCH
    looks_at = "the flags hypervisor and tdx_guest in /proc/cpuinfo, /sys/class/dmi/id/sys_vendor"
    expected = "bare metal"
    why = (
        "The TDX module serves the kernel that owns the CPU. A virtual machine cannot start TDs: nested TDX "
        "(TD partitioning) is not upstream."
    )
    fix = "run tdx doctor on the machine itself, not in a virtual machine"
    link = "https://github.com/intel/td-partitioning"
    needs = ("cpu.model",)
    gate = True

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        flags = Processor.of(host).flags
        if "tdx_guest" in flags:
            return self.fail(
                "a TD",
                "this is a TD, not a host of TDs",
                "check the TD's own interfaces: tdx guest check",
            )
        if "hypervisor" in flags:
            maker = optional(host, "/sys/class/dmi/id/sys_vendor")
            return self.fail(
                f"a virtual machine{f' ({maker})' if maker else ''}",
                "this is a virtual machine, and its hypervisor offers no nested TDX",
            )
        return self.ok("bare metal")


class Seamrr(Check):
    """Whether this SKU has SEAM at all: what BIOS settings cannot change."""

    id = "cpu.seam"
    purpose = Purpose.LAUNCH
    looks_at = "MSR 0xfe (MTRRCAP) bit 15"
    expected = "SEAMRR is supported"
    why = (
        "SEAM range registers hold the TDX module. A CPU without them cannot run TDs: here the CPU lacks "
        "TDX, in the other checks the BIOS does."
    )
    fix = "use a CPU of a TDX SKU"
    link = ENABLING_GUIDE
    needs = ("machine.kind",)
    proved_by = ("kvm.vm_types", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        capability = host.msr(0xFE)
        if capability >> 15 & 1:
            return self.ok(f"MTRRCAP is {capability:#x}")
        return self.fail(
            f"MTRRCAP is {capability:#x}, bit 15 is clear",
            "this CPU has no SEAM: its SKU lacks TDX, whatever the BIOS says",
        )


class Production(Check):
    """Whether Intel's production services know this CPU."""

    id = "cpu.production"
    purpose = Purpose.ATTEST
    looks_at = "MSR 0xce (PLATFORM_INFO) bit 27, MSR 0x503 (SGX_DEBUGMODE)"
    expected = "a production CPU"
    why = (
        "Pre-production CPUs have keys that only Intel's sandbox service (SBX) knows: quotes of such a "
        "platform do not verify under Intel's production root."
    )
    fix = (
        "use a production CPU; for tests set the BIOS' registration server and PCCS to "
        "https://sbx.api.trustedservices.intel.com"
    )
    link = "https://github.com/intel/confidential-computing.tee.dcap/issues/207"
    needs = ("machine.kind",)
    proved_by = ("registration.state",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        info = host.msr(0xCE)
        try:
            found = f"PLATFORM_INFO is {info:#x}, SGX_DEBUGMODE is {host.msr(0x503):#x}"
        except AbsentError:
            found = f"PLATFORM_INFO is {info:#x}"
        if info >> 27 & 1:
            return self.fail(
                found, "this is a pre-production CPU: only Intel's sandbox service knows its keys"
            )
        return self.ok(found)


class Erratum(Check):
    """What kexec and kdump cannot do on early TDX CPUs."""

    id = "cpu.partial_write"
    purpose = Purpose.ADVICE
    looks_at = "bugs in /proc/cpuinfo (tdx_pw_mce)"
    expected = "no erratum of partial writes"
    why = (
        "On Sapphire and Emerald Rapids a partial write to private memory poisons it. Linux refuses kexec "
        "and kdump there while TDX is enabled."
    )
    fix = "do without kexec and kdump on this host: remove crashkernel= from the kernel command line"
    link = "https://docs.kernel.org/arch/x86/tdx.html#erratum"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        if "tdx_pw_mce" not in Processor.of(host).bugs:
            return self.ok("none")
        if "crashkernel=" in optional(host, "/proc/cmdline"):
            return self.warn(
                "tdx_pw_mce, and memory is reserved for kdump",
                "kexec and kdump do not work on this CPU while TDX is enabled: the memory is reserved "
                "for nothing",
            )
        return self.ok("tdx_pw_mce: no kexec, no kdump while TDX is enabled")
