"""The TDX module that runs on a host, as far as the host says.

Source: Linux Documentation/ABI/testing/sysfs-devices-faux-tdx-host; else the kernel's log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tdxstack.errors import MalformedError
from tdxstack.host.checks.processor import INTEL, Processor
from tdxstack.host.kernel_log import module_version
from tdxstack.host.module import Releases, version_key
from tdxstack.host_access import AbsentError, Host, HostError

SYSFS: Final = "/sys/devices/faux/tdx_host"
UPDATE_INTERFACE: Final = "/sys/class/firmware/tdx_module"


@dataclass(frozen=True, slots=True)
class RunningModule:
    """What is known. Empty strings and None are unknown; `reasons` says why, with the command to ask."""

    version: str = ""
    known_from: str = ""
    svn: tuple[int, int] | None = None
    seamldr_version: str = ""
    remaining_updates: int | None = None
    runtime_update: bool = False
    """Whether the kernel offers to replace the module while it runs."""
    cpu: int | None = None
    """CPUID.1:EAX; None also where the CPU is not Intel's."""
    reasons: dict[str, str] = field(default_factory=dict)


def ask_running(host: Host, releases: Releases) -> RunningModule:
    """Ask a host for its TDX module, its SEAM loader and its CPU."""
    reasons: dict[str, str] = {}
    version, known_from = _version(host, releases, reasons)
    release = releases.of_version(version) if version else None
    remaining = _line(host, f"{SYSFS}/num_remaining_updates", "remaining_updates", reasons)
    return RunningModule(
        version=version,
        known_from=known_from,
        svn=release.svn if release else None,
        seamldr_version=_version_file(host, "seamldr_version", reasons),
        remaining_updates=int(remaining) if remaining.isdecimal() and remaining.isascii() else None,
        runtime_update=_exists(host, UPDATE_INTERFACE),
        cpu=_cpu(host, reasons),
        reasons=reasons,
    )


def _version(host: Host, releases: Releases, reasons: dict[str, str]) -> tuple[str, str]:
    said = _version_file(host, "version", reasons)
    if said:
        return said, f"{SYSFS}/version"
    try:
        log = host.kernel_log()
    except HostError as error:
        reasons["version"] = f"{error.message}; {error.hint}"
        return "", ""
    said_so = module_version(log)
    if said_so is None:
        if not log.complete:
            reasons["version"] = "the kernel's log has lost its beginning; journalctl -k -b -g virt/tdx"
        return "", ""
    reasons.pop("version", None)
    if said_so.update:
        return str(said_so), log.source
    release = releases.built_on(said_so.build_date)
    if release is None:
        reasons["version"] = f"no published module is {said_so}"
        return "", ""
    return release.version, f"{said_so} in {log.source}"


def _version_file(host: Host, name: str, reasons: dict[str, str]) -> str:
    """A version that the kernel shows; empty where it shows none."""
    said = _line(host, f"{SYSFS}/{name}", name, reasons)
    if not said:
        return ""
    try:
        version_key(said)
    except MalformedError as error:
        reasons[name] = error.message
        return ""
    return said


def _line(host: Host, path: str, name: str, reasons: dict[str, str]) -> str:
    """The one line of a file of the kernel; empty where there is none."""
    try:
        return host.read(path).decode("ascii", "replace").strip()[:64]
    except AbsentError:
        reasons[name] = f"{path} does not exist: the kernel does not tell, or no TDX module is initialised"
    except HostError as error:
        reasons[name] = f"{error.message}; {error.hint}"
    return ""


def _exists(host: Host, path: str) -> bool:
    try:
        host.status(path)
    except HostError:
        return False
    return True


def _cpu(host: Host, reasons: dict[str, str]) -> int | None:
    """CPUID.1:EAX of the first CPU, put together from what the kernel shows to everybody."""
    try:
        cpu = Processor.of(host)
    except HostError as error:
        reasons["cpu"] = f"{error.message}; {error.hint}"
        return None
    if cpu.vendor != INTEL:
        reasons["cpu"] = f"the CPU is of {cpu.vendor[:40] or 'no known vendor'}, not of {INTEL}"
        return None
    if not cpu.family:
        reasons["cpu"] = "/proc/cpuinfo names no family, model and stepping"
        return None
    base, more = (cpu.family, 0) if cpu.family < 0xF else (0xF, cpu.family - 0xF)
    model = (cpu.model & 0xF) << 4 | (cpu.model >> 4 & 0xF) << 16
    return cpu.stepping & 0xF | model | base << 8 | (more & 0xFF) << 20
