from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.evidence import document
from tdxstack.evidence.document import Evidence

EVIDENCE = Evidence(
    nonce=b"n" * 32,
    host_key=b"key",
    tdreport=b"t" * 1024,
    quote=b"quote",
    provider="tdx_guest",
    generation=1,
    ccel_table=b"c" * 56,
    ccel_data=b"log",
    measurements={"mrtd": b"m" * 48, "rtmr0": b"r" * 48},
    kernel="7.2.13",
    os="Debian GNU/Linux 13 (trixie)",
)


def test_round_trip() -> None:
    assert Evidence.from_json(EVIDENCE.to_json()) == EVIDENCE
    assert Evidence.from_json(EVIDENCE.to_json().encode()) == EVIDENCE


def test_form_at_the_edges() -> None:
    members = json.loads(EVIDENCE.to_json())
    assert (members["type"], members["version"]) == ("tdxstack evidence", 1)
    assert members["nonce"] == "6e" * 32
    assert base64.b64decode(members["quote"]) == b"quote"
    assert members["measurements"] == {"mrtd": "6d" * 48, "rtmr0": "72" * 48}


def test_absent_parts_say_why() -> None:
    evidence = dataclasses.replace(
        EVIDENCE,
        ccel_table=None,
        ccel_data=None,
        measurements=None,
        absent={"ccel": "no log", "measurements": "old kernel"},
    )
    assert json.loads(evidence.to_json())["measurements"] is None
    assert Evidence.from_json(evidence.to_json()) == evidence


def with_member(key: str, value: Any) -> str:
    return json.dumps({**json.loads(EVIDENCE.to_json()), key: value})


@pytest.mark.parametrize("key", json.loads(EVIDENCE.to_json()))
def test_every_key_is_needed_and_typed(key: str) -> None:
    members = json.loads(EVIDENCE.to_json())
    del members[key]
    with pytest.raises(MalformedError, match=f"'{key}' is missing"):
        Evidence.from_json(json.dumps(members))
    wrong: tuple[Any, ...] = (True, -1, 1.5, [], [[]], {"x": 1}, "\n")
    for value in wrong:
        with pytest.raises(MalformedError, match=key):
            Evidence.from_json(with_member(key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("type", "something else", "'type' is not 'tdxstack evidence'"),
        ("version", 2, "'version' is 2, this program reads 1"),
        ("version", 1 << 63, "'version' is not a whole number"),
        ("nonce", "6E" * 32, "lower-case"),
        ("nonce", "6e" * 31, "32 bytes"),
        ("nonce", "6e " * 32, "32 bytes"),
        ("tdreport", base64.b64encode(bytes(1023)).decode(), "has 1023 bytes, not 1024"),
        ("ccel_table", base64.b64encode(bytes(57)).decode(), "has 57 bytes, not 56"),
        ("host_key", base64.b64encode(bytes(8193)).decode(), "has 8193 bytes, more than 8192"),
        ("quote", "cXVvdGU", "is not base64"),
        ("quote", "cXVvdGV=", "one proper form"),
        ("quote", "cXVv\ndGU=", "is not base64"),
        ("quote", "ä", "is not base64"),
        ("os", "x" * 257, "at most 256 characters"),
        ("os", "a\x1b[2J", "printable"),
        ("measurements", {"MRTD": "6d" * 48}, "register with the name 'MRTD'"),
        ("measurements", {"mrtd": "6d" * 47}, "'measurements.mrtd' is not 48 bytes"),
        ("measurements", {f"r{n}": "6d" * 48 for n in range(33)}, "at most 32"),
        ("absent", {"quote": "x"}, "some of the keys"),
        ("absent", {"ccel": 1}, "'absent.ccel'"),
        ("ccel_data", None, "'ccel_data' and 'ccel_table'"),
        ("extra", 1, "'extra' is unknown"),
    ],
)
def test_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        Evidence.from_json(with_member(key, value))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 10_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("NaN", "not a JSON object"),
        ('{"type": 1, "type": 2}', "a key comes twice"),
    ],
)
def test_other_texts_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        Evidence.from_json(text)


def test_enormous_text_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_JSON", 100)
    with pytest.raises(MalformedError, match="at most 100 are read"):
        Evidence.from_json(EVIDENCE.to_json())


texts = st.text(st.characters(categories=["L", "N", "P"]), max_size=20)
registers = st.dictionaries(
    st.sampled_from(["mrtd", "rtmr0", "mrconfigid"]), st.binary(min_size=48, max_size=48), max_size=3
)


@given(
    st.builds(
        Evidence,
        nonce=st.binary(min_size=32, max_size=32),
        host_key=st.binary(max_size=60),
        tdreport=st.binary(min_size=1024, max_size=1024),
        quote=st.binary(max_size=60),
        provider=texts,
        generation=st.integers(0, (1 << 63) - 1),
        ccel_table=st.binary(min_size=56, max_size=56),
        ccel_data=st.binary(max_size=60),
        measurements=st.none() | registers,
        kernel=texts,
        os=texts,
        absent=st.dictionaries(st.sampled_from(["ccel", "measurements"]), texts),
    )
)
def test_any_evidence_round_trips(evidence: Evidence) -> None:
    assert Evidence.from_json(evidence.to_json()) == evidence


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from(sorted(json.loads(EVIDENCE.to_json()))), st.text(max_size=50))
def test_any_input(value: Any, key: str, text: str) -> None:
    for candidate in (json.dumps(value), with_member(key, value), text):
        try:
            evidence = Evidence.from_json(candidate)
        except MalformedError:
            continue
        assert Evidence.from_json(evidence.to_json()) == evidence
