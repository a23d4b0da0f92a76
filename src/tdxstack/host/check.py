"""What a check of the host is, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from tdxstack.host_access import Host, HostError
from tdxstack.verification.result import Status

ENABLING_GUIDE = "https://cc-enabling.trustedservices.intel.com/intel-tdx-enabling-guide/"
KERNEL_GUIDE = "https://docs.kernel.org/arch/x86/tdx.html"
KVM_GUIDE = "https://docs.kernel.org/virt/kvm/x86/intel-tdx.html"
BIOS_GUIDE = "https://github.com/canonical/tdx#step-4-3"


class Purpose(StrEnum):
    """What fails without what a check looks at."""

    LAUNCH = "launch"
    ATTEST = "attest"
    ADVICE = "advice"
    EMULATE = "emulate"
    GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a diagnosis depends on besides the host.

    `network` allows asking other machines; `emulator` is the version of the QEMU that is built for the
    emulated platform, empty where none is.
    """

    now: datetime
    network: bool = False
    emulator: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found; `cause` and `fix` are for people, `fix` is a command or a BIOS menu path."""

    status: Status
    found: str
    cause: str = ""
    fix: str = ""


class Check(ABC):
    """One question to the host.

    `needs` names the checks without which this one cannot pass: where one of those fails, a failure here is
    its consequence. `proved_by` names checks that can only pass if this one would: where one of those passes,
    it does not matter that this one could not be made. Where a `gate` fails, what needs it is not looked at.
    """

    id: ClassVar[str]
    purpose: ClassVar[Purpose]
    looks_at: ClassVar[str]
    expected: ClassVar[str]
    why: ClassVar[str]
    fix: ClassVar[str]
    link: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    proved_by: ClassVar[tuple[str, ...]] = ()
    gate: ClassVar[bool] = False

    @abstractmethod
    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        """Look. A `HostError` that it lets through becomes the status `unknown`."""

    def look(self, host: Host, circumstances: Circumstances) -> Finding:
        """`examine`, with what could not be read turned into `unknown` and the command that would read it."""
        try:
            return self.examine(host, circumstances)
        except HostError as error:
            return Finding(Status.UNKNOWN, "", error.message, error.hint)

    def ok(self, found: str) -> Finding:
        """It is as expected."""
        return Finding(Status.OK, found)

    def fail(self, found: str, cause: str, fix: str = "") -> Finding:
        """It is not, and TDs or their quotes suffer; `fix` is the check's own where none is given."""
        return Finding(Status.FAIL, found, cause, fix or self.fix)

    def warn(self, found: str, cause: str, fix: str = "") -> Finding:
        """It is not, and TDs run all the same."""
        return Finding(Status.WARNING, found, cause, fix or self.fix)

    def skip(self, reason: str) -> Finding:
        """There is nothing to look at, rightly so."""
        return Finding(Status.NOT_APPLICABLE, "", reason)

    def unsure(self, reason: str, command: str) -> Finding:
        """It could not be seen; `command` would show it."""
        return Finding(Status.UNKNOWN, "", reason, command)


def text(host: Host, path: str) -> str:
    """A file of one line or few, as text."""
    return host.read(path).decode(errors="replace").strip()


def optional(host: Host, path: str) -> str:
    """The same; empty where it cannot be read."""
    try:
        return text(host, path)
    except HostError:
        return ""


def exists(host: Host, path: str) -> bool:
    """Whether there is something at `path`; what may not be seen counts as absent."""
    try:
        host.status(path)
    except HostError:
        return False
    return True
