"""The log that the attestation agent of Confidential Containers keeps of what it extends RTMR3 with (AAEL).

Source: confidential-containers/guest-components, `attestation-agent/attestation-agent/src/eventlog/`:
`tcg2.rs` since 2025, text lines (`mod.rs`) before.
"""

from __future__ import annotations

import hashlib
import re

from tdxstack.abi.event_log import ALG_SHA384, DAMAGED, EV_EVENT_TAG, MAX_DIGESTS, Event, agile_events
from tdxstack.errors import MalformedError

TAG = 0x4141454C
"""The tag of its EV_EVENT_TAG events, the letters AAEL as a number."""

ALG_SHA256, ALG_SHA512, ALG_SM3 = 0x000B, 0x000D, 0x0012
_SIZES = {ALG_SHA256: 32, ALG_SHA384: 48, ALG_SHA512: 64, ALG_SM3: 32}

RTMR3_INDEX = 4

_ALGORITHMS = {b"sha256": ALG_SHA256, b"sha384": ALG_SHA384, b"sha512": ALG_SHA512}
_INIT = re.compile(rb"INIT (sha256|sha384|sha512)/[0-9a-f]+\n?")


def is_aael(data: bytes) -> bool:
    """Whether `data` starts as such a log does, in either form."""
    return _INIT.match(data) is not None or _is_binary(data)


def _is_binary(data: bytes) -> bool:
    kind, count = data[4:8], data[8:12]
    size = _SIZES.get(int.from_bytes(data[12:14], "little"), 0)
    tag = data[14 + size + 4 : 14 + size + 8]
    return (kind, count, tag) == (b"\6\0\0\0", b"\1\0\0\0", TAG.to_bytes(4, "little"))


def parse_aael(data: bytes) -> tuple[Event, ...]:
    """The events of the log.

    Binary form: TCG_PCR_EVENT2s without a header event. Text form: a line an event, extended as the line's
    digest in the algorithm that the first line names; each is given as the binary form would have it.
    Raises `MalformedError` on anything else.
    """
    if not _is_binary(data):
        return _text_events(data)
    events, end = agile_events(data, 0, _SIZES)
    if end != len(data):
        raise MalformedError(f"AAEL: {len(data) - end} bytes at offset {end} are no event", hint=DAMAGED)
    return tuple(events)


def _text_events(data: bytes) -> tuple[Event, ...]:
    first = _INIT.match(data)
    if first is None:
        raise MalformedError(
            "AAEL: no INIT line and no AAEL event at offset 0",
            hint="give /run/attestation-agent/eventlog of a pod or virtual machine",
        )
    algorithm = first[1].decode("ascii")
    lines = data.removesuffix(b"\n").split(b"\n", MAX_DIGESTS)
    if len(lines) > MAX_DIGESTS:
        raise MalformedError(f"AAEL: more than {MAX_DIGESTS} lines", hint=DAMAGED)
    return tuple(
        Event(
            RTMR3_INDEX,
            EV_EVENT_TAG,
            ((_ALGORITHMS[first[1]], hashlib.new(algorithm, line).digest()),),
            TAG.to_bytes(4, "little") + len(line).to_bytes(4, "little") + line,
        )
        for line in lines
    )
