from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.errors import MalformedError
from tdxstack.measurement.expected import Prediction, hashed, unknown
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.measurement.reference import MACHINE_SIZE, Reference

MRTD = Mrtd(single_pass=b"\1" * 48, two_pass=b"\2" * 48)
EVENTS = (
    hashed("rtmr0", event_log.EV_EFI_HANDOFF_TABLES2, b"hob", "TD HOB", "memory"),
    hashed("rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, b"order", "fw_cfg bootorder from the VMM", "QEMU"),
    hashed("rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, b"tables", "ACPI tables from the VMM", "QEMU"),
    hashed("rtmr0", event_log.EV_EFI_HANDOFF_TABLES, b"smbios", "SMBIOS table", "QEMU"),
    hashed("rtmr1", event_log.EV_SEPARATOR, bytes(4), "separator", "firmware"),
    unknown("rtmr2", event_log.EV_IPL, "what GRUB reads", "disk", "its configuration runs a program"),
)
PREDICTION = Prediction(EVENTS, MRTD)


def test_known_registers_are_pinned_to_their_values() -> None:
    reference = Reference.of(PREDICTION, "web")
    assert reference.registers["mrtd"] == (MRTD.single_pass, MRTD.two_pass)
    assert reference.registers["rtmr0"] == (PREDICTION.registers["rtmr0"],)
    assert reference.registers["rtmr1"] == (PREDICTION.registers["rtmr1"],)
    (event,) = reference.events["rtmr2"]
    assert (event.digest, event.reason) == (None, "its configuration runs a program")


def test_a_portable_reference_leaves_out_what_the_size_of_the_machine_decides() -> None:
    reference = Reference.of(PREDICTION, "fleet", portable=True)
    assert set(reference.registers) == {"mrtd", "rtmr1"}
    open_ = [event.meaning for register, event in reference.open_events() if register == "rtmr0"]
    assert open_ == ["TD HOB", "ACPI tables from the VMM", "SMBIOS table"]
    assert {event.reason for event in reference.events["rtmr0"]} == {MACHINE_SIZE, ""}


def test_the_module_is_pinned_where_it_is_known() -> None:
    reference = Reference.of(replace(PREDICTION, mrseam=b"\3" * 48), "web", portable=True)
    assert reference.registers["mrseam"] == (b"\3" * 48,)
    assert Reference.from_json(reference.to_json()) == reference
    assert "mrseam" not in Reference.of(PREDICTION, "web").registers


@pytest.mark.parametrize("portable", [False, True])
def test_a_file_says_the_same(portable: bool) -> None:
    reference = Reference.of(PREDICTION, "web", portable=portable)
    assert Reference.from_json(reference.to_json()) == reference


GOOD: dict[str, Any] = json.loads(Reference.of(PREDICTION, "web").to_json())
EVENT: dict[str, Any] = GOOD["events"]["rtmr2"][0]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"type": "x"}, "type is not"),
        ({"version": 2}, "version is 2"),
        ({"extra": 1}, "extra is unknown"),
        ({"name": 1}, "name"),
        ({"registers": {"rtmr9": ["00" * 48]}}, "rtmr9 is no register"),
        ({"registers": {"rtmr2": ["00" * 48]}}, "rtmr2 has values and events"),
        ({"registers": {"mrtd": []}}, "registers.mrtd"),
        ({"registers": {"mrtd": ["00"]}}, r"registers.mrtd\[0\]"),
        ({"events": {"rtmr2": {}}}, "events.rtmr2"),
        ({"events": {"rtmr2": [EVENT | {"more": 1}]}}, r"events.rtmr2\[0\]"),
        ({"events": {"rtmr2": [EVENT | {"type": "EV_NONE"}]}}, r"events.rtmr2\[0\].type"),
        ({"events": {"rtmr2": [EVENT | {"meaning": 1}]}}, r"events.rtmr2\[0\].meaning"),
        ({"events": {"rtmr2": [{"type": "EV_IPL", "meaning": "x"}]}}, r"events.rtmr2\[0\].digest is missing"),
        ({"events": {"rtmr2": [EVENT | {"digest": "zz"}]}}, r"events.rtmr2\[0\].digest"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(MalformedError, match=where):
        Reference.from_json(json.dumps(GOOD | change).encode())


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "version", "name", "registers", "events"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_input_breaks_it(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Reference.from_json(data)
