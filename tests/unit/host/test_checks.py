"""Each check alone: a world in which it passes, and worlds in which it does not."""

from __future__ import annotations

import gzip
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from tdxstack.abi.qgs import GetPlatformInfoResponse
from tdxstack.exchange import Address
from tdxstack.host.chain import CHAIN, check_named
from tdxstack.host.check import Check, Circumstances, Finding
from tdxstack.host.checks.pccs import PCCS_CONFIG, PCCS_DATABASE, QCNL_CONFIG
from tdxstack.host.checks.registration import EFI_VARIABLES, MPA_LOG, STATUS_VARIABLE
from tdxstack.host.diagnosis import diagnose
from tdxstack.host_access import (
    AbsentError,
    FileStatus,
    ForbiddenError,
    Host,
    Output,
    UnansweredError,
    WebAnswer,
)
from tdxstack.platform import KVM_CAP_VM_TYPES
from tdxstack.verification.result import Status
from tests.scripted_host import ScriptedHost
from tests.unit.host import worlds
from tests.unit.host.worlds import NOW, log

Change = Callable[[ScriptedHost], object]

FAIL, WARNING, UNKNOWN = Status.FAIL, Status.WARNING, Status.UNKNOWN
OK, NOT_APPLICABLE = Status.OK, Status.NOT_APPLICABLE

REFUSED = ForbiddenError("may not be used", hint="sudo cat it")


def file(path: str, content: bytes) -> Change:
    return lambda host: host.files.__setitem__(path, content)


def no_file(*paths: str) -> Change:
    return lambda host: [host.files.pop(path) for path in paths]


def no_status(path: str) -> Change:
    return lambda host: host.statuses.pop(path)


def msr(number: int, value: int) -> Change:
    return lambda host: host.msrs.__setitem__(number, value)


def no_msr(number: int) -> Change:
    return lambda host: host.msrs.pop(number)


def kernel_says(*lines: str, complete: bool = True) -> Change:
    return lambda host: setattr(host, "log", log(*lines, complete=complete))


def command(line: str, code: int, out: str) -> Change:
    return lambda host: host.commands.__setitem__(line, Output(code, out, ""))


def cpu(vendor: str, family: int, model: int, flags: str = "tme", bugs: str = "") -> Change:
    return file("/proc/cpuinfo", worlds.cpuinfo(vendor, family, model, "A CPU", flags, bugs))


def both(*changes: Change) -> Change:
    return lambda host: [change(host) for change in changes]


def mode(path: str, permissions: int, group: str | None = None) -> Change:
    def change(host: ScriptedHost) -> None:
        status = host.statuses[path]
        assert isinstance(status, FileStatus)
        host.statuses[path] = replace(status, mode=permissions, group=group or status.group)

    return change


def peer(answer: GetPlatformInfoResponse) -> Change:
    return lambda host: host.peers.__setitem__(worlds.QGS_SOCKET, answer.to_bytes())


def unanswered_peer(host: ScriptedHost) -> None:
    host.peers[worlds.QGS_SOCKET] = UnansweredError("it did not answer within 3 s")


def forbidden_peer(host: ScriptedHost) -> None:
    host.peers[worlds.QGS_SOCKET] = REFUSED


def on_vsock(host: ScriptedHost) -> None:
    host.files["/etc/qgs.conf"] = b"port=4050\n"


def trusted_pccs(host: ScriptedHost) -> None:
    host.pages[worlds.PCCS_URL] = WebAnswer(404, {}, b"", trusted=True)


def old_cache(host: ScriptedHost) -> None:
    host.statuses[PCCS_DATABASE] = FileStatus(
        "file", 0o640, "pccs", "pccs", 1, datetime(2026, 9, 1, tzinfo=UTC)
    )


