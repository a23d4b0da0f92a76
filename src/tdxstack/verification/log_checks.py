"""What an event log says, against the registers of the TD that it comes with."""

from __future__ import annotations

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import QuoteBody
from tdxstack.abi.td_body import TdBody10
from tdxstack.measurement.digests import check_digest
from tdxstack.measurement.replay import replay
from tdxstack.verification.inputs import Loaded, load
from tdxstack.verification.result import Check, Status, fail, judged, ok, unknown


def check_event_log(data: bytes, body: QuoteBody) -> tuple[Check, ...]:
    """event_log.format, event_log.digests and rtmr0.replay to rtmr3.replay of a log and a quote's body.

    RTMR3 is extended by running software, which writes no event into the log: that it differs is told, and
    does not fail.
    """
    log = load(lambda: EventLog.parse(data))
    rtmrs = log.then(lambda parsed: replay(parsed.events))
    problem = rtmrs.problem or "an SGX quote has no RTMRs"
    measured = body.rtmrs if isinstance(body, TdBody10) else (None,) * 4
    replayed = rtmrs.value or (None,) * 4
    return (
        check_log_format(log),
        check_log_digests(log),
        *(check_replay(number, replayed[number], measured[number], problem) for number in range(3)),
        _check_rtmr3(replayed[3], measured[3], problem),
    )


def check_log_format(log: Loaded[EventLog]) -> Check:
    """event_log.format: the log can be read to its end."""
    expected = "a crypto-agile event log with SHA-384"
    if log.value is None:
        return fail("event_log.format", expected, "none", log.problem)
    agile = log.value.spec_id is not None
    found = f"{'crypto-agile' if agile else 'legacy'}, {len(log.value.events) + agile} events"
    return judged("event_log.format", agile, expected, found, "TDs write crypto-agile logs only")


def check_log_digests(log: Loaded[EventLog]) -> Check:
    """event_log.digests: where an event's data is what was hashed, its digest is the data's."""
    if log.value is None:
        return unknown("event_log.digests", log.problem)
    first = 0 if log.value.spec_id is None else 1  # the header of a crypto-agile log is its event 0
    wrong = [
        f"event {number} ({event.type_name})"
        for number, event in enumerate(log.value.events, first)
        if check_digest(event).status == "fail"
    ]
    return judged(
        "event_log.digests",
        not wrong,
        "digests of the logged data",
        ", ".join(wrong) if wrong else "all that the log can show agree",
        "the log tells something else than what was measured",
    )


def check_replay(number: int, expected: bytes | None, measured: bytes | None, problem: str) -> Check:
    """rtmrN.replay: the register is what the log's events give; unknown for `problem` if one is not known."""
    check_id = f"rtmr{number}.replay"
    if expected is None or measured is None:
        return unknown(check_id, problem)
    return judged(
        check_id,
        expected == measured,
        expected.hex(),
        measured.hex(),
        "the event log is not the one of this boot, or software has extended the register without an event",
    )


def _check_rtmr3(expected: bytes | None, measured: bytes | None, problem: str) -> Check:
    if expected is None or measured is None:
        return unknown("rtmr3.replay", problem)
    if expected == measured:
        return ok("rtmr3.replay", expected.hex(), measured.hex())
    detail = "software in the TD has extended it, which leaves no event in this log"
    return Check("rtmr3.replay", Status.WARNING, expected.hex(), measured.hex(), detail)
