from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA1, ALG_SHA384, Event, EventLog, SpecId
from tdxstack.errors import MalformedError

SPEC = SpecId(1, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")


def spec_bytes(algorithms: tuple[tuple[int, int], ...] = ((12, 48),), vendor: bytes = b"") -> bytes:
    """The header event packed by struct, independently of the code under test."""
    data = struct.pack("<16sIBBBBI", b"Spec ID Event03", 0, 0, 2, 0, 2, len(algorithms))
    data += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + bytes((len(vendor),)) + vendor
    return struct.pack("<II20sI", 1, 3, bytes(20), len(data)) + data


def event_bytes(index: int, kind: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<IIIH48sI", index, kind, 1, 12, digest, len(data)) + data


ONE = event_bytes(1, event_log.EV_SEPARATOR, b"d" * 48, bytes(4))


def test_header_and_events() -> None:
    log = EventLog.parse(spec_bytes() + ONE)
    assert log.spec_id == SPEC
    assert log.events == (Event(1, 4, ((ALG_SHA384, b"d" * 48),), bytes(4)),)
    assert log.events[0].digest() == b"d" * 48
    assert log.events[0].digest(ALG_SHA1) is None
    assert (log.events[0].mr_name, log.events[0].type_name) == ("RTMR0", "EV_SEPARATOR")
    assert log.to_bytes() == spec_bytes() + ONE


@pytest.mark.parametrize(
    "padding", [b"", b"\xff", b"\xff" * 7, b"\xff" * 40000, b"\0", b"\0" * 11, b"\0" * 4096]
)
def test_ends_at_padding(padding: bytes) -> None:
    log = EventLog.parse(spec_bytes() + ONE + padding)
    assert (len(log.events), log.padding_size) == (1, len(padding))
    assert log.to_bytes() == spec_bytes() + ONE + padding
    assert log.without_padding().to_bytes() == spec_bytes() + ONE


def test_empty_agile_log() -> None:
    assert EventLog.parse(spec_bytes() + b"\xff" * 100).events == ()


def test_no_action_event_with_index_of_all_ones_is_not_padding() -> None:
    odd = event_bytes(0xFFFFFFFF, event_log.EV_NO_ACTION, bytes(48), b"StartupLocality\0\3")
    log = EventLog.parse(spec_bytes() + odd + ONE)
    assert [event.extends for event in log.events] == [False, True]
    assert log.events[0].mr_name == "MR 4294967295"


def test_several_algorithms_in_any_order() -> None:
    header = spec_bytes(((4, 20), (12, 48)), b"vendor")
    event = struct.pack("<IIIH48sH20sI", 2, 0xD, 2, 12, b"x" * 48, 4, b"y" * 20, 0)
    log = EventLog.parse(header + event)
    assert log.spec_id is not None
    assert log.spec_id.vendor_info == b"vendor"
    assert log.events[0].digests == ((12, b"x" * 48), (4, b"y" * 20))
    assert log.to_bytes() == header + event


def test_legacy_log() -> None:
    legacy = struct.pack("<II20sI", 0, 8, b"s" * 20, 3) + b"abc"
    log = EventLog.parse(legacy + legacy)
    assert log.spec_id is None
    assert log.events == (Event(0, 8, ((ALG_SHA1, b"s" * 20),), b"abc"),) * 2
    assert log.to_bytes() == legacy + legacy


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (3, b"Spec ID Event02\0" + bytes(12)),
        (3, b"StartupLocality\0\3"),
        (8, b"Spec ID Event03\0" + bytes(20)),
    ],
)
def test_only_the_proper_first_event_makes_a_log_agile(kind: int, data: bytes) -> None:
    legacy = struct.pack("<II20sI", 0, kind, bytes(20), len(data)) + data
    log = EventLog.parse(legacy)
    assert (log.spec_id, len(log.events)) == (None, 1)
    assert log.to_bytes() == legacy


