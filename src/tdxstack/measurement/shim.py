"""What shim measures: its key lists, and who verified the program that it starts.

Source: rhboot/shim: mok.c, sbat.c, cert.S, tpm.c. All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tdxstack.abi import event_log
from tdxstack.errors import MalformedError
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent, hashed
from tdxstack.measurement.pe import Image

SHIM = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
VENDOR_SECTION, LEVEL_SECTION = ".vendor_cert", ".sbatlevel"
VENDOR_HEADER_SIZE, LEVEL_HEADER_SIZE = 16, 4
ORIGINAL_LEVEL = b"sbat,1,2021030218\n"
"""What shim sets SbatLevel to where Secure Boot is off."""
MOK_LIST_TRUSTED = b"\1"

HINT = "give shim as its project builds it"


@dataclass(frozen=True, slots=True)
class Shim:
    """What a shim brings along: its vendor's keys and revocations, and the SBAT level that it sets."""

    vendor_keys: bytes
    """A certificate (DER), or a list of signature lists."""
    vendor_revocations: bytes
    level: bytes

    @classmethod
    def parse(cls, image: Image) -> Shim | None:
        """Read it out of a program; None for another one. Raises `MalformedError` for a broken shim."""
        vendor, levels = image.section(VENDOR_SECTION), image.section(LEVEL_SECTION)
        if vendor is None:
            return None
        keys_size, revoked_size, keys, revoked = (
            int.from_bytes(vendor[at : at + 4], "little") for at in range(0, VENDOR_HEADER_SIZE, 4)
        )
        if max(keys + keys_size, revoked + revoked_size) > len(vendor) or levels is None:
            raise MalformedError("shim: its keys or its SBAT level are not where they should be", hint=HINT)
        # Two offsets, counted from behind the first field: the level to keep to, and the newest one.
        start = LEVEL_HEADER_SIZE + int.from_bytes(levels[4:8], "little")
        level = levels[start:].partition(b"\0")[0]
        return cls(vendor[keys : keys + keys_size], vendor[revoked : revoked + revoked_size], level)


def shim_events(shim: Shim, mok_list: bytes, *, secure_boot: bool) -> list[ExpectedEvent]:
    """What shim logs of itself before it loads a program. `mok_list` are its keys as signature lists."""
    level = shim.level if secure_boot else ORIGINAL_LEVEL
    return [
        *([_state("MokList", mok_list)] if mok_list else []),
        *([_state("MokListX", shim.vendor_revocations)] if shim.vendor_revocations else []),
        authority_event(UefiVariable(SHIM, "SbatLevel", level), "shim's SBAT level", "shim"),
        _state("MokListTrusted", MOK_LIST_TRUSTED),
    ]


def authority_event(variable: UefiVariable, meaning: str, source: str) -> ExpectedEvent:
    """An entry of a key database that let a program start, or a level that it was held to."""
    data = variable.to_bytes()
    return hashed("rtmr0", event_log.EV_EFI_VARIABLE_AUTHORITY, data, meaning, source, data=data)


def _state(name: str, data: bytes) -> ExpectedEvent:
    return hashed("rtmr2", event_log.EV_IPL, data, f"shim's {name}", "shim")
