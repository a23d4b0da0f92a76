"""Whether the digest of an event is that of the data logged with it.

A register proves the digests of a log, not its texts. For some event types the digest covers the
logged data, so that the texts are proven too; for others (PE images, ACPI tables, files) the data
only describes what was hashed.
Sources: TCG PC Client Platform Firmware Profile 1.06, section 10.4; edk2 SecurityPkg and OvmfPkg;
GRUB grub-core/commands/tpm.c.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from tdxstack.abi import aael, event_log
from tdxstack.abi.event_log import Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.event_data import UefiVariable

Status = Literal["ok", "fail", "unknown", "not_applicable"]

DATA_IS_HASHED = frozenset(
    {
        event_log.EV_SEPARATOR,
        event_log.EV_ACTION,
        event_log.EV_S_CRTM_VERSION,
        event_log.EV_EFI_ACTION,
        event_log.EV_EFI_GPT_EVENT,
        event_log.EV_EFI_VARIABLE_DRIVER_CONFIG,
        event_log.EV_EFI_VARIABLE_BOOT2,
        event_log.EV_EFI_VARIABLE_AUTHORITY,
    }
)

AAEL_TAG = aael.TAG.to_bytes(4, "little")
GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")


@dataclass(frozen=True, slots=True)
class DigestCheck:
    """Outcome for one event.

    status: `ok`, the digest is that of the logged data; `fail`, it should be and is not; `unknown`,
    it covers something that is not in the log; `not_applicable`, the event was not extended or has
    no SHA-384 digest.
    expected: the digest computed from the log, where there is one.
    """

    status: Status
    expected: bytes | None = None
    found: bytes | None = None


def check_digest(event: Event) -> DigestCheck:
    """Compare an event's SHA-384 digest with its data."""
    found = event.digest()
    if found is None or not event.extends:
        return DigestCheck("not_applicable")
    candidates = [hashlib.sha384(data).digest() for data in _hashed(event)]
    if found in candidates:
        return DigestCheck("ok", found, found)
    if candidates:
        return DigestCheck("fail", candidates[0], found)
    return DigestCheck("unknown", None, found)


def _hashed(event: Event) -> tuple[bytes, ...]:
    """What the digest may cover, the usual first; empty where that is not in the log."""
    if event.type in DATA_IS_HASHED:
        return (event.data,)
    if event.type == event_log.EV_EFI_VARIABLE_BOOT:
        try:
            variable = UefiVariable.parse(event.data)
        except MalformedError:
            return (event.data,)
        return (variable.data, event.data)  # edk2 hashes the value alone, the specification asks for all
    if event.type == event_log.EV_EVENT_TAG and event.data.startswith(AAEL_TAG):
        return (event.data, event.data[8:])  # the log in text form hashes the text alone
    if event.type == event_log.EV_IPL:
        for prefix in GRUB_PREFIXES:
            if event.data.startswith(prefix):
                text = event.data[len(prefix) :]
                return (text.removesuffix(b"\0"), text)
    return ()
