"""The registers of a TD against reference values."""

from __future__ import annotations

from collections.abc import Sequence

from tdxstack.abi.event_log import EVENT_TYPE_NAMES, Event, EventLog
from tdxstack.abi.quote import QuoteBody
from tdxstack.abi.td_body import TdBody10
from tdxstack.measurement.reference import Reference, ReferenceEvent
from tdxstack.measurement.replay import replay
from tdxstack.verification.inputs import Loaded, load
from tdxstack.verification.result import Check, fail, judged, ok, unknown

REFERENCE_CHECKS = ("reference.*",)
"""The ids of the checks of `check_reference`; `*` stands for a register's name."""

NO_LOG = "its events are pinned, not its value: the event log is needed"


def check_reference(
    reference: Reference, body: QuoteBody | None, event_log: bytes | None
) -> tuple[Check, ...]:
    """reference.REGISTER for each register that `reference` speaks of.

    Pinned events are looked for in the log, which counts only if it replays to the register in `body`; all
    events of the register must be there, in order, and no others. Unknown where body or log is missing.
    """
    log = Loaded(None, NO_LOG) if event_log is None else load(lambda: EventLog.parse(event_log))
    checks = [_check_value(name, values, body) for name, values in reference.registers.items()]
    checks += [_check_events(name, events, body, log) for name, events in reference.events.items()]
    return tuple(sorted(checks, key=lambda check: check.id))


def _check_value(name: str, values: Sequence[bytes], body: QuoteBody | None) -> Check:
    check_id = f"reference.{name}"
    measured = _register(name, body)
    if measured is None:
        return unknown(check_id, "the quote has no such register")
    expected = " or ".join(value.hex() for value in values)
    detail = "this is not what the reference describes; `tdx compare` with its prediction says why"
    return judged(check_id, measured in values, expected, measured.hex(), detail)


def _check_events(
    name: str, events: Sequence[ReferenceEvent], body: QuoteBody | None, log: Loaded[EventLog]
) -> Check:
    check_id = f"reference.{name}"
    measured = _register(name, body)
    if measured is None:
        return unknown(check_id, "the quote has no such register")
    if log.value is None:
        return unknown(check_id, log.problem)
    number = int(name.removeprefix("rtmr")) if name.startswith("rtmr") else None
    if number is None:
        return unknown(check_id, f"{name.upper()} has no events; pin its value")
    replayed = log.then(lambda parsed: replay(parsed.events))
    if replayed.value is None or replayed.value[number] != measured:
        return fail(
            check_id, measured.hex(), "", replayed.problem or "the event log is not the one of this boot"
        )
    logged = [event for event in log.value.events if event.extends and event.mr_index == number + 1]
    return _compare(check_id, events, logged)


def _compare(check_id: str, events: Sequence[ReferenceEvent], logged: Sequence[Event]) -> Check:
    for place, (expected, found) in enumerate(zip(events, logged, strict=False)):
        digest = found.digest()
        if found.type != expected.type or expected.digest not in (None, digest):
            wanted = expected.digest.hex() if expected.digest is not None else "any digest"
            return fail(
                check_id,
                f"{EVENT_TYPE_NAMES[expected.type]} {wanted}",
                f"{found.type_name} {digest.hex() if digest else 'without SHA-384'}",
                f"event {place} of the register should be: {expected.meaning}",
            )
    if len(events) != len(logged):
        return fail(check_id, f"{len(events)} events", f"{len(logged)} events", "the boot took another way")
    open_ = sum(event.digest is None for event in events)
    words = f"{len(events)} events" + (f", {open_} of them with any digest" if open_ else "")
    return ok(check_id, words, words)


def _register(name: str, body: QuoteBody | None) -> bytes | None:
    return getattr(body, name) if isinstance(body, TdBody10) else None
