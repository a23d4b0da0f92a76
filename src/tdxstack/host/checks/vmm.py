"""What starts TDs: QEMU, firmware and libvirt."""

from __future__ import annotations

import re

from tdxstack.errors import CommandError, MalformedError
from tdxstack.firmware.descriptor import Descriptor
from tdxstack.firmware.find import INTEL_TDX, MACHINE, SYSTEM_DIRECTORIES
from tdxstack.host.check import Check, Circumstances, Finding, Purpose, exists
from tdxstack.host_access import AbsentError, Host, HostError
from tdxstack.qemu import probe
from tdxstack.qemu.capabilities import LIBVIRT_TDX, LIBVIRT_TDX_EVERYWHERE

QEMU_GUIDE = "https://www.qemu.org/docs/master/system/i386/tdx.html"
LIBVIRT_GUIDE = "https://libvirt.org/formatdomaincaps.html"
QEMU_NAMES = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "qemu-kvm")
TDX_OBJECT = "tdx-guest"

VIRSH = ("virsh", "-r", "-c", "qemu:///system")
FIRST_LIBVIRT = LIBVIRT_TDX.since

NEW_QEMU = "install QEMU 10.1 or newer: Debian trixie-backports, Ubuntu 26.04, Fedora 43"


class Qemu(Check):
    """Which QEMU there is."""

    id = "qemu.binary"
    purpose = Purpose.LAUNCH
    looks_at = f"the programs {', '.join(QEMU_NAMES)}"
    expected = "a QEMU for x86_64"
    why = "TDs are started by QEMU, by hand, by libvirt or by tdx."
    fix = "sudo apt-get install qemu-system-x86, or sudo dnf install qemu-kvm"
    link = QEMU_GUIDE
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        binary = find_qemu(host)
        return self.ok(binary) if binary else self.fail("none", "there is no QEMU on this host")


