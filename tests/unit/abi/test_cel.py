from __future__ import annotations

import base64
import hashlib
import json
import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.cel import CelRecord, is_cel, parse_cel, read_tlvs
from tdxstack.errors import MalformedError

DIGEST = hashlib.sha384(b"event").digest()


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BI", kind, len(value)) + value


def packed(number: int = 0, kind: int = 108, register: int = 4, digest: bytes = tlv(0x0C, DIGEST)) -> bytes:
    """A record as google/go-eventlog packs it."""
    content = tlv(80, tlv(0, b"image@sha256:abc"))
    return tlv(0, struct.pack(">Q", number)) + tlv(kind, bytes((register,))) + tlv(3, digest) + content


RECORD = CelRecord(0, "ccmr", 4, ((0x0C, DIGEST),), "cos", tlv(0, b"image@sha256:abc"))


def test_tlv() -> None:
    log = packed() + packed(1, 1, 11)
    assert is_cel(log)
    first, second = parse_cel(log)
    assert first == RECORD
    assert (second.number, second.register_kind, second.register) == (1, "pcr", 11)
    assert b"".join(record.to_bytes() for record in (first, second)) == log
    assert (first.digest(0x0C), first.digest(0x0B)) == (DIGEST, None)
    assert list(read_tlvs(first.content)) == [(0, b"image@sha256:abc")]


def document(**changes: object) -> dict[str, object]:
    return {
        "recnum": 7,
        "pcr": 10,
        "digests": [{"hashAlg": "sha384", "digest": DIGEST.hex()}],
        "content_type": "ima_template",
        "content": {"template_name": "ima-ng", "template_data": "00ff"},
    } | changes


def as_json(*documents: object) -> bytes:
    return json.dumps(documents).encode()


def test_json() -> None:
    content = tlv(0, b"ima-ng") + tlv(1, b"\0\xff")
    expected = CelRecord(7, "pcr", 10, ((0x0C, DIGEST),), "ima_template", content)
    log = as_json(document())
    assert is_cel(log)
    assert parse_cel(log) == (expected,)
    for form in (base64.b64encode(DIGEST), base64.urlsafe_b64encode(DIGEST).rstrip(b"=")):
        digest = {"hashAlg": "SHA-384", "digest": form.decode()}
        assert parse_cel(as_json(document(digests=[digest]))) == (expected,)
    assert parse_cel(expected.to_bytes()) == (expected,)


def test_json_of_firmware_events() -> None:
    content = {"event_type": 0x80000007, "event_data": "6162"}
    (record,) = parse_cel(as_json(document(content_type="pcclient_std", content=content)))
    assert list(read_tlvs(record.content)) == [(0, b"\x80\0\0\7"), (1, b"ab")]


def test_log_like_that_of_systemd() -> None:
    """Records behind separators, without numbers, and content that has no TLV form."""
    content = {"eventType": "phase", "string": "enter-initrd"}
    one = document(content_type="phases", content=content)
    del one["recnum"]
    log = b"".join(b"\x1e" + json.dumps(one).encode() + b"\n" for _ in range(2))
    assert is_cel(log)
    records = parse_cel(log)
    assert [record.number for record in records] == [0, 1]
    assert json.loads(records[0].content) == content
    with pytest.raises(MalformedError, match="'phases' has no TLV encoding"):
        records[0].to_bytes()


def cbor_record(changes: dict[int, object] | None = None) -> dict[int, object]:
    record: dict[int, object] = {
        0: 7,
        1: 10,
        3: [{0: 0x0C, 1: DIGEST}],
        9: 7,
        10: {0: "ima-ng", 1: b"\0\xff"},
    }
    return record | (changes or {})


def as_cbor(*records: object) -> bytes:
    return cbor2.dumps(records, canonical=True)