def selinux(label: str) -> Change:
    def change(host: ScriptedHost) -> None:
        host.files["/sys/fs/selinux/enforce"] = b"1"
        status = host.statuses[worlds.QGS_SOCKET]
        assert isinstance(status, FileStatus)
        host.statuses[worlds.QGS_SOCKET] = replace(status, label=label)

    return change


def nobody_runs_qemu(host: ScriptedHost) -> None:
    host.files["/etc/passwd"] = b"qgsd:x:990:990::/:/sbin/nologin\n"


def directory(path: str) -> Change:
    return lambda host: host.statuses.__setitem__(
        path, FileStatus("directory", 0o755, "root", "root", 0, NOW)
    )


def no_kvm(host: ScriptedHost) -> None:
    host.kvm.clear()


def qcnl(**settings: str) -> Change:
    lines = ",\n".join(f'"{name}": {value}' for name, value in settings.items())
    return file(QCNL_CONFIG, f"{{\n{lines}\n}}\n".encode())


def registration(status: int, error: int = 0) -> Change:
    return file(STATUS_VARIABLE, b"\x06\0\0\0" + struct.pack("<HHHB", 1, 3, status, error))


NO_PARAMETER = no_file(worlds.PARAMETER)
MODULE_1_5_06 = "virt/tdx: Module version: 1.5.06"
DESCRIPTOR = "/usr/share/qemu/firmware/60-edk2-x86_64-inteltdx.json"
OVERRIDE = "/etc/qemu/firmware/60-edk2-x86_64-inteltdx.json"
KERNEL_CONFIG = "/boot/config-7.0.0-14-generic"

