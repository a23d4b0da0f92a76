"""Whole machines, written from what people have pasted into public threads.

Each function makes a new world. The threads are named beside the facts that come from them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from tdxstack.abi.qgs import GetPlatformInfoResponse
from tdxstack.host.checks.pccs import PCCS_CONFIG, PCCS_DATABASE, QCNL_CONFIG
from tdxstack.host.checks.registration import MPA_LOG, STATUS_VARIABLE
from tdxstack.host.checks.vmm import VIRSH
from tdxstack.host_access import FileStatus, ForbiddenError, KernelLog, Output, UnansweredError, WebAnswer
from tdxstack.platform import KVM_CAP_VM_TYPES
from tdxstack.run import command_line
from tests.scripted_host import ScriptedHost

NOW = datetime(2026, 11, 20, tzinfo=UTC)
TAKEN = datetime(2026, 11, 10, tzinfo=UTC)

PROBE = "/usr/bin/qemu-system-x86_64 -machine none -nodefaults -display none -qmp stdio"
JOURNAL = "journalctl -u qgsd -b -n 500 --no-pager -q -o cat"
SHOW_QGS = "systemctl show qgsd --property=LoadState,ActiveState,SubState"
VIRSH_VERSION = command_line([*VIRSH, "version", "--daemon"])
VIRSH_CAPABILITIES = command_line([*VIRSH, "domcapabilities", "--machine", "q35", "--virttype", "kvm"])
PCCS_URL = "https://localhost:8081/sgx/certification/v4/"
QGS_SOCKET = "/var/run/tdx-qgs/qgs.socket"
PARAMETER = "/sys/module/kvm_intel/parameters/tdx"
FIRMWARE = "/usr/share/ovmf/OVMF.inteltdx.ms.fd"

REGISTERED = b"\x06\0\0\0" + struct.pack("<HHHB", 1, 3, 1, 0)
UNREGISTERED = b"\x06\0\0\0" + struct.pack("<HHHB", 1, 3, 0, 0)

KEYS_OF_TDX = 32


def cpuinfo(vendor: str, family: int, model: int, name: str, flags: str = "", bugs: str = "") -> bytes:
    lines = (
        "processor\t: 0",
        f"vendor_id\t: {vendor}",
        f"cpu family\t: {family}",
        f"model\t\t: {model}",
        f"model name\t: {name}",
        "stepping\t: 2",
        f"flags\t\t: fpu vme msr sse2 {flags}",
        f"bugs\t\t: spectre_v1 {bugs}",
    )
    block = "\n".join(lines) + "\n\n"
    return (block + block.replace("processor\t: 0", "processor\t: 1")).encode()


def log(*lines: str, complete: bool = True) -> KernelLog:
    first = "Linux version 6.17.0-8-generic (builder@buildhost) #8 SMP PREEMPT_DYNAMIC"
    return KernelLog((first, *lines), "/dev/kmsg", complete)


def device(owner: str, group: str, mode: int) -> FileStatus:
    return FileStatus("device", mode, owner, group, 0, TAKEN)


def descriptor(*features: str, filename: str = FIRMWARE) -> bytes:
    return json.dumps(
        {
            "description": "UEFI firmware for TDX",
            "interface-types": ["uefi"],
            "mapping": {"device": "memory", "filename": filename},
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": list(features),
            "tags": [],
        }
    ).encode()


def qmp(version: str, *types: str) -> Output:
    major, minor, micro = map(int, version.split("."))
    greeting = {"QMP": {"version": {"qemu": {"major": major}}, "capabilities": []}}
    answers: list[dict[str, object]] = [
        {"return": {}},
        {"return": {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": ""}},
        {"return": [{"name": name, "parent": "x86-confidential-guest"} for name in types]},
        {"return": {}},
    ]
    return Output(0, "\n".join(json.dumps(one) for one in [greeting, *answers]) + "\n", "")


def good_emr() -> ScriptedHost:
    """Emerald Rapids, two sockets, Ubuntu 26.04's kernel, QEMU, libvirt and Intel's attestation packages."""
    host = ScriptedHost(release="7.0.0-14-generic")
    host.kvm[KVM_CAP_VM_TYPES] = 0b100001
    host.msrs = {
        0xFE: 0x9D0A,
        0x981: 63 << 36 | 6 << 32 | 1 << 31 | 0b0101,
        0x982: 0b0101 << 48 | 5 << 36 | 6 << 32 | 1 << 31 | 0b11,
        0x87: KEYS_OF_TDX << 32 | 31,
        0x1400: 0x3FFE000008,
        0x1401: 0x3FFFFE000C00,
        0x3A: 0x60005,
        0xA0: 0,
        0xCE: 0x80080D7BF3813,
        0x503: 0,
    }
    host.log = log(
        "Command line: BOOT_IMAGE=/vmlinuz-7.0.0-14-generic root=UUID=0e0ce3b1-7b52-4a79-8d0f-53f6dbe3a3a1 "
        "ro kvm_intel.tdx=1 nohibernate",
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "virt/tdx: Module version: 1.5.24",
        "virt/tdx: 1050644 KB allocated for PAMT",
        "virt/tdx: TDX-Module initialized",
    )
    _software(host)
    _attestation(host)
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel",
        6,
        207,
        "INTEL(R) XEON(R) PLATINUM 8568Y+",
        "tme sgx sgx_lc tdx_host_platform",
        "tdx_pw_mce",
    )
    return host


def _software(host: ScriptedHost) -> None:
    """Kernel, KVM, QEMU, firmware, libvirt and the devices that make TDs quick."""
    for path, content in {
        "/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=0e0ce3b1-7b52-4a79-8d0f-53f6dbe3a3a1 ro "
        "kvm_intel.tdx=1 nohibernate\n",
        f"/boot/config-{host.release}": "CONFIG_X86_64=y\nCONFIG_INTEL_TDX_HOST=y\nCONFIG_KVM_INTEL_TDX=y\n"
        "CONFIG_X86_SGX=y\nCONFIG_HIBERNATION=y\n# CONFIG_FOO is not set\n",
        "/sys/power/disk": "[disabled]\n",
        PARAMETER: "Y\n",
        "/sys/module/kvm_intel/parameters/ept": "Y\n",
        "/sys/module/kvm_intel/parameters/eptad": "Y\n",
        "/sys/module/kvm/parameters/tdp_mmu": "Y\n",
        "/sys/module/kvm/parameters/mmio_caching": "Y\n",
        "/sys/module/kvm/parameters/enable_virt_at_load": "Y\n",
        "/sys/fs/cgroup/misc.capacity": f"sgx_epc 8589934592\ntdx {KEYS_OF_TDX - 1}\n",
        "/sys/fs/cgroup/misc.current": "sgx_epc 0\ntdx 2\n",
        "/sys/devices/system/memory/auto_online_blocks": "online\n",
        "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "/proc/sys/kernel/numa_balancing": "0\n",
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nqgsd:x:990:990::/var/opt/qgsd:/sbin/nologin\n"
        "libvirt-qemu:x:64055:109:Libvirt Qemu,,,:/var/lib/libvirt:/usr/sbin/nologin\n"
        "alice:x:1000:1000:Alice Example,,,:/home/alice:/bin/bash\n",
        "/etc/group": "root:x:0:\nkvm:x:109:alice\nsgx_prv:x:108:qgsd\nqgsd:x:990:libvirt-qemu\n"
        "alice:x:1000:\n",
    }.items():
        host.files[path] = content.encode()
    host.files["/usr/share/qemu/firmware/60-edk2-x86_64-inteltdx.json"] = descriptor(
        "intel-tdx", "secure-boot"
    )
    host.statuses[FIRMWARE] = FileStatus("file", 0o644, "root", "root", 4 << 20, TAKEN)
    host.directories["/sys/devices/system/node"] = ("has_cpu", "node0", "node1")
    host.statuses["/sys/module/kvm_intel"] = FileStatus("directory", 0o755, "root", "root", 0, TAKEN)
    host.statuses["/dev/vhost-net"] = device("root", "kvm", 0o660)
    host.statuses["/dev/vhost-vsock"] = device("root", "kvm", 0o660)
    host.programs["qemu-system-x86_64"] = "/usr/bin/qemu-system-x86_64"
    host.programs["apt-get"] = "/usr/bin/apt-get"
    host.commands[PROBE] = qmp("11.1.3", "tdx-guest", "sev-guest")
    host.commands[VIRSH_VERSION] = Output(
        0, "Using library: libvirt 12.0.0\nRunning against daemon: 12.0.0\n", ""
    )
    host.commands[VIRSH_CAPABILITIES] = Output(
        0, "<domainCapabilities>\n  <features>\n    <tdx supported='yes'/>\n  </features>\n", ""
    )


def _attestation(host: ScriptedHost) -> None:
    """SGX devices, the QGS, its certificates and the registration."""
    host.statuses["/dev/sgx_enclave"] = device("root", "sgx", 0o666)
    host.statuses["/dev/sgx_provision"] = device("root", "sgx_prv", 0o660)
    host.commands[SHOW_QGS] = Output(0, "LoadState=loaded\nActiveState=active\nSubState=running\n", "")
    host.statuses[QGS_SOCKET] = FileStatus("socket", 0o770, "qgsd", "qgsd", 0, TAKEN)
    host.statuses["/var/run/tdx-qgs"] = FileStatus("directory", 0o755, "qgsd", "qgsd", 0, TAKEN)
    host.peers[QGS_SOCKET] = GetPlatformInfoResponse(
        qe_isvsvn=4, pce_isvsvn=13, platform_id=bytes(range(16)), cpusvn=bytes([7] * 16), padding=bytes(4)
    ).to_bytes()
    host.files[QCNL_CONFIG] = (
        b'{\n  // *** ATTENTION\n  "pccs_url": "https://localhost:8081/sgx/certification/v4/"\n'
        b'  ,"use_secure_cert": false\n  //,"local_pck_url": "http://localhost/"\n  ,"retry_times": 6\n}\n'
    )
    host.pages[PCCS_URL] = WebAnswer(404, {"request-id": "5f450eb6b06a"}, b"", trusted=False)
    host.pages[f"{PCCS_URL}rootcacrl"] = WebAnswer(200, {}, b"3082", trusted=False)
    host.files[PCCS_CONFIG] = json.dumps(
        {
            "HTTPS_PORT": 8081,
            "hosts": "127.0.0.1",
            "uri": "https://api.trustedservices.intel.com/sgx/certification/v4/",
            "ApiKey": "e1f2d3c4b5a697887766554433221100",
            "UserTokenHash": "ab" * 64,
            "AdminTokenHash": "cd" * 64,
            "CachingFillMode": "LAZY",
        }
    ).encode()
    host.statuses[PCCS_DATABASE] = FileStatus("file", 0o640, "pccs", "pccs", 1 << 20, TAKEN)
    host.files[STATUS_VARIABLE] = REGISTERED
    host.files[MPA_LOG] = (
        b"[04-06-2026 03:05:53] INFO: SGX Registration Agent version: 1.23.100.0\n"
        b"[04-06-2026 03:05:53] INFO: Starts Registration Agent Flow.\n"
        b"[04-06-2026 03:05:54] INFO: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY passed "
        b"successfully.\n[04-06-2026 03:05:54] INFO: Finished Registration Agent Flow.\n"
    )
    host.commands[JOURNAL] = Output(0, "call tee_att_init_quote\ntee_att_init_quote return 0x0\n", "")


def good_spr() -> ScriptedHost:
    """Sapphire Rapids with Canonical's 6.8 kernel: old words in the log, TDX on by default (CT 385)."""
    host = good_emr()
    host.release = "6.8.0-1028-intel"
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel",
        6,
        143,
        "Intel(R) Xeon(R) Platinum 8480CTDX",
        "tme sgx tdx_host_platform",
        "tdx_pw_mce",
    )
    host.files[f"/boot/config-{host.release}"] = b"CONFIG_INTEL_TDX_HOST=y\nCONFIG_X86_SGX=y\n"
    host.log = log(
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, "
        "build_date 20250219, build_num 800",
        "virt/tdx: CMR: [0x100000, 0x77800000)",
        "virt/tdx: 8396820 KB allocated for PAMT",
        "virt/tdx: module initialized",
    )
    host.commands.pop(VIRSH_VERSION)
    host.commands.pop(VIRSH_CAPABILITIES)
    return host


