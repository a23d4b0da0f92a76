from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.abi.td_body import TdBody10
from tdxstack.measurement.digests import check_digest
from tdxstack.measurement.log_replay import replay_logs
from tdxstack.measurement.logs import read_log
from tdxstack.verification.log_checks import check_event_log
from tdxstack.verification.result import Status
from tests.recorded_boot import Recorded


def statuses(data: bytes, body: TdBody10 | SgxReportBody) -> dict[str, Status]:
    return {check.id: check.status for check in check_event_log(data, body)}


def body_of(boot: Recorded) -> TdBody10:
    assert isinstance(boot.quote.body, TdBody10)
    return boot.quote.body


def log_of(boot: Recorded) -> bytes:
    assert boot.evidence.ccel_data is not None
    return boot.evidence.ccel_data


def test_the_log_of_the_boot_gives_every_register(boot: Recorded) -> None:
    assert set(statuses(log_of(boot), body_of(boot)).values()) == {Status.OK}


@pytest.mark.parametrize("number", range(3))
def test_another_register_fails_alone(boot: Recorded, number: int) -> None:
    changes: dict[str, Any] = {f"rtmr{number}": b"\x01" * 48}
    changed = replace(body_of(boot), **changes)
    found = statuses(log_of(boot), changed)
    assert [check_id for check_id, status in found.items() if status is Status.FAIL] == [
        f"rtmr{number}.replay"
    ]


def test_rtmr3_without_an_event_is_told_and_no_failure(boot: Recorded) -> None:
    found = statuses(log_of(boot), replace(body_of(boot), rtmr3=b"\x01" * 48))
    assert found.pop("rtmr3.replay") is Status.WARNING
    assert set(found.values()) == {Status.OK}


def test_an_enclave_has_no_registers_to_compare(boot: Recorded) -> None:
    found = statuses(log_of(boot), SgxReportBody())
    assert {found[f"rtmr{number}.replay"] for number in range(4)} == {Status.UNKNOWN}


def test_events_are_numbered_as_the_log_shows_them(boot: Recorded) -> None:
    """The header of a crypto-agile log is event 0 for who counts and for who is told of a wrong digest."""
    events = list(boot.log.events)
    wrong = next(number for number, event in enumerate(events) if check_digest(event).status == "ok")
    events[wrong] = replace(events[wrong], data=events[wrong].data + b"\0")
    data = replace(boot.log, events=tuple(events)).to_bytes()
    shown = read_log(data)
    (number,) = replay_logs([shown]).wrong_digests
    checks = {check.id: check.found for check in check_event_log(data, body_of(boot))}
    assert checks["event_log.format"] == f"crypto-agile, {shown.count} events"
    assert checks["event_log.digests"] == f"event {number} ({events[wrong].type_name})"


@pytest.mark.parametrize("data", [b"", b"no log", bytes(64)])
def test_what_is_no_log_fails(boot: Recorded, data: bytes) -> None:
    found = statuses(data, body_of(boot))
    bad = {status for status in found.values() if status in (Status.FAIL, Status.UNKNOWN)}
    assert bad
