from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.event_log import ALG_SHA384, EventLog, SpecId
from tdxstack.abi.tdreport import TdReport
from tdxstack.errors import MalformedError
from tdxstack.measurement.comparison.alignment import Kind
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.reference import Reference, ReferenceEvent
from tests.recorded_boot import pki_in, synthetic_boot
from tests.unit.measurement.comparison.logs import MRTD, PLAIN, side

TIME = datetime(2026, 11, 1, tzinfo=UTC)
LOG = EventLog(SpecId(0, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b""), PLAIN).to_bytes()
PREDICTION: dict[str, Any] = {
    "registers": {"mrtd": "a7" * 48, "rtmr0": "01" * 48, "rtmr1": None},
    "mrtd": {"single_pass": "a7" * 48, "two_pass": "b8" * 48},
    "events": [
        {"register": "rtmr0", "type": "EV_SEPARATOR", "digest": "02" * 48, "meaning": "x", "source": "y"},
        {"register": "rtmr1", "type": "0x08000001", "digest": None, "meaning": "z", "source": "y"},
    ],
}


def test_event_log() -> None:
    read = read_side("log", LOG)
    assert (read.name, read.kind) == ("log", "event log")
    assert read.entries == side("log", PLAIN).entries
    assert "rtmr3" not in read.registers
    assert {name: read.folded(name) for name in read.registers} == dict(read.registers)


def test_prediction() -> None:
    read = read_side("p", json.dumps(PREDICTION).encode())
    assert read.kind == "prediction"
    assert dict(read.registers) == {"mrtd": b"\xa7" * 48, "rtmr0": b"\1" * 48}
    assert read.mrtd_two_pass == b"\xb8" * 48
    assert [(entry.register, entry.digest) for entry in read.entries or ()] == [
        ("rtmr0", b"\2" * 48),
        ("rtmr1", None),
    ]


def test_a_kernel_may_have_another_digest() -> None:
    event = PREDICTION["events"][0] | {"other_header": "03" * 48}
    read = read_side("p", json.dumps(PREDICTION | {"events": [event]}).encode())
    assert [entry.other_header for entry in read.entries or ()] == [b"\3" * 48]


def test_what_a_prediction_says_of_an_event() -> None:
    """Its data; and the text that it measures, where that is what its digest is of."""
    digest = hashlib.sha384("quiet\0".encode("utf-16-le")).hexdigest()
    line = {
        "register": "rtmr2",
        "type": "EV_EVENT_TAG",
        "source": "y",
        "meaning": "kernel command line: quiet",
    }
    events = [
        line | {"digest": digest},
        line | {"digest": "01" * 48},
        line | {"digest": digest, "data": "0aff"},
    ]
    read = read_side("p", json.dumps(PREDICTION | {"events": events}).encode())
    assert [(entry.text, entry.data) for entry in read.entries or ()] == [
        ("quiet", None),
        (None, None),
        ("quiet", b"\x0a\xff"),
    ]


def test_a_prediction_says_of_which_machine_it_is() -> None:
    machine = {"emulated": True, "machine": {"memory_mib": 2048, "vcpus": 4}}
    read = read_side("p", json.dumps(PREDICTION | machine).encode())
    assert (read.memory, read.vcpus, read.emulated) == (2 << 30, 4, True)


def test_evidence_report_and_quote(tmp_path: Path) -> None:
    evidence = synthetic_boot(pki_in(tmp_path / "pki", TIME), TIME).evidence
    report = TdReport.parse(evidence.tdreport)
    info = report.td_info
    for name, data in (
        ("evidence", evidence.to_json().encode()),
        ("TDREPORT", evidence.tdreport),
        ("quote", evidence.quote),
    ):
        read = read_side(name, data)
        assert read.kind == name
        assert read.registers["mrtd"] == info.mrtd
        assert read.registers["mrseam"] == report.tcb_info.mrseam
        assert [read.registers[f"rtmr{number}"] for number in range(4)] == list(info.rtmrs)


def test_reference_values() -> None:
    events = tuple(
        ReferenceEvent(event.type, event.digest(), "an event") for event in PLAIN if event.mr_index == 1
    )
    open_ = (replace(events[0], digest=None), *events[1:])
    wanted = Reference("r", {"mrtd": (MRTD, b"\1" * 48)}, {"rtmr0": open_})
    read = read_side("r", wanted.to_json())
    assert read.mrtd_two_pass == b"\1" * 48
    boot = side("b", PLAIN)
    assert compare(read, boot).equal
    shorter = read_side("r", replace(wanted, events={"rtmr0": open_[:-1]}).to_json())
    comparison = compare(shorter, boot)
    assert [item.kind for item in comparison.differences] == [Kind.ADDED]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"registers": []}, "registers is no object"),
        ({"registers": {"mrtd": "zz"}}, "registers.mrtd"),
        ({"events": [{}]}, r"events\[0\]"),
        ({"events": [PREDICTION["events"][0] | {"type": "EV_NONE"}]}, r"events\[0\].type"),
        ({"events": [PREDICTION["events"][0] | {"digest": "00"}]}, r"events\[0\].digest"),
        ({"events": [PREDICTION["events"][0] | {"other_header": 1}]}, r"events\[0\].other_header"),
        ({"events": [PREDICTION["events"][0] | {"data": "0"}]}, r"events\[0\].data"),
        ({"events": [PREDICTION["events"][0] | {"data": 1}]}, r"events\[0\].data"),
        ({"events": {}}, "no kind that can be compared"),
    ],
)
def test_a_damaged_prediction_is_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(MalformedError, match=where):
        read_side("p", json.dumps(PREDICTION | change).encode())


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: b"{" + data))
def test_no_input_breaks_it(data: bytes) -> None:
    try:
        read_side("x", data)
    except MalformedError as error:
        assert error.hint


def test_every_cut_of_a_log_is_refused_or_read() -> None:
    for end in range(0, len(LOG), 7):
        try:
            assert read_side("x", LOG[:end]).kind == "event log"
        except MalformedError:
            continue
