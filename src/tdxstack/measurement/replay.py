"""The RTMRs, replayed from an event log.

Source: Intel TDX module ABI specification, TDG.MR.RTMR.EXTEND.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha384

from tdxstack.abi.event_log import ALG_SHA384, EV_NO_ACTION, SHA384_SIZE, Event
from tdxstack.errors import MalformedError

REGISTER_NAMES = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
RTMR_COUNT = 4

Rtmrs = tuple[bytes, bytes, bytes, bytes]


def extend(register: bytes, digest: bytes) -> bytes:
    """A register of 48 bytes after it was extended with a SHA-384 digest."""
    return sha384(register + digest).digest()


def replay(events: Iterable[Event]) -> Rtmrs:
    """RTMR0 to RTMR3 after all `events`, starting from zero.

    Events of type EV_NO_ACTION are skipped: they were never extended. Raises `MalformedError` for an
    event that names no RTMR or carries no SHA-384 digest, as then this is not the log of a TD.
    RTMR3 and later extensions of the others by running software leave no event, see `compare`.
    """
    registers = [bytes(SHA384_SIZE)] * (RTMR_COUNT + 1)
    for number, event in enumerate(events):
        if event.type == EV_NO_ACTION:
            continue
        index = event.mr_index
        if not 1 <= index <= RTMR_COUNT:
            raise MalformedError(
                f"event {number} ({event.type_name}) names register {index},"
                f" a TD's are 1 to {RTMR_COUNT} (RTMR0 to RTMR3)",
                hint="give the event log of a TD, not one of a TPM",
            )
        for algorithm, digest in event.digests:
            if algorithm == ALG_SHA384 and len(digest) == SHA384_SIZE:
                break
        else:
            raise MalformedError(
                f"event {number} ({event.type_name}) has no SHA-384 digest", hint="give the event log of a TD"
            )
        registers[index] = sha384(registers[index] + digest).digest()
    return (registers[1], registers[2], registers[3], registers[4])