CASES: list[tuple[str, Change, Status, str]] = [
    ("cpu.model", cpu("AuthenticAMD", 25, 17), FAIL, "AMD CPUs do not have it"),
    ("cpu.model", cpu("Made Up", 6, 143), FAIL, "Made Up CPUs do not have it"),
    ("cpu.model", cpu("GenuineIntel", 6, 106), FAIL, "Ice Lake"),
    ("cpu.model", cpu("GenuineIntel", 6, 158, "sse"), FAIL, "does not even encrypt memory"),
    ("cpu.model", cpu("GenuineIntel", 19, 1), WARNING, "in no published TDX module's list"),
    ("cpu.model", cpu("GenuineIntel", 19, 1, "tme tdx_host_platform"), OK, ""),
    ("cpu.model", file("/proc/cpuinfo", b"\xff\n::::\n"), UNKNOWN, "names no vendor"),
    ("cpu.model", no_file("/proc/cpuinfo"), UNKNOWN, "does not exist"),
    ("machine.kind", cpu("GenuineIntel", 6, 143, "hypervisor"), FAIL, "this is a virtual machine"),
    ("machine.kind", cpu("GenuineIntel", 6, 143, "hypervisor tdx_guest"), FAIL, "this is a TD"),
    ("cpu.seam", msr(0xFE, 0x1D0A), FAIL, "its SKU lacks TDX"),
    ("bios.tme", msr(0x982, 1), FAIL, "off in the BIOS"),
    ("bios.tme", no_msr(0x982), FAIL, "no memory encryption"),
    ("bios.tme_mt", msr(0x981, 5), FAIL, "no keys"),
    ("bios.tme_mt", msr(0x982, 3), FAIL, "TME-MT is off"),
    ("bios.integrity", msr(0x982, 0b0010 << 48 | 6 << 32 | 3), WARNING, "integrity is on"),
    ("bios.integrity", msr(0x982, 0b1111 << 48 | 6 << 32 | 3), OK, ""),
    ("bios.key_split", msr(0x87, 63), FAIL, "key split 0"),
    ("bios.key_split", msr(0x87, 1 << 32 | 62), FAIL, "the TDX module's own"),
    ("bios.key_split", msr(0x87, 2 << 32), OK, ""),
    ("bios.key_split", no_msr(0x87), FAIL, "key split 0"),
    ("bios.key_split", lambda host: host.msrs.__setitem__(0x87, REFUSED), OK, ""),
    (
        "bios.key_split",
        both(lambda host: host.msrs.__setitem__(0x87, REFUSED), kernel_says()),
        UNKNOWN,
        "may not be used",
    ),
    ("bios.tdx", msr(0x1401, 0x400), FAIL, "TDX is off in the BIOS"),
    ("bios.tdx", no_msr(0x1401), FAIL, "does not know it"),
    ("bios.sgx", msr(0x3A, 0x20005), FAIL, "SGX is off"),
    ("bios.sgx", msr(0x3A, 0x40005), FAIL, "launch control"),
    ("bios.mcheck", msr(0xA0, 0x1861), FAIL, "registration variables are corrupt"),
    ("bios.mcheck", msr(0xA0, 1), FAIL, "MCHECK"),
    ("bios.mcheck", no_msr(0xA0), NOT_APPLICABLE, "does not report"),
    ("kernel.config", file(KERNEL_CONFIG, b"# CONFIG_INTEL_TDX_HOST is not set\n"), FAIL, "without support"),
    ("kernel.config", file(KERNEL_CONFIG, b"CONFIG_INTEL_TDX_HOST=y\n"), FAIL, "CONFIG_KVM_INTEL_TDX"),
    (
        "kernel.config",
        file(KERNEL_CONFIG, b"CONFIG_INTEL_TDX_HOST=y\nCONFIG_KVM_INTEL_TDX=y\n"),
        WARNING,
        "without SGX",
    ),
    ("kernel.config", no_file(KERNEL_CONFIG), UNKNOWN, "nowhere to be found"),
    ("kernel.config", lambda host: host.files.__setitem__(KERNEL_CONFIG, REFUSED), UNKNOWN, "may not"),
    (
        "kernel.config",
        file("/proc/config.gz", gzip.compress(b"CONFIG_INTEL_TDX_HOST=n\n", mtime=0)),
        FAIL,
        "without support",
    ),
    ("kernel.config", file("/proc/config.gz", b"\x1f\x8bgarbage"), UNKNOWN, "cannot be unpacked"),
    (
        "kernel.version",
        both(lambda host: setattr(host, "release", "6.8.0-31-generic"), NO_PARAMETER),
        FAIL,
        "6.16",
    ),
    ("kernel.version", lambda host: setattr(host, "release", "6.8.0-1028-intel"), WARNING, "patched in"),
    ("kernel.cmdline", file("/proc/cmdline", b"kvm_intel.tdx=0 quiet"), FAIL, "kvm_intel.tdx=0"),
    ("kernel.cmdline", file("/proc/cmdline", b"nosgx"), FAIL, "nosgx"),
    ("kernel.cmdline", file("/proc/cmdline", b"quiet"), OK, ""),
    (
        "kernel.hibernation",
        both(file("/sys/power/disk", b"[platform]"), file("/proc/cmdline", b"")),
        FAIL,
        "possible",
    ),
    ("kernel.hibernation", both(file("/sys/power/disk", b"[platform]")), OK, ""),
    ("kernel.hibernation", both(no_file("/sys/power/disk"), directory("/sys/power")), OK, ""),
    ("kernel.hibernation", no_file("/sys/power/disk"), UNKNOWN, "/sys/power"),
    (
        "kernel.hibernation",
        kernel_says("virt/tdx: initialization failed: Hibernation support is enabled"),
        FAIL,
        "has left TDX off",
    ),
    (
        "kernel.memory_hotplug",
        lambda host: host.directories.__setitem__("/sys/bus/dax/drivers/kmem", ("bind", "dax0.0")),
        WARNING,
        "added after boot",
    ),
    ("cpu.partial_write", cpu("GenuineIntel", 6, 173), OK, ""),
    (
        "cpu.partial_write",
        file("/proc/cmdline", b"nohibernate crashkernel=1G"),
        WARNING,
        "kexec and kdump do not work",
    ),
    ("kvm.device", no_kvm, FAIL, "is this a container"),
    (
        "kvm.device",
        both(
            no_kvm,
            no_status("/sys/module/kvm_intel"),
            NO_PARAMETER,
            no_file("/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_intel/parameters/eptad"),
        ),
        FAIL,
        "KVM is not loaded",
    ),
    ("kvm.device", lambda host: host.kvm.__setitem__(KVM_CAP_VM_TYPES, REFUSED), FAIL, "may not use KVM"),
    ("kvm.requirements", file("/sys/module/kvm/parameters/tdp_mmu", b"N"), FAIL, "tdp_mmu"),
    ("kvm.requirements", file("/sys/module/kvm/parameters/enable_virt_at_load", b"N"), FAIL, "virt_at_load"),
    (
        "kvm.parameter",
        both(
            file(worlds.PARAMETER, b"N"),
            file("/proc/cmdline", b""),
            kernel_says("virt/tdx: BIOS enabled: private KeyID range [32, 64)"),
        ),
        FAIL,
        "not asked for",
    ),
    (
        "kvm.parameter",
        both(
            file(worlds.PARAMETER, b"N"),
            file("/proc/cmdline", b""),
            kernel_says(),
            file("/etc/modprobe.d/kvm.conf", b"options kvm-intel nested=1 tdx=1\n"),
        ),
        OK,
        "",
    ),
    (
        "kvm.parameter",
        both(
            file(worlds.PARAMETER, b"N"),
            file("/proc/cmdline", b""),
            kernel_says("virt/tdx: module not loaded"),
        ),
        OK,
        "",
    ),
    ("kvm.parameter", NO_PARAMETER, FAIL, "does not know TDX"),
    (
        "kvm.parameter",
        both(no_file(worlds.PARAMETER), no_status("/sys/module/kvm_intel"), directory("/sys/module")),
        FAIL,
        "not loaded",
    ),
    (
        "kvm.parameter",
        both(no_file(worlds.PARAMETER), no_status("/sys/module/kvm_intel")),
        UNKNOWN,
        "/sys/module",
    ),
    ("module.loaded", kernel_says("virt/tdx: module not loaded"), FAIL, "has loaded no TDX module"),
    ("module.loaded", kernel_says("[    1.5] virt/tdx: module not loaded"), FAIL, "has loaded no TDX module"),
    ("module.loaded", kernel_says(), UNKNOWN, "does not tell"),
    (
        "module.version",
        kernel_says(
            "virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, "
            "minor_version 0, build_date 20230206, build_num 457"
        ),
        FAIL,
        "1.5 or newer",
    ),
    (
        "module.version",
        kernel_says(
            "virt/tdx: Module version: 1.5.05",
            "virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module",
        ),
        FAIL,
        "clobbers",
    ),
    ("module.version", kernel_says(), UNKNOWN, "neither sysfs nor the log"),
    (
        "module.initialized",
        kernel_says("virt/tdx: initialization failed: TDMRs exhausted."),
        FAIL,
        "memory map",
    ),
    (
        "module.initialized",
        kernel_says("virt/tdx: module initialization failed (-12)"),
        FAIL,
        "could not start",
    ),
    ("module.initialized", kernel_says("kvm_intel: tdx: MOVDIR64B is required for TDX"), FAIL, "KVM lacks"),
    (
        "module.initialized",
        kernel_says(
            "virt/tdx: BIOS enabled: private KeyID range [1, 2)",
            "virt/tdx: initialization failed: too few private KeyIDs available.",
        ),
        FAIL,
        "too few keys",
    ),
    (
        "module.initialized",
        kernel_says("virt/tdx: BIOS enabled: private KeyID range [64, 128)"),
        FAIL,
        "half configured",
    ),
    ("module.initialized", kernel_says(), FAIL, "found no TDX"),
    ("module.initialized", kernel_says(complete=False), UNKNOWN, "lost its beginning"),
    ("module.initialized", lambda host: setattr(host, "log", REFUSED), UNKNOWN, "may not"),
    ("module.tcb", kernel_says(MODULE_1_5_06, "virt/tdx: module initialized"), WARNING, "1.5.16 has"),
    ("module.tcb", kernel_says("virt/tdx: Module version: 1.5.01"), WARNING, "SVN 11 is asked for"),
    ("module.tcb", kernel_says("virt/tdx: Module version: 1.5.16"), OK, ""),
    ("module.tcb", kernel_says("virt/tdx: Module version: 3.0.01"), UNKNOWN, "no bar is known"),
    ("kvm.vm_types", lambda host: host.kvm.__setitem__(KVM_CAP_VM_TYPES, 0b11111), FAIL, "does not offer"),
    ("kvm.capacity", file("/sys/fs/cgroup/misc.capacity", b"sgx_epc 1\n"), WARNING, "counts no keys"),
    ("kvm.capacity", file("/sys/fs/cgroup/misc.current", b"tdx 31\n"), WARNING, "no key is left"),
    ("qemu.binary", lambda host: host.programs.pop("qemu-system-x86_64"), FAIL, "no QEMU"),
    (
        "qemu.binary",
        both(
            lambda host: host.programs.pop("qemu-system-x86_64"),
            lambda host: host.statuses.__setitem__(
                "/usr/libexec/qemu-kvm", worlds.device("root", "root", 0o755)
            ),
        ),
        OK,
        "",
    ),
    (
        "qemu.tdx",
        lambda host: host.commands.__setitem__(worlds.PROBE, worlds.qmp("10.0.13", "sev-guest")),
        FAIL,
        "QEMU 10.0.13 cannot start TDs",
    ),
    ("qemu.tdx", command(worlds.PROBE, 127, "error while loading shared libraries"), FAIL, "does not start"),
    (
        "qemu.tdx",
        lambda host: host.commands.__setitem__(worlds.PROBE, UnansweredError("did not end")),
        UNKNOWN,
        "end",
    ),
    ("firmware.descriptor", no_file(DESCRIPTOR), FAIL, "no firmware on this host"),
    ("firmware.descriptor", file(DESCRIPTOR, b"{"), FAIL, "no firmware on this host"),
    ("firmware.descriptor", file(DESCRIPTOR, worlds.descriptor("secure-boot")), FAIL, "no firmware"),
    ("firmware.descriptor", file(OVERRIDE, b""), FAIL, "no firmware"),
    ("firmware.descriptor", no_status(worlds.FIRMWARE), FAIL, "image that a descriptor names is missing"),
    (
        "libvirt.version",
        command(worlds.VIRSH_VERSION, 0, "Running against daemon: 11.3.0"),
        WARNING,
        "does not know",
    ),
    ("libvirt.version", command(worlds.VIRSH_VERSION, 1, ""), WARNING, "daemon does not answer"),
    (
        "libvirt.version",
        lambda host: host.commands.pop(worlds.VIRSH_VERSION),
        NOT_APPLICABLE,
        "not installed",
    ),
    (
        "libvirt.domcapabilities",
        command(worlds.VIRSH_CAPABILITIES, 0, "<tdx supported='no'/>"),
        WARNING,
        "finds no TDX",
    ),
    ("libvirt.domcapabilities", command(worlds.VIRSH_CAPABILITIES, 1, ""), WARNING, "does not say"),
    (
        "libvirt.domcapabilities",
        command(worlds.VIRSH_VERSION, 0, "against daemon: 11.7.0"),
        WARNING,
        "before 11.10",
    ),
    ("cpu.production", msr(0xCE, 1 << 27), FAIL, "pre-production"),
    ("sgx.devices", no_status("/dev/sgx_provision"), FAIL, "offers no SGX"),
    ("sgx.permissions", mode("/dev/sgx_provision", 0o600), FAIL, "qgsd may not use"),
    ("sgx.permissions", mode("/dev/sgx_provision", 0o660, "root"), FAIL, "qgsd may not use"),
    ("sgx.permissions", mode("/dev/sgx_provision", 0o666, "root"), OK, ""),
    ("sgx.permissions", file("/etc/passwd", b"root:x:0:0::/:/bin/sh\n"), NOT_APPLICABLE, "no user"),
    (
        "qgs.service",
        command(worlds.SHOW_QGS, 0, "LoadState=loaded\nActiveState=failed\nSubState=failed\n"),
        FAIL,
        "not run",
    ),
    (
        "qgs.service",
        both(
            command(worlds.SHOW_QGS, 0, "LoadState=not-found\nActiveState=inactive\n"),
            no_status(worlds.QGS_SOCKET),
        ),
        FAIL,
        "no quote generation service is installed",
    ),
    ("qgs.service", command(worlds.SHOW_QGS, 0, "LoadState=not-found\nActiveState=inactive\n"), OK, ""),
    (
        "qgs.service",
        both(lambda host: host.commands.pop(worlds.SHOW_QGS), no_status(worlds.QGS_SOCKET)),
        UNKNOWN,
        "systemd does not run",
    ),
    (
        "qgs.service",
        both(command(worlds.SHOW_QGS, 1, ""), no_status(worlds.QGS_SOCKET)),
        UNKNOWN,
        "systemd does not run",
    ),
    ("qgs.service", command(worlds.SHOW_QGS, 1, ""), OK, ""),
    ("qgs.socket", mode(worlds.QGS_SOCKET, 0o755), FAIL, "libvirt-qemu, who may not connect"),
    ("qgs.socket", mode("/var/run/tdx-qgs", 0o700), FAIL, "libvirt-qemu, who may not connect"),
    ("qgs.socket", both(mode(worlds.QGS_SOCKET, 0o755), nobody_runs_qemu), WARNING, "only root"),
    ("qgs.socket", mode(worlds.QGS_SOCKET, 0o777), OK, ""),
    ("qgs.socket", no_status(worlds.QGS_SOCKET), FAIL, "has no socket"),
    ("qgs.socket", on_vsock, FAIL, "not loaded"),
    ("qgs.socket", file("/etc/qgs.conf", b"port = 0\n"), OK, ""),
    ("qgs.socket", selinux("system_u:object_r:var_run_t:s0"), WARNING, "SELinux"),
    ("qgs.socket", selinux("system_u:object_r:qgs_var_run_t:s0"), OK, ""),
    ("qgs.answer", unanswered_peer, FAIL, "does not answer"),
    ("qgs.answer", forbidden_peer, UNKNOWN, "may not"),
    ("qgs.answer", peer(GetPlatformInfoResponse(error_code=0x12002)), FAIL, "no quoting enclave"),
    (
        "qgs.answer",
        lambda host: host.peers.__setitem__(worlds.QGS_SOCKET, b"HTTP/1.1"),
        FAIL,
        "no quote generation",
    ),
    ("qcnl.config", no_file(QCNL_CONFIG), FAIL, "is not told"),
    ("qcnl.config", file(QCNL_CONFIG, b"{"), FAIL, "cannot read"),
    ("qcnl.config", file(QCNL_CONFIG, b"[1]"), FAIL, "cannot read"),
    ("qcnl.config", qcnl(pccs_url='"http://localhost:8081/"'), FAIL, "no https URL"),
    ("qcnl.config", qcnl(pccs_url="7"), FAIL, "no https URL"),
    ("qcnl.config", qcnl(local_cache_only="true"), OK, ""),
    (
        "qcnl.config",
        file(QCNL_CONFIG, b"# old\nPCCS_URL=https://localhost:8081/sgx/\nUSE_SECURE_CERT=FALSE\n"),
        OK,
        "",
    ),
    ("pccs.answer", lambda host: host.pages.clear(), FAIL, "does not answer"),
    ("pccs.answer", qcnl(local_cache_only="true"), NOT_APPLICABLE, "local cache"),
    ("pccs.certificate", qcnl(pccs_url=f'"{worlds.PCCS_URL}"'), FAIL, "demands a trusted certificate"),
    ("pccs.certificate", both(qcnl(pccs_url=f'"{worlds.PCCS_URL}"'), trusted_pccs), OK, ""),
    ("pccs.api_key", file(PCCS_CONFIG, b'{"ApiKey": " "}'), FAIL, "no subscription key"),
    ("pccs.api_key", file(PCCS_CONFIG, b'{"CachingFillMode": "OFFLINE"}'), NOT_APPLICABLE, "offline"),
    ("pccs.api_key", file(PCCS_CONFIG, b"?"), FAIL, "cannot read its configuration"),
    ("pccs.api_key", no_file(PCCS_CONFIG), NOT_APPLICABLE, "no PCCS"),
    ("pccs.api_key", lambda host: host.files.__setitem__(PCCS_CONFIG, REFUSED), UNKNOWN, "may not"),
    ("pccs.cache", old_cache, WARNING, "has expired"),
    ("pccs.cache", no_status(PCCS_DATABASE), NOT_APPLICABLE, "no cache"),
    ("registration.state", registration(0), FAIL, "not registered"),
    ("registration.state", registration(0, 0x82), FAIL, "wrong proxy"),
    ("registration.state", registration(0, 0xFF), FAIL, "see the log"),
    (
        "registration.state",
        both(registration(0), file(MPA_LOG, b"(PLATFORM_MANIFEST) won't be send to")),
        FAIL,
        "keeps",
    ),
    ("registration.state", file(STATUS_VARIABLE, b"\6\0"), UNKNOWN, "2 bytes of 11"),
    ("registration.state", both(no_file(STATUS_VARIABLE, MPA_LOG)), UNKNOWN, "did not start by EFI"),
    (
        "registration.state",
        both(
            no_file(STATUS_VARIABLE, MPA_LOG),
            lambda host: host.directories.__setitem__(EFI_VARIABLES, ("BootOrder",)),
        ),
        FAIL,
        "offers no registration",
    ),
    (
        "registration.state",
        both(
            no_file(STATUS_VARIABLE, MPA_LOG),
            lambda host: host.directories.__setitem__(EFI_VARIABLES, ()),
            lambda host: host.statuses.__setitem__("/sys/firmware/efi", worlds.device("root", "root", 0o755)),
        ),
        UNKNOWN,
        "shows no EFI variables",
    ),
    ("registration.state", no_file(STATUS_VARIABLE), OK, ""),
    (
        "registration.pck",
        lambda host: host.commands.__setitem__(worlds.JOURNAL, worlds.no_certificate()),
        FAIL,
        "no PCK",
    ),
    (
        "registration.pck",
        command(worlds.JOURNAL, 0, "Failed to get quote config. Error code is 0xb033\n"),
        FAIL,
        "fails to get",
    ),
    ("registration.pck", command(worlds.JOURNAL, 0, "About to create QgsServer"), NOT_APPLICABLE, "no quote"),
    ("registration.pck", command(worlds.JOURNAL, 1, ""), UNKNOWN, "journal"),
    (
        "tuning.huge_pages",
        file("/sys/kernel/mm/transparent_hugepage/enabled", b"always madvise [never]"),
        WARNING,
        "off",
    ),
    ("tuning.huge_pages", no_file("/sys/kernel/mm/transparent_hugepage/enabled"), NOT_APPLICABLE, "has no"),
    ("tuning.vhost", no_status("/dev/vhost-vsock"), WARNING, "/dev/vhost-vsock"),
    ("tuning.numa", file("/proc/sys/kernel/numa_balancing", b"1"), WARNING, "between nodes"),
    ("tuning.numa", lambda host: host.directories.clear(), UNKNOWN, "does not exist"),
    ("emulated.emulator", lambda host: host.programs.pop("apt-get"), WARNING, "cannot be fetched"),
]