def test_cbor() -> None:
    """Written by another encoder; equal to the same records in the other encodings."""
    expected = parse_cel(as_json(document()))
    log = as_cbor(cbor_record())
    assert is_cel(log)
    assert parse_cel(log) == expected
    assert parse_cel(b"".join(record.to_bytes() for record in parse_cel(log))) == expected
    one = cbor2.dumps(cbor_record(), canonical=True)
    assert is_cel(one)
    assert parse_cel(one * 3) == parse_cel(as_cbor(*[cbor_record()] * 3)) == expected * 3
    assert is_cel(as_cbor(*[cbor_record()] * 300))
    assert parse_cel(as_cbor(*[cbor_record()] * 300)) == expected * 300
    assert parse_cel(as_cbor()) == ()


def test_cbor_of_firmware_events() -> None:
    (record,) = parse_cel(as_cbor(cbor_record({9: 5, 10: {0: 0x80000007, 1: b"ab"}})))
    assert record.content_type == "pcclient_std"
    assert list(read_tlvs(record.content)) == [(0, b"\x80\0\0\7"), (1, b"ab")]


@pytest.mark.parametrize(
    ("kind", "content", "name", "expected"),
    [
        (8, b"\0tlv", "ima_tlv", b"\0tlv"),
        (9, b'{"eventType":"phase"}', "systemd", b'{"eventType":"phase"}'),
        (4, {0: 1, 1: {0: 1, 1: 0}}, "cel", b'{"0":1,"1":{"0":1,"1":0}}'),
        (200, [b"\xab", -1, 1.5, None, True, "\u00e9", {"k": [], b"\1": 1}], "200", None),
        (201, cbor2.CBORTag(1, 5), "201", b"5"),
        (5, {0: "EV_POST_CODE", 1: b"\1"}, "pcclient_std", b'{"0":"EV_POST_CODE","1":"01"}'),
    ],
)
def test_cbor_of_other_content(kind: int, content: object, name: str, expected: bytes | None) -> None:
    (record,) = parse_cel(as_cbor(cbor_record({9: kind, 10: content})))
    assert record.content_type == name
    assert record.content == (expected or b'["ab",-1,1.5,null,true,"\\u00e9",{"01":1,"k":[]}]')