def good_gnr() -> ScriptedHost:
    """Granite Rapids on Fedora: sysfs tells the version, QGS on vsock, no libvirt user of Debian."""
    host = good_emr()
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel", 6, 173, "Intel(R) Xeon(R) 6980P", "tme sgx tdx_host_platform"
    )
    host.files["/sys/devices/faux/tdx_host/version"] = b"2.0.08\n"
    host.log = log(
        "virt/tdx: BIOS enabled: private KeyID range [64, 128)",
        "virt/tdx: Module version: 2.0.08",
        "virt/tdx: TDX-Module initialized",
    )
    host.files["/etc/qgs.conf"] = b"#set port number\nport = 4050\nnumber_threads = 4\n"
    host.statuses["/dev/vsock"] = device("root", "root", 0o666)
    host.peers["2:4050"] = host.peers.pop(QGS_SOCKET)
    host.programs["qemu-system-x86_64"] = "/usr/bin/qemu-system-x86_64"
    return host


def without_root() -> ScriptedHost:
    """The good host, asked by an ordinary user: what root alone may read is forbidden."""
    host = good_emr()
    for number in host.msrs:
        host.msrs[number] = ForbiddenError(
            "/dev/cpu/0/msr may not be used by this user",
            hint=f"sudo modprobe msr && sudo rdmsr -p 0 {number:#x}",
        )
    host.log = ForbiddenError("/dev/kmsg may not be used by this user", hint="sudo dmesg")
    return host


