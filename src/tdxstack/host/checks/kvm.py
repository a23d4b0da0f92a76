"""KVM: loaded, asked for TDX, and offering it."""

from __future__ import annotations

import re

from tdxstack.host import kernel_log
from tdxstack.host.check import KVM_GUIDE, Check, Circumstances, Finding, Purpose, exists, optional
from tdxstack.host_access import AbsentError, ForbiddenError, Host, HostError
from tdxstack.platform import KVM_CAP_VM_TYPES, KVM_X86_TDX_VM

PARAMETER = "/sys/module/kvm_intel/parameters/tdx"
ON = ("Y", "y", "1", "on", "true")
RELOAD = "echo 'options kvm_intel tdx=1' | sudo tee /etc/modprobe.d/kvm-tdx.conf; sudo reboot"


class Device(Check):
    """/dev/kvm."""

    id = "kvm.device"
    purpose = Purpose.LAUNCH
    looks_at = "/dev/kvm, /sys/module/kvm_intel"
    expected = "/dev/kvm can be opened"
    why = "QEMU starts virtual machines and TDs through KVM."
    fix = "enable VT-x in the BIOS, then: sudo modprobe kvm_intel"
    link = KVM_GUIDE
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            host.kvm_extension(KVM_CAP_VM_TYPES)
        except ForbiddenError as error:
            return self.fail(
                error.message,
                "this user may not use KVM",
                "sudo usermod -aG kvm $USER, then log in again; in a container pass the device: "
                "--device /dev/kvm",
            )
        except AbsentError as error:
            loaded = exists(host, "/sys/module/kvm_intel")
            return self.fail(
                error.message,
                "the device is missing although kvm_intel is loaded: is this a container?"
                if loaded
                else "KVM is not loaded: VT-x is off in the BIOS, or kvm_intel is missing",
                "pass the device into the container: --device /dev/kvm" if loaded else "",
            )
        return self.ok("/dev/kvm answers")


class Parameter(Check):
    """Whether TDX is asked for."""

    id = "kvm.parameter"
    purpose = Purpose.LAUNCH
    looks_at = f"{PARAMETER}, /proc/cmdline, /etc/modprobe.d"
    expected = "kvm_intel.tdx is on"
    why = "Upstream's kvm_intel leaves TDX off unless it is asked for when the module is loaded."
    fix = RELOAD
    link = KVM_GUIDE
    needs = ("kvm.device", "kernel.config")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            value = host.read(PARAMETER).decode(errors="replace").strip()
        except AbsentError:
            if not exists(host, "/sys/module/kvm_intel"):
                host.status("/sys/module")  # without it nothing shows what is loaded
                return self.fail(
                    "kvm_intel is not loaded", "kvm_intel is not loaded", "sudo modprobe kvm_intel tdx=1"
                )
            return self.fail(
                "kvm_intel has no parameter tdx",
                "this kernel's kvm_intel does not know TDX",
                "install Linux 6.16 or newer, built with CONFIG_KVM_INTEL_TDX=y",
            )
        if value in ON:
            return self.ok(f"tdx={value}")
        if asked := _asked_for(host):
            return self.ok(f"asked for ({asked}), tdx={value}: kvm_intel has given it up")
        return self.fail(f"tdx={value}", "TDX is not asked for: kvm_intel is loaded without tdx=1")


