"""The RTMRs, replayed from an event log.

Source: Intel TDX module ABI specification, TDG.MR.RTMR.EXTEND.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tdxstack.abi.event_log import ALG_SHA384, SHA384_SIZE, Event
from tdxstack.errors import MalformedError

REGISTER_NAMES = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
RTMR_COUNT = 4

Rtmrs = tuple[bytes, bytes, bytes, bytes]


def extend(register: bytes, digest: bytes) -> bytes:
    """A register of 48 bytes after it was extended with a SHA-384 digest."""
    return hashlib.sha384(register + digest).digest()


def replay(events: Iterable[Event]) -> Rtmrs:
    """RTMR0 to RTMR3 after all `events`, starting from zero.

    Events of type EV_NO_ACTION are skipped: they were never extended. Raises `MalformedError` for an
    event that names no RTMR or carries no SHA-384 digest, as then this is not the log of a TD.
    RTMR3 and later extensions of the others by running software leave no event, see `compare`.
    """
    registers = [bytes(SHA384_SIZE)] * RTMR_COUNT
    for number, event in enumerate(events):
        if not event.extends:
            continue
        digest = event.digest(ALG_SHA384)
        if not 1 <= event.mr_index <= RTMR_COUNT:
            raise MalformedError(
                f"event {number} ({event.type_name}) names register {event.mr_index},"
                f" a TD's are 1 to {RTMR_COUNT} (RTMR0 to RTMR3)",
                hint="give the event log of a TD, not one of a TPM",
            )
        if digest is None or len(digest) != SHA384_SIZE:
            raise MalformedError(
                f"event {number} ({event.type_name}) has no SHA-384 digest", hint="give the event log of a TD"
            )
        registers[event.mr_index - 1] = extend(registers[event.mr_index - 1], digest)
    return (registers[0], registers[1], registers[2], registers[3])