def _module_down(host: ScriptedHost, *lines: str, parameter: str = "N") -> ScriptedHost:
    """KVM without TDX, for the reason that `lines` of the log give."""
    host.kvm[KVM_CAP_VM_TYPES] = 1
    host.files[PARAMETER] = f"{parameter}\n".encode()
    host.files["/sys/fs/cgroup/misc.capacity"] = b"sgx_epc 8589934592\n"
    host.files["/proc/cpuinfo"] = bytes_of(host, "/proc/cpuinfo").replace(b" tdx_host_platform", b"")
    host.log = log(*lines)
    host.commands[VIRSH_CAPABILITIES] = Output(0, "<tdx supported='no'/>\n", "")
    return host


def bytes_of(host: ScriptedHost, path: str) -> bytes:
    data = host.files[path]
    assert isinstance(data, bytes)
    return data


def tme_off() -> ScriptedHost:
    """A BIOS with its defaults: no TME, so no keys and no TDX (TT 228)."""
    host = _module_down(good_emr(), "kvm_intel: tdx: no TDX private KeyIDs available")
    host.msrs |= {0x982: 0b1, 0x87: 0, 0x1401: 0x400}
    return host


def key_split_zero() -> ScriptedHost:
    """TME-MT is on, but all keys are for ordinary machines (CT 382)."""
    host = _module_down(good_emr(), "kvm_intel: tdx: no TDX private KeyIDs available")
    host.msrs |= {0x87: 63, 0x982: 0b0101 << 48 | 6 << 32 | 0b11}
    return host


