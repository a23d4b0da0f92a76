from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.emulated import is_emulated_fmspc


def test_the_platform_is_in_the_range_reserved_for_emulated_ones() -> None:
    assert is_emulated_fmspc(EmulatedPlatform().fmspc)


def test_fields_have_the_sizes_of_the_wire() -> None:
    platform = EmulatedPlatform()
    sizes = (platform.fmspc, platform.pce_id, platform.cpusvn, platform.tee_tcb_svn, platform.mrseam)
    assert [len(field) for field in sizes] == [6, 2, 16, 16, 48]
    assert platform.mrsignerseam == bytes(48)


def test_it_survives_being_written_down() -> None:
    platform = replace(EmulatedPlatform(), pcesvn=99, mrseam=b"s" * 48)
    assert EmulatedPlatform.from_json(platform.to_json()) == platform


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mrseam", "00"),
        ("mrseam", "zz" * 48),
        ("mrseam", 5),
        ("pcesvn", "5"),
        ("pcesvn", -1),
        ("pcesvn", None),
    ],
)
def test_a_wrong_value_is_named(field: str, value: object) -> None:
    document = json.loads(EmulatedPlatform().to_json())
    document[field] = value
    with pytest.raises(MalformedError, match=field):
        EmulatedPlatform.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("change", ["drop", "add", "format"])
def test_another_document_is_malformed(change: str) -> None:
    document = json.loads(EmulatedPlatform().to_json())
    if change == "drop":
        del document["mrseam"]
    elif change == "add":
        document["more"] = 1
    else:
        document["format"] = "tdxstack emulated platform 2"
    with pytest.raises(MalformedError, match="tdxstack emulated platform 1"):
        EmulatedPlatform.from_json(json.dumps(document).encode())


@given(st.binary())
def test_any_bytes_are_a_platform_or_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError):
        EmulatedPlatform.from_json(text)
