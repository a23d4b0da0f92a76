from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tdxstack.abi.quote import Quote
from tdxstack.abi.td_body import TdBody10
from tdxstack.measurement.reference import Reference, ReferenceEvent
from tdxstack.verification.reference_checks import check_reference
from tdxstack.verification.result import Check, Status
from tests.recorded_boot import Recorded, pki_in, synthetic_boot, with_events

TIME = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return synthetic_boot(pki_in(tmp_path_factory.mktemp("pki"), TIME), TIME)


def body_of(recorded: Recorded) -> TdBody10:
    body = Quote.parse(recorded.evidence.quote).body
    assert isinstance(body, TdBody10)
    return body


def events_of(recorded: Recorded, register: int) -> tuple[ReferenceEvent, ...]:
    return tuple(
        ReferenceEvent(event.type, event.digest(), "an event")
        for event in recorded.log.events
        if event.extends and event.mr_index == register + 1
    )


def checked(recorded: Recorded, reference: Reference, *, log: bool = True) -> Check:
    (check,) = check_reference(reference, body_of(recorded), recorded.evidence.ccel_data if log else None)
    return check


def values(register: str, *allowed: bytes) -> Reference:
    return Reference("test", {register: allowed}, {})


def events(*wanted: ReferenceEvent) -> Reference:
    return Reference("test", {}, {"rtmr0": wanted})


def test_one_of_the_values_is_enough(recorded: Recorded) -> None:
    mrtd = body_of(recorded).mrtd
    assert checked(recorded, values("mrtd", b"\1" * 48, mrtd)).status is Status.OK
    check = checked(recorded, values("mrtd", b"\1" * 48))
    assert (check.id, check.status, check.found) == ("reference.mrtd", Status.FAIL, mrtd.hex())


def test_the_module_is_held_against_the_quotes_mrseam(recorded: Recorded) -> None:
    mrseam = body_of(recorded).mrseam
    check = checked(recorded, values("mrseam", mrseam))
    assert (check.id, check.status) == ("reference.mrseam", Status.OK)
    assert checked(recorded, values("mrseam", b"\1" * 48)).status is Status.FAIL
    pinned = Reference("test", {}, {"mrseam": events_of(recorded, 0)})
    assert checked(recorded, pinned).detail == "MRSEAM has no events; pin its value"


def test_all_events_and_no_others(recorded: Recorded) -> None:
    all_ = events_of(recorded, 0)
    assert len(all_) > 1
    assert checked(recorded, events(*all_)).status is Status.OK
    assert checked(recorded, events(*all_[:-1])).status is Status.FAIL
    assert checked(recorded, events(*all_, all_[0])).status is Status.FAIL
    assert checked(recorded, events(*all_[::-1])).status is Status.FAIL
    first = replace(all_[0], digest=b"\1" * 48)
    check = checked(recorded, events(first, *all_[1:]))
    assert check.status is Status.FAIL
    assert check.detail == "event 0 of the register should be: an event"


def test_an_open_digest_takes_any_but_only_of_its_type(recorded: Recorded) -> None:
    first, *rest = events_of(recorded, 0)
    check = checked(recorded, events(replace(first, digest=None), *rest))
    assert check.status is Status.OK
    assert "1 of them with any digest" in check.found
    other = replace(first, digest=None, type=first.type ^ 1)
    assert checked(recorded, events(other, *rest)).status is Status.FAIL


def test_a_log_that_does_not_replay_proves_nothing(recorded: Recorded) -> None:
    """Also when the reference leaves open what was changed."""
    first, *rest = events_of(recorded, 0)
    lying = with_events(recorded, lambda log: (replace(log[0], digests=((12, b"\1" * 48),)), *log[1:]))
    check = checked(lying, events(replace(first, digest=None), *rest))
    assert (check.status, check.detail) == (Status.FAIL, "the event log is not the one of this boot")


def test_pinned_events_need_a_log(recorded: Recorded) -> None:
    assert checked(recorded, events(), log=False).status is Status.UNKNOWN
    (check,) = check_reference(events(), body_of(recorded), b"\1")
    assert check.status is Status.UNKNOWN


def test_no_quote_no_answer() -> None:
    (check,) = check_reference(values("mrtd", bytes(48)), None, None)
    assert check.status is Status.UNKNOWN
