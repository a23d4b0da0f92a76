"""What a cell of the matrix is held against."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence

import pytest

from tdxstack.abi.event_log import ALG_SHA384, EV_IPL, EventLog, SpecId
from tdxstack.errors import MalformedError
from tdxstack.measurement.expected import ExpectedEvent, Prediction, hashed, unknown
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.testing.matrix_run import Booted, compare
from tdxstack.verification.result import Status
from tests.unit.measurement.comparison.logs import RTMR0, RTMR1, event

EVENTS = (hashed("rtmr0", EV_IPL, b"a", "first", ""), hashed("rtmr1", EV_IPL, b"b", "second", ""))


def prediction(*events: ExpectedEvent) -> Prediction:
    return Prediction(events, Mrtd(b"m" * 48, b"n" * 48))


def lines(events: Sequence[ExpectedEvent]) -> tuple[tuple[str, str, str], ...]:
    return tuple((one.register, one.type_name, (one.digest or b"").hex()) for one in events)


def test_equal_events_and_registers() -> None:
    expected = prediction(*EVENTS)
    registers = {name: value for name, value in expected.registers.items() if value}
    assert compare(expected, Booted(lines(EVENTS), registers)) == (Status.OK, "")


@pytest.mark.parametrize(
    ("events", "registers", "status", "detail"),
    [
        (lines(EVENTS[::-1]), {}, Status.FAIL, "event 0, first, is"),
        (lines(EVENTS[:1]), {}, Status.FAIL, "1 events were logged, 2 predicted"),
        (lines((*EVENTS, EVENTS[0])), {}, Status.FAIL, "3 events were logged"),
        (lines(EVENTS), {"rtmr2": b"x" * 48}, Status.FAIL, "rtmr2 is 7878"),
        (lines(EVENTS), {"mrtd": b"x" * 48}, Status.FAIL, "mrtd is 7878"),
    ],
)
def test_differences_are_named(
    events: tuple[tuple[str, str, str], ...], registers: dict[str, bytes], status: Status, detail: str
) -> None:
    found = compare(prediction(*EVENTS), Booted(events, registers))
    assert found[0] is status
    assert found[1].startswith(detail)


def test_what_cannot_be_predicted_is_no_success() -> None:
    status, detail = compare(prediction(unknown("rtmr0", EV_IPL, "table", "", "why")), Booted((), {}))
    assert (status, detail) == (Status.UNKNOWN, "not predictable: rtmr0 table: why")
    assert compare(prediction(), Booted((), {}))[0] is Status.UNKNOWN
    assert compare(prediction(), Booted((), {"rtmr0": bytes(48)}))[0] is Status.OK


def test_a_console_is_read() -> None:
    header = SpecId(1, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")
    log = EventLog(header, (event(RTMR0, EV_IPL, b"a"), event(RTMR1, EV_IPL, b"b")), 4096)
    text = base64.encodebytes(gzip.compress(log.to_bytes())).decode().replace("\n", "\r\n")
    console = f"noise\r\nregister rtmr0 {'00' * 48}\r\nlog begins\r\n{text}log ends\r\n"
    booted = Booted.parse(console)
    assert booted.registers == {"rtmr0": bytes(48)}
    assert booted.events == lines(EVENTS)
    assert Booted.parse("log begins\nlog ends") == Booted((), {})


DAMAGED = base64.b64encode(gzip.compress(b"log", mtime=0)[:10] + b"\xff" * 20).decode()


@pytest.mark.parametrize(
    "console", ["", "log begins\nAAAA", "log begins\nAAAA\nlog ends", f"log begins\n{DAMAGED}\nlog ends"]
)
def test_a_guest_that_did_not_end_well_is_named(console: str) -> None:
    with pytest.raises(MalformedError, match="log"):
        Booted.parse(console)
