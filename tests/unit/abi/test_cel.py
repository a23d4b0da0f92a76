from __future__ import annotations

import base64
import hashlib
import json
import struct

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


def test_log_of_systemd() -> None:
    """Records behind separators, without numbers, and content that has no TLV form."""
    content = {"eventType": "phase", "string": "enter-initrd"}
    one = document(content_type="systemd", content=content)
    del one["recnum"]
    log = b"".join(b"\x1e" + json.dumps(one).encode() + b"\n" for _ in range(2))
    assert is_cel(log)
    records = parse_cel(log)
    assert [record.number for record in records] == [0, 1]
    assert json.loads(records[0].content) == content
    with pytest.raises(MalformedError, match="'systemd' has no TLV encoding"):
        records[0].to_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x9f", "CBOR byte 0x9f"),
        (b"\1", "type 1 at offset 0 is no record number"),
        (packed()[:-1], "content needs"),
        (packed(kind=9), "type 9 at offset 13 is no register"),
        (packed(digest=b"x"), "length needs 4 bytes"),
        (packed(digest=tlv(0x0C, DIGEST[:-1])), "digest of algorithm 0x0c and 47 bytes at offset 19"),
        (packed(digest=tlv(0x0E, DIGEST)), "digest of algorithm 0x0e"),
        (tlv(0, b"") + packed()[13:], "record number of 0 bytes"),
        (tlv(0, bytes(9)) + packed()[13:], "record number of 9 bytes"),
        (packed(digest=b"") * 70000, "more than 65536 records"),
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
    assert not is_cel(struct.pack("<II", 0, 8) + bytes(range(60)))  # a TPM's: firmware version into PCR 0


@given(
    st.sampled_from([b"", packed(), as_json(document())[:-1] + b",", b'{"pcr":1,']), st.binary(max_size=100)
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