GUEST_CASES: list[tuple[str, Change, Status]] = [
    ("guest.tdreport", no_status("/dev/tdx_guest"), FAIL),
    ("guest.quote", no_status("/sys/kernel/config/tsm/report"), FAIL),
    ("guest.event_log", no_status("/sys/firmware/acpi/tables/CCEL"), FAIL),
    ("guest.registers", no_status("/sys/devices/virtual/misc/tdx_guest/measurements"), WARNING),
]


def look(name: str, host: ScriptedHost) -> Finding:
    return check_named(name).look(host, Circumstances(NOW))


@pytest.mark.parametrize(("name", "change", "status", "words"), CASES)
def test_a_check_sees_what_is_wrong(name: str, change: Change, status: Status, words: str) -> None:
    host = worlds.good_emr()
    assert look(name, host).status is OK
    change(host)
    finding = look(name, host)
    assert (finding.status, words in finding.cause) == (status, True), finding
    if status in (FAIL, WARNING):
        assert finding.found
        assert finding.fix
    if status is UNKNOWN:
        assert finding.cause


@pytest.mark.parametrize(("name", "change", "status"), GUEST_CASES)
def test_a_check_sees_what_a_td_lacks(name: str, change: Change, status: Status) -> None:
    host = worlds.inside_td()
    assert look(name, host).status is OK
    change(host)
    assert look(name, host).status is status
    assert look(name, worlds.good_emr()).status is NOT_APPLICABLE


