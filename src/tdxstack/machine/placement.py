"""With what a specified machine runs here: everything that is found, made or allocated for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tdxstack.machine.spec_values import QuoteAddress
from tdxstack.platform import Platform


@dataclass(frozen=True, slots=True)
class EmulatedSilicon:
    """What the emulator is told about the silicon that it stands in for."""

    mac_key: Path
    """File of 32 bytes: the key of the TDREPORT MAC, which the emulated quoting enclave shares."""
    mrseam: bytes
    """48 bytes."""
    cpusvn: bytes
    """16 bytes."""
    tee_tcb_svn: bytes
    """16 bytes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and with what one machine runs."""

    platform: Platform
    """Hardware runs on KVM, emulated on TCG; machines that are no TDs too."""
    qemu: tuple[str, ...]
    """Program and leading arguments (`-L` for its data)."""
    firmware: Path | None
    """None for the BIOS that QEMU brings."""
    authorized_key: str
    """SSH public key that may enter, one line."""
    silicon: EmulatedSilicon | None = None
    """Of an emulated TD."""
    quote_service: QuoteAddress | None = None
    """The platform's own, for a TD whose specification names none."""
    variables: Path | None = None
    """The machine's own copy of the variables of a firmware in flash."""
    vsock_cid: int | None = None
    """Allocated, for a vsock device without one of its own."""
    macs: Mapping[int, str] = field(default_factory=dict)
    """Allocated, by the number of the card in `MachineSpec.nics`. A card without has what QEMU gives it."""
    td_can_reset: bool = False
    """Whether this QEMU can reset a TD on hardware; else a TD that is reset ends."""
