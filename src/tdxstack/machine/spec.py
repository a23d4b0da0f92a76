"""What a machine is to be, before anything runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.machine.store import check_name
from tdxstack.platform import Platform

MIN_MEMORY_MIB = 512
MAX_VCPUS = 255
DIGEST_SIZE = 48
"""Bytes in MRCONFIGID, MROWNER and MROWNERCONFIG (SHA-384 sized)."""


def check_size(vcpus: int, memory_mib: int) -> None:
    """Raise `UsageError` for a machine that no QEMU could start or no guest could use."""
    if memory_mib < MIN_MEMORY_MIB:
        raise UsageError(
            f"{memory_mib} MiB of memory is too little", hint=f"give at least {MIN_MEMORY_MIB} MiB"
        )
    if not 1 <= vcpus <= MAX_VCPUS:
        raise UsageError(f"{vcpus} vCPUs is out of range", hint=f"give 1 to {MAX_VCPUS}")


class PageTracking(enum.Enum):
    """`sept=`: whether a wrong use of private or shared pages ends the TD, is reported, or passes."""

    OFF = "off"
    ON = "on"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class TdSettings:
    """What a TD is launched with, on either platform."""

    debug: bool = False
    mrconfigid: bytes = bytes(DIGEST_SIZE)
    mrowner: bytes = bytes(DIGEST_SIZE)
    mrownerconfig: bytes = bytes(DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class EmulatedTd:
    """What the emulator is told about the silicon that it stands in for."""

    mac_key: Path
    """File of 32 bytes: the key of the TDREPORT MAC, which the emulated quoting enclave shares."""
    mrseam: bytes
    """48 bytes."""
    cpusvn: bytes
    """16 bytes."""
    tee_tcb_svn: bytes
    """16 bytes."""
    ve: bool = False
    sept: PageTracking = PageTracking.OFF


@dataclass(frozen=True, slots=True)
class DirectKernel:
    """A kernel that the firmware takes from QEMU instead of a disk, with what it is started with."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""

    def __post_init__(self) -> None:
        if "\0" in self.command_line or "\n" in self.command_line:
            raise UsageError("a kernel command line is one line", hint="leave out line breaks")


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine: which program runs it, from which firmware and disk, and how large it is."""

    name: str
    platform: Platform
    qemu: tuple[str, ...]
    """Program and leading arguments (`-L` for its data)."""
    firmware: Path
    disk: Path
    """Base image, qcow2; never written: the machine writes to an overlay."""
    authorized_key: str
    """SSH public key that may enter, one line."""
    direct_kernel: DirectKernel | None = None
    """None to boot what the disk's boot loader says."""
    vcpus: int = 2
    memory_mib: int = 2048
    td: TdSettings | None = field(default_factory=TdSettings)
    """None for an ordinary virtual machine."""
    emulated_td: EmulatedTd | None = None
    quote_socket: Path | None = None

    def __post_init__(self) -> None:
        check_size(self.vcpus, self.memory_mib)
        check_name(self.name)
        if self.td is not None and (self.platform is Platform.EMULATED) != (self.emulated_td is not None):
            raise UsageError("an emulated TD needs the emulator's settings, a hardware TD takes none")
        if self.td is not None and self.td.debug and self.platform is Platform.HARDWARE:
            raise UsageError(
                "upstream QEMU refuses the DEBUG attribute of a TD",
                hint="use --platform emulated for debug TDs",
            )
