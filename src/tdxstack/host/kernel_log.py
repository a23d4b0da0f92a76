"""What the kernel's log says about TDX, in the words of old and new kernels.

New kernels write "virt/tdx: ..." (Linux 6.8 and newer, arch/x86/virt/vmx/tdx/tdx.c), older trees of Intel and
Canonical "tdx: ..." or "kvm_intel: tdx: ...".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdxstack.host_access import Host, HostError, KernelLog

MAX_LINE = 1024
"""Characters of a line that are looked at; the kernel writes no longer ones (LOG_LINE_MAX)."""

_PREFIX = r"(?:\[[ 0-9.]+\] )?(?:virt/tdx: |tdx: |seam: |kvm_intel: (?:tdx: )?)"
_KEYS = re.compile(_PREFIX + r"BIOS enabled: private KeyID range \[(\d{1,6}), (\d{1,6})\)", re.IGNORECASE)
_VERSION = re.compile(
    _PREFIX + r"(?:TDX[- ])?Module version:? (\d{1,4})\.(\d{1,4})\.(\d{1,4})", re.IGNORECASE
)
_OLD_VERSION = re.compile(
    _PREFIX + r"TDX module: .*major_version (\d{1,4}), minor_version (\d{1,4}), "
    r"build_date (\d{8}), build_num (\d{1,6})",
    re.IGNORECASE,
)
_INITIALIZED = re.compile(_PREFIX + r"(?:TDX[- ])?module initialized", re.IGNORECASE)
_NOT_LOADED = re.compile(_PREFIX + r"(?:TDX )?module (?:is )?not loaded", re.IGNORECASE)
_FAILURE = re.compile(
    _PREFIX + r"(?:TDX module|module)? ?(?:initialization failed|Failed to initialize TDX module).*"
    rf"|{_PREFIX}.*(?:SEAMCALL .*failed: 0x[0-9a-f]+|upgrade TDX module|not enabled by BIOS|"
    r"disabled platform|(?:is|are) required for TDX|no TDX private KeyIDs|requires kvm\.enable_virt_at_load|"
    r"MAX_VCPU_PER_TD).*",
    re.IGNORECASE,
)
_ATTEMPT = re.compile(
    _PREFIX + r"(?:.*module|.*SEAMCALL|.*required for TDX|.*KB allocated for PAMT)|kvm_intel: .*TDX",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, order=True)
class ModuleVersion:
    """The version of a TDX module; `update` is 0 where an old kernel named only the date of the build."""

    major: int
    minor: int
    update: int = 0
    build_date: int = 0
    """As a decimal number, YYYYMMDD; 0 where it is not known."""

    def __str__(self) -> str:
        if self.update:
            return f"{self.major}.{self.minor}.{self.update:02}"
        return (
            f"{self.major}.{self.minor} of {self.build_date}"
            if self.build_date
            else f"{self.major}.{self.minor}"
        )


def key_range(log: KernelLog) -> tuple[int, int] | None:
    """The first private KeyID and the one behind the last; None where the log does not tell."""
    found = _first(_KEYS, log)
    return (int(found[1]), int(found[2])) if found else None


def key_range_of(host: Host) -> tuple[int, int] | None:
    """The same of a host; None also where its log may not be read."""
    try:
        return key_range(host.kernel_log())
    except HostError:
        return None


def module_version(log: KernelLog) -> ModuleVersion | None:
    """The version that the module gave at its start."""
    if found := _first(_VERSION, log):
        return ModuleVersion(int(found[1]), int(found[2]), int(found[3]))
    if found := _first(_OLD_VERSION, log):
        return ModuleVersion(int(found[1]), int(found[2]), build_date=int(found[3]))
    return None


def initialized(log: KernelLog) -> bool:
    """Whether the module has been initialised."""
    return _first(_INITIALIZED, log) is not None


def not_loaded(log: KernelLog) -> bool:
    """Whether the first SEAMCALL found no module."""
    return _first(_NOT_LOADED, log) is not None


def failures(log: KernelLog) -> list[str]:
    """The lines that say what went wrong, without time stamps."""
    found = (_FAILURE.match(line[:MAX_LINE]) for line in log.lines)
    return [match[0].split("] ", 1)[-1] for match in found if match]


def failures_of(host: Host) -> list[str]:
    """The same of a host; none where its log may not be read."""
    try:
        return failures(host.kernel_log())
    except HostError:
        return []


def attempted(log: KernelLog) -> bool:
    """Whether the kernel has tried to start the module, with whatever success."""
    return _first(_ATTEMPT, log) is not None


def _first(pattern: re.Pattern[str], log: KernelLog) -> re.Match[str] | None:
    return next((found for line in log.lines if (found := pattern.match(line[:MAX_LINE]))), None)