class QemuTdx(Check):
    """Whether that QEMU can start TDs, in its own words."""

    id = "qemu.tdx"
    purpose = Purpose.LAUNCH
    looks_at = f"QMP qom-list-types of that QEMU: the type {TDX_OBJECT}"
    expected = f"QEMU has the object {TDX_OBJECT}"
    why = (
        "Upstream QEMU starts TDs since 10.1; an upgrade of the distribution may have replaced a patched "
        "one: qom-type does not accept value 'tdx-guest'."
    )
    fix = NEW_QEMU
    link = QEMU_GUIDE
    needs = ("qemu.binary",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        binary = find_qemu(host)
        if not binary:
            return self.fail("none", "there is no QEMU on this host")
        argv, questions = probe.command([binary])
        output = host.run(argv, stdin=questions)
        try:
            found = probe.parse(binary, output.stdout.encode())
        except CommandError as error:
            return self.fail(
                error.message, "QEMU does not start", f"{binary} -machine none -nodefaults -qmp stdio"
            )
        if TDX_OBJECT in found.confidential_guests:
            return self.ok(f"QEMU {found.version}")
        return self.fail(
            f"QEMU {found.version} without {TDX_OBJECT}", f"QEMU {found.version} cannot start TDs"
        )


class Firmware(Check):
    """Whether there is firmware that a TD can start with."""

    id = "firmware.descriptor"
    purpose = Purpose.LAUNCH
    looks_at = "QEMU's firmware descriptors in " + " and ".join(map(str, SYSTEM_DIRECTORIES))
    expected = f"a descriptor with the feature {INTEL_TDX}, and its image"
    why = (
        "A TD starts with TDVF, an OVMF that carries TDX metadata; distributions describe it in a JSON file."
    )
    fix = (
        "sudo apt-get install ovmf-inteltdx, or sudo dnf install edk2-ovmf; tdx firmware list shows what is "
        "found"
    )
    link = "https://www.qemu.org/docs/master/interop/firmware.html"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        missing = []
        for name, descriptor in _descriptors(host):
            if INTEL_TDX in descriptor.features and descriptor.runs_on(MACHINE) and descriptor.filename:
                if exists(host, descriptor.filename):
                    return self.ok(f"{descriptor.filename} ({name})")
                missing.append(descriptor.filename)
        if missing:
            return self.fail(", ".join(missing), "the image that a descriptor names is missing")
        return self.fail("none", "no firmware on this host can start a TD")


class Libvirt(Check):
    """Whether libvirt knows TDX."""

    id = "libvirt.version"
    purpose = Purpose.ADVICE
    looks_at = "virsh version --daemon"
    expected = "libvirt 11.6 or newer"
    why = "libvirt has <launchSecurity type='tdx'> since 11.6; QEMU by hand does without it."
    fix = "install libvirt 11.10 or newer, or start TDs without it"
    link = LIBVIRT_GUIDE
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            version = libvirt_version(host)
        except AbsentError:
            return self.skip("libvirt is not installed")
        if version is None:
            return self.warn(
                "no answer",
                "virsh is installed, but libvirt's daemon does not answer",
                "sudo systemctl start libvirtd",
            )
        found = ".".join(map(str, version))
        if version < FIRST_LIBVIRT:
            return self.warn(found, f"libvirt {found} does not know TDX")
        return self.ok(found)


class DomainCapabilities(Check):
    """What libvirt says of this host, and whether to believe it."""

    id = "libvirt.domcapabilities"
    purpose = Purpose.ADVICE
    looks_at = "virsh domcapabilities: <tdx supported=.../>"
    expected = "TDX is supported"
    why = "libvirt 11.6 to 11.9 report TDX on hosts without it; 11.8 mends the choice of stateless firmware."
    fix = "see kvm.vm_types and qemu.tdx; after a change: sudo rm /var/cache/libvirt/qemu/capabilities/*.xml"
    link = LIBVIRT_GUIDE
    needs = ("libvirt.version", "kvm.vm_types", "qemu.tdx")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            version = libvirt_version(host)
        except AbsentError:
            return self.skip("libvirt is not installed")
        if version is None or version < FIRST_LIBVIRT:
            return self.skip("this libvirt does not know TDX")
        output = host.run([*VIRSH, "domcapabilities", "--machine", "q35", "--virttype", "kvm"])
        supported = re.search(r"<tdx supported=['\"](yes|no)['\"]", output.stdout)
        if supported is None:
            return self.warn("no element <tdx>", "libvirt does not say whether TDX is supported")
        if supported[1] == "no":
            return self.warn("no", "libvirt finds no TDX on this host")
        if LIBVIRT_TDX_EVERYWHERE.holds(version):
            return self.warn(
                "yes", "libvirt before 11.10 says so on hosts without TDX, too: trust kvm.vm_types"
            )
        return self.ok("yes")


def find_qemu(host: Host) -> str:
    """The path of the host's QEMU, empty where there is none."""
    for name in QEMU_NAMES:
        try:
            if name.startswith("/"):
                host.status(name)
                return name
            return host.program(name)
        except HostError:
            continue
    return ""


def libvirt_version(host: Host) -> tuple[int, int, int] | None:
    """The daemon's version, None where it does not answer; `AbsentError` where libvirt is not installed."""
    output = host.run([*VIRSH, "version", "--daemon"])
    found = re.search(r"daemon: (\d{1,4})\.(\d{1,4})\.(\d{1,4})", output.stdout)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _descriptors(host: Host) -> list[tuple[str, Descriptor]]:
    """The descriptors in effect: of files with one name the first counts, and an empty one hides others."""
    paths: dict[str, str] = {}
    for directory in map(str, SYSTEM_DIRECTORIES):
        try:
            names = [name for name in host.entries(directory) if name.endswith(".json")]
        except HostError:
            continue
        for name in names:
            paths.setdefault(name, f"{directory}/{name}")
    found = []
    for name, path in sorted(paths.items()):
        try:
            found.append((name, Descriptor.parse(host.read(path))))
        except (HostError, MalformedError):
            continue  # tdx firmware list tells what is wrong with it
    return found
