"""The parts of a machine's specification. docs/reference/machine-spec.md describes every field."""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from tdxstack.machine import kernel_command_line
from tdxstack.machine.spec_values import (
    DIGEST_SIZE,
    FORWARD_TEXT,
    Cpus,
    Digest,
    FilePath,
    Ipv4,
    Line,
    Mac,
    MiB,
    QuoteService,
)

ZERO_DIGEST: Final = bytes(DIGEST_SIZE)


class Kind(enum.Enum):
    """What the machine is: a Trust Domain, an ordinary machine with UEFI firmware, or one with a BIOS."""

    TD = "td"
    EFI = "efi"
    LEGACY = "legacy"


class PageTracking(enum.Enum):
    """`sept`: whether a wrong use of private or shared pages ends the TD, is reported, or passes."""

    OFF = "off"
    ON = "on"
    LOG = "log"


class DiskFormat(enum.Enum):
    """How a disk image is written."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Console(enum.Enum):
    """What the guest's console is: the first serial port, or a virtio console (hvc0)."""

    SERIAL = "serial"
    VIRTIO = "virtio"


Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
PciAddress = Annotated[str, Field(pattern=r"^([0-9a-f]{4}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$")]


class Part(BaseModel):
    """Something that people write: no other keys, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Topology(Part):
    """How vCPUs are arranged; their product is the number of vCPUs."""

    sockets: Count = 1
    cores: Count = 1
    threads: Count = 1

    @property
    def vcpus(self) -> int:
        return self.sockets * self.cores * self.threads


class Cpu(Part):
    """The CPU that the guest sees."""

    model: Name | None = None
    """QEMU's name of it; None for the host's on KVM and all that TCG has elsewhere."""
    features: dict[Name, bool] = {}
    """CPUID features by QEMU's names, on or off."""
    tsc_frequency: Count | None = None
    """Hz; None for the host's."""


class NumaNode(Part):
    """One NUMA node of the guest."""

    vcpus: Cpus
    memory: Annotated[MiB, Field(ge=1)]
    host_nodes: Cpus = ()
    """Nodes of the host that its memory is bound to; empty for any."""


class DirectKernel(Part):
    """A kernel that QEMU hands to the firmware instead of one on a disk."""

    kernel: FilePath
    initrd: FilePath | None = None
    command_line: Line = ""
    set: dict[str, Line] = {}
    """Fields of the command line to give a value, or "" for none; each once."""
    remove: tuple[str, ...] = ()
    """Fields to take out of the command line."""

    @property
    def arguments(self) -> str:
        """The command line as edited."""
        return kernel_command_line.edit(self.command_line, set_=self.set, remove=self.remove)


class UnifiedKernel(Part):
    """A unified kernel image (UKI) that QEMU hands to the firmware."""

    image: FilePath
    command_line: Line = ""
    """Given to it; a UKI under Secure Boot takes none but its own."""


class Disk(Part):
    """A disk of the guest."""

    path: FilePath
    format: DiskFormat | None = None
    """None: that of the suffix (.qcow2, .raw, .img, .iso), or, below an overlay, what the image says."""
    overlay: bool = True
    """The file is never written: writes go to an overlay that belongs to the machine."""
    read_only: bool = False
    """The guest cannot write."""
    serial: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,20}$")] | None = None

    @property
    def has_overlay(self) -> bool:
        return self.overlay and not self.read_only

    @property
    def known_format(self) -> DiskFormat | None:
        """The format as said or as the suffix says."""
        return self.format or _SUFFIXES.get(self.path.suffix)


_SUFFIXES: Final = {
    ".qcow2": DiskFormat.QCOW2,
    ".raw": DiskFormat.RAW,
    ".img": DiskFormat.RAW,
    ".iso": DiskFormat.RAW,
}


class Forward(Part):
    """A port of the host that leads to one of the guest."""

    host: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: one that is free."""
    guest: Port
    protocol: Literal["tcp", "udp"] = "tcp"
    address: Ipv4 = "127.0.0.1"
    """The host's address that it listens on."""


class Nic(Part):
    """A network card."""

    type: Literal["user", "tap", "bridge"] = "user"
    """`user`: QEMU's own network, without privileges. `tap`: a device that is there. `bridge`: one made on a
    bridge by QEMU's helper."""
    forwards: tuple[Annotated[Forward, FORWARD_TEXT], ...] = ()
    """A first user network always leads to the guest's SSH, from a free port unless one is said here."""
    interface: Annotated[str, Field(pattern=r"^[^\s/,]{1,15}$")] | None = None
    """Of a tap."""
    bridge: Annotated[str, Field(pattern=r"^[^\s/,]{1,15}$")] | None = None
    mac: Mac | None = None
    """None: made of the machine's name, or QEMU's on a user network, which no other machine can see."""


class Vsock(Part):
    """A vsock device."""

    cid: Annotated[int, Field(ge=3, lt=(1 << 32) - 1)] | None = None
    """The guest's context identifier; None for one that is free."""


class Td(Part):
    """What a TD is launched with."""

    debug: bool = False
    sept_ve_disable: bool = True
    pks: bool = False
    perfmon: bool = False
    mrconfigid: Digest = ZERO_DIGEST
    mrowner: Digest = ZERO_DIGEST
    mrownerconfig: Digest = ZERO_DIGEST
    quote_service: QuoteService | None = None
    """None: the platform's own."""


class Emulation(Part):
    """How strictly the emulator holds a TD to what a TD may do."""

    ve: bool = False
    """Inject #VE as the TDX module does."""
    sept: PageTracking = PageTracking.OFF


class EpcSection(Part):
    """A section of SGX enclave memory."""

    size: Annotated[MiB, Field(ge=1)]
    prealloc: bool = True
    node: Annotated[int, Field(ge=0)] | None = None
    """NUMA node of the guest that it belongs to."""


SmbiosField = Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]


class Smbios(Part):
    """Strings of the guest's SMBIOS tables, by QEMU's names of the fields."""

    bios: dict[SmbiosField, Line] = {}
    system: dict[SmbiosField, Line] = {}
    board: dict[SmbiosField, Line] = {}
    chassis: dict[SmbiosField, Line] = {}
    oem_strings: tuple[Line, ...] = ()


class FwCfgItem(Part):
    """An item of fw_cfg: a text, which anyone who lists processes can read, or a file."""

    name: Annotated[str, Field(pattern=r"^opt/[\x21-\x2b\x2d-\x7e]{1,51}$")]
    text: Line | None = None
    file: FilePath | None = None