def test_names_of_registers_and_types() -> None:
    names = [Event(index, 0x1234, (), b"").mr_name for index in range(6)]
    assert names == ["MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3", "MR 5"]
    assert Event(0, 0x1234, (), b"").type_name == "0x00001234"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\xff" * 64, "padding and no event"),
        (b"\0" * 64, "padding and no event"),
        (spec_bytes()[:-1], "event data needs"),
        (spec_bytes(()), "0 algorithms"),
        (spec_bytes(tuple((n, 1) for n in range(17))), "17 algorithms"),
        (spec_bytes(((12, 48), (12, 48))), "names an algorithm twice"),
        (spec_bytes() + ONE[:-1], "event data needs 4 bytes"),
        (spec_bytes() + ONE[:30], "digest needs 48 bytes"),
        (spec_bytes() + ONE + b"\xff" * 9 + b"\xfe", "padding from offset .* holds other bytes than 0xff"),
        (spec_bytes() + ONE + bytes(20) + b"\1", "padding from offset .* holds other bytes than 0x00"),
        (spec_bytes() + ONE + b"\1", "register index and event type needs 8 bytes at offset 135, 1 are left"),
        (spec_bytes() + struct.pack("<IIIH", 1, 4, 0, 12), "has 0 digests"),
        (spec_bytes() + struct.pack("<IIIH", 1, 4, 2, 12), "has 2 digests"),
        (spec_bytes() + struct.pack("<III", 1, 4, 1), "algorithm needs 2 bytes at offset 77, 0 are left"),
        (spec_bytes() + struct.pack("<IIIH", 1, 4, 1, 11), "algorithm 0x000b"),
        (
            spec_bytes() + struct.pack("<IIIH48sI", 1, 4, 1, 12, bytes(48), 0xFFFFFFFF),
            "event data needs 4294967295",
        ),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        EventLog.parse(data)
    assert caught.value.hint


def test_more_events_than_any_log_has_are_refused() -> None:
    smallest = struct.pack("<IIIHI", 1, 4, 1, 11, 0)
    header = spec_bytes(((11, 0),))
    most = event_log.MAX_DIGESTS
    assert len(EventLog.parse(header + smallest * most).events) == most
    said = f"more than 65536 digests up to offset {len(header) + most * 18}"
    with pytest.raises(MalformedError, match=said):
        EventLog.parse(header + smallest * (most + 1))
    with pytest.raises(MalformedError, match="more than 65536 digests"):
        EventLog.parse(struct.pack("<II20sI", 1, 4, b"x", 0) * (most + 1))


def test_bytes_behind_the_header_are_refused() -> None:
    data = bytearray(spec_bytes() + b"\0")
    data[28] += 1  # the event's size
    with pytest.raises(MalformedError, match="bytes follow the end"):
        EventLog.parse(bytes(data))


events = st.builds(
    Event,
    mr_index=st.integers(0, 5),
    type=st.sampled_from(sorted(event_log.EVENT_TYPE_NAMES)),
    digests=st.binary(min_size=48, max_size=48).map(lambda digest: ((ALG_SHA384, digest),)),
    data=st.binary(max_size=40),
)


@given(st.lists(events, max_size=8), st.sampled_from([(0, 0xFF), (33, 0xFF), (33, 0)]))
def test_round_trip(parts: list[Event], padding: tuple[int, int]) -> None:
    log = EventLog(SPEC, tuple(parts), *padding)
    assert EventLog.parse(log.to_bytes()) == log


@given(st.lists(events, max_size=4), st.data())
def test_damage_gives_a_value_or_malformed(parts: list[Event], data: st.DataObject) -> None:
    raw = bytearray(EventLog(SPEC, tuple(parts)).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@given(st.binary(max_size=300))
def test_any_input(data: bytes) -> None:
    check(data)
    check(spec_bytes() + data)


def check(data: bytes) -> None:
    try:
        log = EventLog.parse(data)
    except MalformedError:
        return
    assert log.to_bytes() == data