def module_not_loaded() -> ScriptedHost:
    """Dell R760, all settings right, no module in the BIOS (CT 425)."""
    host = _module_down(
        good_emr(),
        "virt/tdx: BIOS enabled: private KeyID range [1, 64)",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "virt/tdx: module not loaded",
    )
    host.msrs |= {0x87: 63 << 32, 0x1401: 0x3FFFFE000800}
    host.files["/sys/class/dmi/id/sys_vendor"] = b"Dell Inc.\n"
    return host


def module_too_old() -> ScriptedHost:
    """A module 1.0 under a kernel that wants 1.5 (CT 331)."""
    return _module_down(
        good_spr(),
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 0, "
        "build_date 20230206, build_num 457",
        "virt/tdx: CMR: [0x100000, 0x77800000)",
        "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
        "virt/tdx: RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000",
        "virt/tdx: module initialization failed (-5)",
        "kvm_intel: Failed to initialize TDX module.",
    )


def hibernation() -> ScriptedHost:
    """The kernel finds that it could hibernate, and leaves TDX off."""
    host = _module_down(
        good_emr(),
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: initialization failed: Hibernation support is enabled",
        "kvm_intel: tdx: no TDX private KeyIDs available",
    )
    host.files["/proc/cmdline"] = b"root=/dev/sda2 ro kvm_intel.tdx=1\n"
    host.files["/sys/power/disk"] = b"[platform] shutdown reboot suspend test_resume\n"
    return host