def test_every_check_has_been_seen_to_pass_and_to_fail() -> None:
    seen = {name for name, _, status, _ in CASES if status in (FAIL, WARNING)}
    seen |= {name for name, _, status in GUEST_CASES if status in (FAIL, WARNING)}
    assert seen == {check.id for check in CHAIN}


@pytest.mark.parametrize("check", CHAIN, ids=lambda check: check.id)
def test_every_check_is_described_and_stands_behind_what_it_needs(check: Check) -> None:
    known = [one.id for one in CHAIN]
    assert known.count(check.id) == 1
    assert all(known.index(need) < known.index(check.id) for need in check.needs)
    assert set(check.proved_by) <= set(known)
    assert check.link.startswith("https://")
    for text in (check.looks_at, check.expected, check.why, check.fix):
        assert text
        assert text == text.strip()


@pytest.mark.parametrize("error", [AbsentError("gone"), REFUSED, UnansweredError("silence")])
@pytest.mark.parametrize("check", CHAIN, ids=lambda check: check.id)
def test_no_check_is_thrown_by_a_host_that_answers_nothing(check: Check, error: Exception) -> None:
    class Mute:
        def __getattr__(self, name: str) -> Callable[..., object]:
            def ask(*_arguments: object, **_options: object) -> object:
                raise error

            return ask

    assert check.look(cast(Host, Mute()), Circumstances(NOW, network=True)).status in Status


def test_waiting_checks_wait_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)

    class Slow(ScriptedHost):
        def exchange(self, address: Address, message: bytes, *, timeout: float) -> bytes:
            meeting.wait()
            raise UnansweredError("nothing")

        def fetch(self, url: str, *, timeout: float) -> WebAnswer:
            meeting.wait()
            raise UnansweredError("nothing")

        def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 1) -> Output:
            if argv[0] == "journalctl":
                meeting.wait()
            raise UnansweredError("nothing")

    good = worlds.good_emr()
    host = Slow(**{name: getattr(good, name) for name in good.__dataclass_fields__})
    chain = [one for one in CHAIN if one.id != "pccs.certificate"]
    diagnose(host, Circumstances(NOW), chain)
    assert not meeting.broken