def test_registers_in_cbor() -> None:
    for key, name in ((1, "pcr"), (2, "nv_index"), (108, "ccmr")):
        record = cbor_record({key: 3}) if key == 1 else cbor_record({key: 3, 1: 0})
        if key != 1:
            del record[1]
        (parsed,) = parse_cel(as_cbor(record))
        assert (parsed.register_kind, parsed.register) == (name, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\1", "type 1 at offset 0 is no record number"),
        (packed()[:-1], "content needs"),
        (packed(kind=9), "type 9 at offset 13 is no register"),
        (packed(digest=b"x"), "length needs 4 bytes"),
        (packed(digest=tlv(0x0C, DIGEST[:-1])), "digest of algorithm 0x0c and 47 bytes at offset 19"),
        (packed(digest=tlv(0x0E, DIGEST)), "digest of algorithm 0x0e"),
        (tlv(0, b"") + packed()[13:], "record number of 0 bytes"),
        (tlv(0, bytes(9)) + packed()[13:], "record number of 9 bytes"),
        (packed(digest=b"") * 70000, "more than 65536 records"),
        (b"\x9f", "0x9f at offset 0 is of indefinite length"),
        (b"\x9c", "0x9c at offset 0 is of a reserved kind"),
        (b"\x81", "CBOR item needs 1 bytes"),
        (b"\x9b\1", "argument of a CBOR item needs 8 bytes"),
        (b"\x9b" + b"\xff" * 8, "CBOR item 0xff at offset 9|CBOR item needs 1 bytes at offset 9"),
        (b"\x81" * 9000, "CBOR items too deep up to offset"),
        (as_cbor() + b"\x80", "1 bytes follow the end at offset 1"),
        (as_cbor({-1: 5}), "record at offset 1 lacks"),
        (as_cbor(1), "no record, which is a CBOR map, at offset 1"),
        (as_cbor(cbor_record({0: -1})), "record at offset 1 lacks"),
        (as_cbor(cbor_record({1: "1"})), "record at offset 1 lacks"),
        (as_cbor(cbor_record({1: True})), "record at offset 1 lacks"),
        (as_cbor(cbor_record(), {}), "record at offset 78 lacks"),
        (as_cbor(cbor_record({3: [{0: 12}]})), "at offset 1 has a digest without hashAlg"),
        (as_cbor(cbor_record({3: [{0: 12, 1: b"x"}]})), "0x0c and 1 bytes in the record at offset 1"),
        (as_cbor(cbor_record({9: 5, 10: {0: 1 << 32, 1: b""}})), "event type 4294967296"),
        (as_cbor(cbor_record({10: [0] * 5000})), "more than 4096 CBOR items up to offset"),
        (as_cbor(cbor_record({10: "a" * (1 << 20)})), "content of type 'ima_template' is no byte string"),
        (b"\xa2\0\0\0\0", "a key that is there twice, or no number"),
        (b"\xa1\x80\0", "a key that is there twice, or no number"),
        (b"\xa1\0\x61\xff", "text that is no UTF-8 at offset 3"),
        (b"\xa1\0\xf8\xff", "simple value 255 at offset 2"),
        (as_cbor(*[cbor_record({3: []})] * 65537), "more than 65536 records"),
        (b"{", "record 0 is no JSON"),
        (b"[" * 100000, "record 0 is no JSON"),
        (b"[1]", "record 0 is no JSON object"),
        (b" " * 10 + b"[" + b" " * (1 << 20) + b"]", "bytes of JSON from record 0 on, at most"),
        (as_json(document())[1:-1] + b"\n" + b" " * (2 << 20) + b'{"', "record 1 is no JSON"),
        (b'{"pcr":1,"digests":[],"content_type":""}\n' * 65537, "more than 65536 records"),
        (as_json(document(pcr=-1)), "record 0 lacks"),
        (as_json(document(pcr="1")), "record 0 lacks"),
        (as_json(document(), {}), "record 1 lacks"),
        (as_json(document(digests=[1])), "without hashAlg and digest"),
        (
            as_json(document(digests=[{"hashAlg": "md5", "digest": "00"}])),
            "algorithm 0x00 and 1 bytes in record 0",
        ),
        (as_json(document(digests=[{"hashAlg": "sha256", "digest": "!"}])), "in place of hexadecimal digits"),
        (
            as_json(document(content_type="pcclient_std", content={"event_type": -1, "event_data": ""})),
            "event type -1",
        ),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        parse_cel(data)
    assert caught.value.hint


def test_other_logs_are_none() -> None:
    assert not is_cel(b"")
    assert not is_cel(b"{}")
    assert not is_cel(b"\0" * 32)
    assert not is_cel(b"10 00")
    assert not is_cel(b"\x81\x01")
    assert not is_cel(b"\x9f\xa5\0")
    assert not is_cel(b"\x80\xa5\0")
    assert not is_cel(struct.pack("<II", 0, 8) + bytes(range(60)))  # a TPM's: firmware version into PCR 0


@given(
    st.sampled_from(
        [b"", packed(), as_json(document())[:-1] + b",", b'{"pcr":1,', b"\x82", as_cbor(cbor_record())[1:]]
    ),
    st.binary(max_size=100),
)
def test_any_input(start: bytes, data: bytes) -> None:
    try:
        records = parse_cel(start + data)
    except MalformedError as error:
        assert error.hint
        return
    if (start + data)[:1] == b"\0":
        assert b"".join(record.to_bytes() for record in records) == start + data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(document())), json_values)
def test_any_json_value(key: str, value: object) -> None:
    try:
        parse_cel(as_json(document(**{key: value})))
    except MalformedError as error:
        assert error.hint


@given(st.sampled_from(sorted(cbor_record())), json_values)
def test_any_cbor_value(key: int, value: object) -> None:
    try:
        parse_cel(as_cbor(cbor_record({key: value})))
    except MalformedError as error:
        assert error.hint