class Requirements(Check):
    """Other parameters of KVM that TDX depends on."""

    id = "kvm.requirements"
    purpose = Purpose.LAUNCH
    looks_at = (
        "/sys/module/kvm_intel/parameters/{ept,eptad}, /sys/module/kvm/parameters/{tdp_mmu,mmio_caching}"
    )
    expected = "ept, eptad, tdp_mmu, mmio_caching and enable_virt_at_load are on"
    why = "KVM gives TDX up where one of them is off (Linux arch/x86/kvm/vmx/tdx.c, tdx_bringup)."
    fix = "remove the parameter from the kernel's command line and from /etc/modprobe.d, and reboot"
    link = KVM_GUIDE
    needs = ("kvm.device",)
    proved_by = ("kvm.vm_types",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        values = {
            name: optional(host, f"/sys/module/{module}/parameters/{name}")
            for module, name in (
                ("kvm_intel", "ept"),
                ("kvm_intel", "eptad"),
                ("kvm", "tdp_mmu"),
                ("kvm", "mmio_caching"),
                ("kvm", "enable_virt_at_load"),
            )
        }
        off = [name for name, value in values.items() if value and value not in ON]
        if off:
            return self.fail(
                f"off: {', '.join(off)}", f"KVM is loaded without {', '.join(off)}, which TDX needs"
            )
        seen = [name for name, value in values.items() if value]
        if not seen:
            return self.unsure("KVM shows no parameters", "grep . /sys/module/kvm*/parameters/*")
        return self.ok(f"on: {', '.join(seen)}")


class VmTypes(Check):
    """Whether KVM offers TDs: the sum of all above."""

    id = "kvm.vm_types"
    purpose = Purpose.LAUNCH
    looks_at = "KVM_CHECK_EXTENSION(KVM_CAP_VM_TYPES) bit 5"
    expected = "KVM offers the TDX VM type"
    why = "This is what QEMU asks before it says: vm-type TDX not supported by KVM."
    fix = "see the kernel's log: sudo dmesg | grep -i tdx; tdx explain reads it"
    link = KVM_GUIDE
    needs = ("kvm.parameter", "kvm.requirements", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        types = host.kvm_extension(KVM_CAP_VM_TYPES)
        if types >> KVM_X86_TDX_VM & 1:
            return self.ok(f"{types:#x}")
        return self.fail(f"{types:#x}, bit 5 is clear", "KVM does not offer the TDX VM type")


class Capacity(Check):
    """How many TDs can run."""

    id = "kvm.capacity"
    purpose = Purpose.ADVICE
    looks_at = "/sys/fs/cgroup/misc.capacity and misc.current, line tdx"
    expected = "keys are left for more TDs"
    why = (
        "The kernel counts the keys of TDs in the misc controller of cgroups; Kubernetes takes its capacity "
        "from it."
    )
    fix = "raise the TME-MT/TDX key split in the BIOS, or stop TDs"
    link = "https://docs.kernel.org/admin-guide/cgroup-v2.html#misc"
    needs = ("kvm.vm_types",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        capacity = _tdx_line(host.read("/sys/fs/cgroup/misc.capacity").decode(errors="replace"))
        if capacity is None:
            return self.warn("misc.capacity has no line tdx", "the kernel counts no keys for TDs")
        used = _tdx_line(optional(host, "/sys/fs/cgroup/misc.current")) or 0
        found = f"{used} of {capacity} in use"
        if used >= capacity:
            return self.warn(found, "no key is left for another TD")
        return self.ok(found)


def _asked_for(host: Host) -> str:
    """Where TDX has been asked for; empty where nowhere."""
    for word in optional(host, "/proc/cmdline").split():
        name, _, value = word.replace("-", "_").partition("=")
        if name == "kvm_intel.tdx" and value in ON:
            return word
    try:
        names = [name for name in host.entries("/etc/modprobe.d") if name.endswith(".conf")]
    except HostError:
        names = []
    for name in names:
        content = optional(host, f"/etc/modprobe.d/{name}")
        if re.search(r"^[ \t]*options[ \t]+kvm[-_]intel\b.*\btdx=(?:1|[Yy]|on)\b", content, re.MULTILINE):
            return f"/etc/modprobe.d/{name}"
    try:
        return "the kernel's log shows an attempt" if kernel_log.attempted(host.kernel_log()) else ""
    except HostError:
        return ""


def _tdx_line(content: str) -> int | None:
    found = re.search(r"^tdx (\d{1,9}|max)$", content, re.MULTILINE)
    if found is None:
        return None
    return int(found[1]) if found[1] != "max" else 1 << 30