def parameter_off() -> ScriptedHost:
    """Upstream's default: nobody has asked kvm_intel for TDX (CT 102, 342)."""
    host = _module_down(
        good_emr(),
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
    )
    host.files["/proc/cmdline"] = b"root=/dev/sda2 ro nohibernate\n"
    return host


def bios_half_configured() -> ScriptedHost:
    """Keys for TDX, SGX left off: the module never starts (CT 260, td-partitioning 1)."""
    host = _module_down(
        good_emr(),
        "tdx: BIOS enabled: private KeyID range [32, 64)",
        "tdx: [firmware bug]: TDX is not enabled by BIOS.",
        "tdx: initialization failed (-19)",
        "kvm_intel: Failed to initialize TDX module.",
    )
    host.msrs[0x3A] = 0x5
    return host


def debian_kernel() -> ScriptedHost:
    """Debian's kernel, which is not built to host TDs (CT 342)."""
    host = _module_down(good_emr())
    host.release = "7.3.4+deb13-amd64"
    host.files[f"/boot/config-{host.release}"] = b"# CONFIG_INTEL_TDX_HOST is not set\nCONFIG_X86_SGX=y\n"
    del host.files[PARAMETER]
    return host


def distro_qemu() -> ScriptedHost:
    """Debian 13's QEMU 10.0, from before TDX (CT 46)."""
    host = good_emr()
    host.commands[PROBE] = qmp("10.0.13", "sev-guest", "sev-snp-guest")
    return host


def qgs_forbidden() -> ScriptedHost:
    """The QGS' socket is 0755, QEMU is another user (KC 13556, DCAP PR 451)."""
    host = good_emr()
    host.statuses[QGS_SOCKET] = FileStatus("socket", 0o755, "qgsd", "qgsd", 0, TAKEN)
    host.files["/etc/group"] = b"root:x:0:\nkvm:x:109:\nsgx_prv:x:108:qgsd\nqgsd:x:990:\n"
    return host


def pccs_without_key() -> ScriptedHost:
    """A PCCS that was installed, but never given a subscription key."""
    host = good_emr()
    host.files[PCCS_CONFIG] = b'{"HTTPS_PORT": 8081, "ApiKey": "", "CachingFillMode": "LAZY"}'
    host.commands[JOURNAL] = no_certificate()
    return host


def no_certificate() -> Output:
    """What qgsd logs for each quote of a platform without certificate (CT 109, 338)."""
    return Output(
        0,
        "call tee_att_init_quote\n[QPL] No certificate data for this "
        "platform.\n[get_platform_quote_cert_data ../td_ql_logic.cpp:302] Error returned from the "
        "p_sgx_get_quote_config API. 0xe011\ntee_att_init_quote return 0x11001\nresp_size is 0\n",
        "",
    )


def unregistered() -> ScriptedHost:
    """The BIOS does not let the agent send the manifest (CT 131, DCAP 226)."""
    host = good_emr()
    host.files[STATUS_VARIABLE] = UNREGISTERED
    host.files[MPA_LOG] = (
        b"[03-06-2026 02:50:04] INFO: SGX MP Server configuration flag indicates that Registration Server "
        b"won't "
        b"save encrypted platform keys.\n[03-06-2026 02:50:04] INFO: Platform registration request "
        b"(PLATFORM_MANIFEST) won't be send to Registration Server.\n"
    )
    host.commands[JOURNAL] = no_certificate()
    return host


