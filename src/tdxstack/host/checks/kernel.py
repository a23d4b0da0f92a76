"""The kernel: whether it can host TDs, and what keeps it from doing so."""

from __future__ import annotations

import gzip
import io
import re
import zlib

from tdxstack.host import kernel_log
from tdxstack.host.check import (
    KERNEL_GUIDE,
    KVM_GUIDE,
    Check,
    Circumstances,
    Finding,
    Purpose,
    exists,
    optional,
    text,
)
from tdxstack.host_access import MAX_LOG, AbsentError, Host, HostError, UnansweredError
from tdxstack.qemu.capabilities import KVM_TDX

FIRST_RELEASE = KVM_TDX.since
"""KVM hosts TDs since Linux 6.16; older kernels of distributions may have it patched in."""

HOST_OPTIONS = ("CONFIG_INTEL_TDX_HOST", "CONFIG_KVM_INTEL_TDX")
"""Older trees know only the first."""

SGX_OPTION = "CONFIG_X86_SGX"

UPDATE_GRUB = (
    "then sudo update-grub (Debian, Ubuntu) or sudo grub2-mkconfig -o /boot/grub2/grub.cfg, and reboot"
)


class Config(Check):
    """Whether the kernel was built to host TDs."""

    id = "kernel.config"
    purpose = Purpose.LAUNCH
    looks_at = "/proc/config.gz, /boot/config-RELEASE, /lib/modules/RELEASE/config"
    expected = "CONFIG_INTEL_TDX_HOST=y, CONFIG_KVM_INTEL_TDX=y where the kernel knows it"
    why = (
        "Linux hosts TDs since 6.16, if it is built so. Ubuntu's and Fedora's kernels are, Debian's (up to "
        "7.3) are not."
    )
    fix = (
        "install a kernel with CONFIG_INTEL_TDX_HOST=y: Ubuntu 26.04's own, Fedora's, or one of your own "
        "build (6.16 or newer)"
    )
    link = KVM_GUIDE
    needs = ("machine.kind",)
    proved_by = ("kvm.vm_types", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        release = host.kernel_release()
        options = config(host, release)
        wanted = {name: options.get(name, "not set") for name in HOST_OPTIONS}
        found = f"Linux {release}: " + ", ".join(f"{name}={value}" for name, value in wanted.items())
        if wanted["CONFIG_INTEL_TDX_HOST"] != "y":
            return self.fail(found, f"the kernel {release} is built without support for TDX hosts")
        if number(release) >= FIRST_RELEASE and wanted["CONFIG_KVM_INTEL_TDX"] != "y":
            return self.fail(
                found, f"KVM of the kernel {release} is built without TDX (CONFIG_KVM_INTEL_TDX)"
            )
        if options.get(SGX_OPTION) != "y":
            return self.warn(
                f"{found}, {SGX_OPTION}={options.get(SGX_OPTION, 'not set')}",
                "the kernel is built without SGX: no quoting enclave can run on this host",
            )
        return self.ok(found)


class Version(Check):
    """Whether the kernel is new enough, where nothing else can tell."""

    id = "kernel.version"
    purpose = Purpose.LAUNCH
    looks_at = "uname -r"
    expected = "Linux 6.16 or newer, or a distribution's kernel with TDX patched in"
    why = (
        "The interface between QEMU 10.1 and KVM is upstream's; older patched kernels need the QEMU they "
        "came with."
    )
    fix = "install Linux 6.16 or newer, built with CONFIG_INTEL_TDX_HOST=y"
    link = KVM_GUIDE
    needs = ("kernel.config",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        release = host.kernel_release()
        if number(release) >= FIRST_RELEASE:
            return self.ok(release)
        if exists(host, "/sys/module/kvm_intel/parameters/tdx"):
            return self.warn(
                release,
                "this kernel has TDX patched in: upstream QEMU (10.1 and newer) does not speak its interface",
            )
        return self.fail(release, f"Linux {release} is older than 6.16, the first that hosts TDs")


class CommandLine(Check):
    """Parameters that switch TDX off."""

    id = "kernel.cmdline"
    purpose = Purpose.LAUNCH
    looks_at = "/proc/cmdline"
    expected = "nothing that switches TDX, SGX or KVM off"
    why = (
        "Some parameters of the kernel take away what TDX needs, often left behind by an earlier experiment."
    )
    fix = f"remove the parameter from GRUB_CMDLINE_LINUX in /etc/default/grub, {UPDATE_GRUB}"
    link = KERNEL_GUIDE
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        words = text(host, "/proc/cmdline").split()
        harmful = [word for word in words if _switches_off(word)]
        if harmful:
            return self.fail(" ".join(harmful), f"the kernel's command line says {' '.join(harmful)}")
        telling = [word for word in words if re.match(r"(nohibernate|kvm_intel\.|kvm\.|tdx)", word)]
        return self.ok(" ".join(telling) or "no parameter about TDX")


class Hibernation(Check):
    """Hibernation, which the kernel does not combine with TDX."""

    id = "kernel.hibernation"
    purpose = Purpose.LAUNCH
    looks_at = "the kernel's log, /sys/power/disk"
    expected = "hibernation is disabled"
    why = (
        "Hibernation would write private memory that nobody can read back. Where it is possible, the kernel "
        "does not enable TDX at all."
    )
    fix = f"add nohibernate to GRUB_CMDLINE_LINUX in /etc/default/grub, {UPDATE_GRUB}"
    link = KERNEL_GUIDE
    needs = ("kernel.config",)
    proved_by = ("kvm.vm_types", "module.initialized")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        refused = "Hibernation support is enabled"
        if any(refused in line for line in kernel_log.failures_of(host)):
            return self.fail(refused, "hibernation is possible, so the kernel has left TDX off")
        state = optional(host, "/sys/power/disk")
        if not state:
            host.status("/sys/power")  # without it nothing shows whether the file is missing or hidden
        if state in ("", "[disabled]"):
            return self.ok("disabled" if state else "this kernel cannot hibernate")
        if "nohibernate" in text(host, "/proc/cmdline").split():
            return self.ok("nohibernate")
        if number(host.kernel_release()) < FIRST_RELEASE:
            return self.ok("possible, which this kernel does not mind")
        return self.fail(state, "hibernation is possible: this kernel leaves TDX off then")


class Hotplug(Check):
    """Memory that came after boot."""

    id = "kernel.memory_hotplug"
    purpose = Purpose.ADVICE
    looks_at = "/sys/bus/dax/drivers/kmem, /sys/devices/system/memory/auto_online_blocks"
    expected = "no memory that is added after boot"
    why = (
        "When the TDX module starts, it is told which memory there is. Linux refuses to bring memory online "
        "later, such as persistent or CXL memory in system-RAM mode."
    )
    fix = "bring the memory online before kvm_intel is loaded, or leave it as a DAX device"
    link = "https://docs.kernel.org/arch/x86/tdx.html#physical-memory-hotplug"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            devices = [name for name in host.entries("/sys/bus/dax/drivers/kmem") if name.startswith("dax")]
        except AbsentError:
            devices = []
        if devices:
            return self.warn(
                ", ".join(devices),
                "memory devices are added after boot: the kernel refuses them once TDX runs",
            )
        online = optional(host, "/sys/devices/system/memory/auto_online_blocks")
        return self.ok(f"none; new memory would be {online}" if online else "none")


def config(host: Host, release: str) -> dict[str, str]:
    """The options that the kernel was built with; those that are off are missing."""
    places = ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config")
    refusals: list[HostError] = []
    for place in places:
        try:
            data = host.read(place)
        except HostError as error:
            refusals.append(error)
            continue
        return _options(_unpacked(data) if place.endswith(".gz") else data)
    unread = next((error for error in refusals if not isinstance(error, AbsentError)), None)
    raise unread or UnansweredError(
        f"the configuration of the kernel {release} is nowhere to be found", hint=f"ls {' '.join(places)}"
    )


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(MAX_LOG)
    except (OSError, EOFError, zlib.error):
        raise UnansweredError("/proc/config.gz cannot be unpacked", hint="zcat /proc/config.gz") from None


def _options(data: bytes) -> dict[str, str]:
    lines = (line for line in data.decode(errors="replace").splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def number(release: str) -> tuple[int, int]:
    """Major and minor number of a release such as 6.17.0-5-generic; (0, 0) of what is none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _switches_off(word: str) -> bool:
    name, _, value = word.partition("=")
    off = value.lower() in ("0", "n", "no", "off", "false")
    return word in ("nosgx", "tdx_host=off", "tdx=off") or (
        off
        and name in ("kvm_intel.tdx", "kvm.tdp_mmu", "kvm.mmio_caching", "kvm_intel.ept", "kvm_intel.eptad")
    )
