from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.event_log import ALG_SHA1, ALG_SHA384, EV_NO_ACTION, EV_SEPARATOR, Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.replay import replay

A, B = hashlib.sha384(b"a").digest(), hashlib.sha384(b"b").digest()


def event(index: int, digest: bytes, kind: int = EV_SEPARATOR) -> Event:
    return Event(index, kind, ((ALG_SHA384, digest),), b"")


def test_nothing_measured() -> None:
    assert replay([]) == (bytes(48),) * 4


def test_order_and_register() -> None:
    rtmr0 = hashlib.sha384(hashlib.sha384(bytes(48) + A).digest() + B).digest()
    rtmr3 = hashlib.sha384(bytes(48) + A).digest()
    assert replay([event(1, A), event(4, A), event(1, B)]) == (rtmr0, bytes(48), bytes(48), rtmr3)
    assert replay([event(1, B), event(1, A)])[0] != rtmr0


def test_no_action_is_skipped_whatever_it_names() -> None:
    assert replay([event(0xFFFFFFFF, A, EV_NO_ACTION), event(2, A)]) == replay([event(2, A)])


@pytest.mark.parametrize("index", [0, 5, 0xFFFFFFFF])
def test_other_registers_are_refused(index: int) -> None:
    with pytest.raises(MalformedError, match=f"event 1 .* names register {index}"):
        replay([event(1, A), event(index, A)])


def test_missing_sha384_is_refused() -> None:
    with pytest.raises(MalformedError, match=r"event 0 .* no SHA-384 digest"):
        replay([Event(1, EV_SEPARATOR, ((ALG_SHA1, bytes(20)),), b"")])


def test_sha384_of_wrong_size_is_refused() -> None:
    with pytest.raises(MalformedError, match="no SHA-384 digest"):
        replay([event(1, bytes(20))])


@given(st.lists(st.tuples(st.integers(1, 4), st.binary(min_size=48, max_size=48)), max_size=12), st.data())
def test_any_changed_digest_shows_in_its_register_only(
    parts: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    before = replay(event(*part) for part in parts)
    if not parts:
        return
    at = data.draw(st.integers(0, len(parts) - 1))
    index, digest = parts[at]
    parts[at] = (index, bytes((digest[0] ^ 1,)) + digest[1:])
    after = replay(event(*part) for part in parts)
    assert [old != new for old, new in zip(before, after, strict=True)] == [n == index for n in (1, 2, 3, 4)]