def sandbox() -> ScriptedHost:
    """A pre-production CPU, which Intel's production server does not know (DCAP 207)."""
    host = good_spr()
    host.msrs[0xCE] = 0x80080DFBF3813
    host.files[STATUS_VARIABLE] = b"\x06\0\0\0" + struct.pack("<HHHB", 1, 3, 0, 0xA3)
    host.commands[JOURNAL] = no_certificate()
    return host


def amd() -> ScriptedHost:
    """An AMD server with KVM."""
    host = ScriptedHost(release="6.12.0")
    host.kvm[KVM_CAP_VM_TYPES] = 0b11011
    host.files["/proc/cpuinfo"] = cpuinfo(
        "AuthenticAMD", 25, 17, "AMD EPYC 9354 32-Core Processor", "sev sev_es"
    )
    host.programs["apt-get"] = "/usr/bin/apt-get"
    return host


def older_xeon() -> ScriptedHost:
    """Ice Lake: SGX and TME, but no TDX (TT 86)."""
    host = amd()
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel", 6, 106, "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "sgx tme"
    )
    return host


def virtual_machine() -> ScriptedHost:
    """An ordinary cloud instance on a TDX CPU."""
    host = ScriptedHost(release="6.17.0-1003-aws")
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8488C", "hypervisor tme"
    )
    host.files["/sys/class/dmi/id/sys_vendor"] = b"Amazon EC2\n"
    host.programs["apt-get"] = "/usr/bin/apt-get"
    return host


def inside_td() -> ScriptedHost:
    """A TD with a recent kernel."""
    host = ScriptedHost(release="6.18.0")
    host.files["/proc/cpuinfo"] = cpuinfo(
        "GenuineIntel", 6, 207, "INTEL(R) XEON(R) PLATINUM 8568Y+", "hypervisor tdx_guest"
    )
    for path in (
        "/dev/tdx_guest",
        "/sys/kernel/config/tsm/report",
        "/sys/firmware/acpi/tables/CCEL",
        "/sys/devices/virtual/misc/tdx_guest/measurements",
    ):
        host.statuses[path] = device("root", "root", 0o600)
    return host


def container() -> ScriptedHost:
    """A container on the good host without any of its devices."""
    host = good_emr()
    host.kvm.clear()
    for name in list(host.msrs):
        host.msrs[name] = UnansweredError("/dev/cpu/0/msr does not exist", hint="sudo modprobe msr")
    host.log = ForbiddenError("/dev/kmsg may not be used by this user", hint="sudo dmesg")
    host.commands = {}
    host.programs = {}
    host.statuses = {"/sys/module/kvm_intel": host.statuses["/sys/module/kvm_intel"]}
    host.files = {
        name: data for name, data in host.files.items() if name.startswith(("/proc", "/sys/module"))
    }
    return host


def truncated_log() -> ScriptedHost:
    """A long uptime has overwritten the beginning of the log; everything works."""
    host = good_emr()
    host.log = replace(log("usb 1-1: new device", complete=False), lines=("usb 1-1: new device",))
    return host


World = Callable[[], ScriptedHost]

READY: tuple[World, ...] = (good_spr, good_emr, good_gnr, truncated_log)

FIRST_CAUSES: dict[World, str] = {
    tme_off: "bios.tme",
    key_split_zero: "bios.key_split",
    module_not_loaded: "module.loaded",
    module_too_old: "module.version",
    hibernation: "kernel.hibernation",
    parameter_off: "kvm.parameter",
    bios_half_configured: "bios.sgx",
    debian_kernel: "kernel.config",
    distro_qemu: "qemu.tdx",
    qgs_forbidden: "qgs.socket",
    pccs_without_key: "pccs.api_key",
    unregistered: "registration.state",
    sandbox: "cpu.production",
    amd: "cpu.model",
    older_xeon: "cpu.model",
    virtual_machine: "machine.kind",
    inside_td: "machine.kind",
    container: "kvm.device",
}
"""What to repair first, by world."""

ALL: tuple[World, ...] = (*READY, without_root, *FIRST_CAUSES)
