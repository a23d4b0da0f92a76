"""Inside a TD: whether its own interfaces are there. `tdx guest check` goes on to use them."""

from __future__ import annotations

from typing import ClassVar

from tdxstack.host.check import Check, Circumstances, Finding, Purpose, exists
from tdxstack.host.checks.processor import Processor
from tdxstack.host_access import Host
from tdxstack.verification.result import Status

GUEST_GUIDE = "https://docs.kernel.org/arch/x86/tdx.html#tdx-guest-support"


class _Interface(Check):
    """One interface of the guest's kernel."""

    purpose = Purpose.GUEST
    link = GUEST_GUIDE
    paths: ClassVar[tuple[str, ...]]
    otherwise: ClassVar[Status] = Status.FAIL

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        if "tdx_guest" not in Processor.of(host).flags:
            return self.skip("this is no TD")
        there = [path for path in self.paths if exists(host, path)]
        if there:
            return self.ok(there[0])
        return Finding(self.otherwise, "missing", f"there is no {' and no '.join(self.paths)}", self.fix)


class TdReport(_Interface):
    """The device that gives TDREPORTs."""

    id = "guest.tdreport"
    paths = ("/dev/tdx_guest", "/dev/tdx-guest")
    looks_at = " or ".join(paths)
    expected = "the TD's device exists"
    why = "TDREPORTs, on which quotes rest, come from this device."
    fix = "sudo modprobe tdx_guest; the kernel needs CONFIG_TDX_GUEST_DRIVER"


class Quote(_Interface):
    """The interface that gives quotes."""

    id = "guest.quote"
    paths = ("/sys/kernel/config/tsm/report",)
    looks_at = paths[0]
    expected = "configfs-tsm is mounted"
    why = "Linux gives quotes through configfs-tsm since 6.7; tdx guest check asks for one."
    fix = "sudo mount -t configfs none /sys/kernel/config; sudo modprobe tdx_guest (Linux 6.7 or newer)"


class EventLog(_Interface):
    """The log of what was measured."""

    id = "guest.event_log"
    paths = ("/sys/firmware/acpi/tables/CCEL",)
    looks_at = paths[0]
    expected = "the ACPI table CCEL exists"
    why = "The firmware records in CCEL what it extended into the RTMRs; without it they cannot be explained."
    fix = "start the TD with TDVF, an OVMF built for TDX"


class Registers(_Interface):
    """The registers as files."""

    id = "guest.registers"
    paths = ("/sys/devices/virtual/misc/tdx_guest/measurements",)
    looks_at = paths[0]
    expected = "the measurement registers are files"
    why = "Since Linux 6.16 software in a TD reads and extends RTMRs there."
    fix = "use Linux 6.16 or newer in the TD"
    otherwise = Status.WARNING
