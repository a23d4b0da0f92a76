"""The TCG Canonical Event Log (CEL), in its TLV, its CBOR and its JSON encoding.

Sources: TCG Canonical Event Log Format 1.0, sections 4 and 5; 1.1, section 5.2, for CBOR; google/go-eventlog
`cel/` for registers of confidential computing (type 108) and Container-Optimized OS (content 80); systemd
`tpm2-util.c` for its log of JSON records, each behind a record separator (RFC 7464).
In TLVs a type is 1 byte, a length 4, big-endian. In CBOR a log is an array of records, or they follow each
other (RFC 8742); a record is the map {0: recnum, 1: pcr or 2: nv_index, 3: digests, 9: content_type,
10: content}, a digest the map {0: hashAlg, 1: digest}.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.abi.cbor import MajorType, read_head, read_item
from tdxstack.errors import MalformedError

RECNUM, PCR, NV_INDEX, DIGESTS, CCMR = 0, 1, 2, 3, 108
CONTENT_TYPE, CONTENT = 9, 10
"""Keys of the CBOR encoding alone; in TLVs the type of the content is the type of the last."""

REGISTER_KINDS = {PCR: "pcr", NV_INDEX: "nv_index", CCMR: "ccmr"}

_REGISTER_TYPES = {bytes((kind,)) for kind in REGISTER_KINDS}

CONTENT_NAMES = {4: "cel", 5: "pcclient_std", 7: "ima_template", 8: "ima_tlv", 9: "systemd", 80: "cos"}
CONTENT_TYPES = {name: number for number, name in CONTENT_NAMES.items()}

ALGORITHMS = {
    0x04: ("sha1", 20),
    0x0B: ("sha256", 32),
    0x0C: ("sha384", 48),
    0x0D: ("sha512", 64),
    0x12: ("sm3", 32),
}
_ALGORITHM_IDS = {name: number for number, (name, _) in ALGORITHMS.items()}

MAX_RECORDS = 1 << 16
MAX_JSON = 1 << 20
"""Bytes of one JSON text, or of CBOR turned into one; what it becomes costs up to thirty times as much."""
MAX_ITEMS = 1 << 12
"""CBOR items of one record; one with eight digests and an event of firmware takes 55."""

RECORD_SEPARATOR = b"\x1e"
_CBOR_START = b"\xa5\x00"
"""A record in CBOR: a map of five, the number first."""

DAMAGED = "the log is damaged"
NOT_A_LOG = "give a canonical event log in TLV, CBOR or JSON"


@dataclass(frozen=True, slots=True)
class CelRecord:
    """One measurement: four TLVs.

    | type        | value                                                                      |
    |-------------|----------------------------------------------------------------------------|
    | 0           | number of the record, big-endian                                           |
    | 1, 2 or 108 | PCR, NV index or register of confidential computing (1 is RTMR0)           |
    | 3           | digests, each a TLV with the low byte of the algorithm's id as its type     |
    | other       | content, see `CONTENT_NAMES`; what it holds are TLVs again                 |

    `content_type` is the name, or the number in decimal digits. `content` are the bytes; what JSON or CBOR
    hold that the TLV encoding has no form for, is JSON.
    """

    number: int
    register_kind: str
    register: int
    digests: tuple[tuple[int, bytes], ...]
    content_type: str
    content: bytes
    number_size: int = 8
    register_size: int = 1

    def digest(self, algorithm: int) -> bytes | None:
        """The digest of one algorithm, or None where the record has none."""
        return next((digest for name, digest in self.digests if name == algorithm), None)

    def to_bytes(self) -> bytes:
        """The record in TLV encoding. Raises `MalformedError` for content that only JSON has a form for."""
        kind = next(kind for kind, name in REGISTER_KINDS.items() if name == self.register_kind)
        content_type = CONTENT_TYPES.get(self.content_type)
        if content_type is None and not self.content_type.isdecimal():
            raise MalformedError(
                f"CEL: content of type {self.content_type!r} has no TLV encoding", hint="keep the log in JSON"
            )
        return b"".join(
            (
                tlv(RECNUM, self.number.to_bytes(self.number_size, "big")),
                tlv(kind, self.register.to_bytes(self.register_size, "big")),
                tlv(DIGESTS, b"".join(tlv(name, digest) for name, digest in self.digests)),
                tlv(int(self.content_type) if content_type is None else content_type, self.content),
            )
        )


def tlv(kind: int, value: bytes) -> bytes:
    """One type, length, value."""
    return bytes((kind,)) + len(value).to_bytes(4, "big") + value


def read_tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The TLVs that fill `data`. Raises `MalformedError` if one is cut short."""
    reader = Reader(data, "CEL content")
    while reader.remaining:
        kind = reader.u8("type")
        yield kind, reader.take(int.from_bytes(reader.take(4, "length"), "big"), "value")


def is_cel(data: bytes) -> bool:
    """Whether `data` starts as a canonical event log does: a number of 1 to 8 bytes, its CBOR or its JSON."""
    start = data[:1024].lstrip(b" \t\r\n" + RECORD_SEPARATOR)
    if start[:1] in (b"{", b"["):
        return all(data.find(key, 0, MAX_JSON) >= 0 for key in (b'"content_type"', b'"digests"'))
    if _is_cbor(data):
        reader = Reader(data[:16], "CEL")
        try:
            major, _, count = read_head(reader)
        except MalformedError:
            return False
        return (reader.peek(2) if major == MajorType.ARRAY and count else data[:2]) == _CBOR_START
    size = int.from_bytes(data[:5], "big")  # the type of a number is zero
    register = data[5 + size : 9 + size] if 1 <= size <= 8 else b""
    return register[:1] in _REGISTER_TYPES and register[1:] == bytes(3)


def parse_cel(data: bytes) -> tuple[CelRecord, ...]:
    """The records of a log in TLV, CBOR or JSON encoding (a list, or one document a separator or line).

    Raises `MalformedError`, which names the offset or the record.
    """
    if not data:
        raise MalformedError("CEL: it is empty", hint=NOT_A_LOG)
    if data.lstrip(b" \t\r\n" + RECORD_SEPARATOR)[:1] in (b"{", b"["):
        return _json_records(data)
    reader = Reader(data, "CEL")
    one_by_one = _cbor_records(reader) if _is_cbor(data) else _tlv_records(reader)
    records: list[CelRecord] = []
    digests = 0
    for record in one_by_one:
        digests += len(record.digests)
        if digests > MAX_RECORDS or len(records) == MAX_RECORDS:
            raise MalformedError(
                f"CEL: more than {MAX_RECORDS} records or digests up to offset {reader.offset}", hint=DAMAGED
            )
        records.append(record)
    return tuple(records)


def _tlv_records(reader: Reader) -> Iterator[CelRecord]:
    while reader.remaining:
        yield _tlv_record(reader)


def _tlv_record(reader: Reader) -> CelRecord:
    number = _expected_tlv(reader, (RECNUM,), "record number")[1]
    kind, register = _expected_tlv(reader, tuple(REGISTER_KINDS), "register")
    for name, value in (("record number", number), ("register", register)):
        if not 1 <= len(value) <= 8:
            raise MalformedError(
                f"CEL: {name} of {len(value)} bytes before offset {reader.offset}", hint=DAMAGED
            )
    at = reader.offset
    digests = tuple(
        _digest(*part, f"at offset {at}")
        for part in read_tlvs(_expected_tlv(reader, (DIGESTS,), "digests")[1])
    )
    content_type, content = _expected_tlv(reader, (), "content")
    return CelRecord(
        int.from_bytes(number, "big"),
        REGISTER_KINDS[kind],
        int.from_bytes(register, "big"),
        digests,
        CONTENT_NAMES.get(content_type, str(content_type)),
        content,
        len(number),
        len(register),
    )


def _expected_tlv(reader: Reader, kinds: tuple[int, ...], field: str) -> tuple[int, bytes]:
    at = reader.offset
    kind = reader.u8(f"type of {field}")
    if kinds and kind not in kinds:
        raise MalformedError(
            f"CEL: type {kind} at offset {at} is no {field}", hint=NOT_A_LOG if at == 0 else DAMAGED
        )
    return kind, reader.take(int.from_bytes(reader.take(4, f"length of {field}"), "big"), field)


def _digest(algorithm: int, digest: bytes, where: str) -> tuple[int, bytes]:
    name, size = ALGORITHMS.get(algorithm, ("", 0))
    if not name or len(digest) != size:
        raise MalformedError(
            f"CEL: digest of algorithm 0x{algorithm:02x} and {len(digest)} bytes {where}", hint=DAMAGED
        )
    return algorithm, digest


def _is_cbor(data: bytes) -> bool:
    return data[:1] != b"" and data[0] >> 5 in (MajorType.ARRAY, MajorType.MAP)


def _cbor_records(reader: Reader) -> Iterator[CelRecord]:
    if reader.peek(1)[0] >> 5 == MajorType.ARRAY:
        for _ in range(read_head(reader)[2]):
            yield _cbor_record(reader)
        reader.end()
    while reader.remaining:
        yield _cbor_record(reader)


def _cbor_record(reader: Reader) -> CelRecord:
    at = reader.offset
    where = f"at offset {at}"
    record = read_item(reader, MAX_ITEMS)
    if not isinstance(record, dict):
        raise MalformedError(f"CEL: no record, which is a CBOR map, {where}", hint=NOT_A_LOG)
    kind = next((kind for kind in REGISTER_KINDS if kind in record), None)
    number, register = _number(record.get(RECNUM)), _number(record.get(kind))
    digests, content_type = record.get(DIGESTS), _number(record.get(CONTENT_TYPE))
    if (
        number is None
        or kind is None
        or register is None
        or not isinstance(digests, list)
        or content_type is None
    ):
        raise MalformedError(
            f"CEL: the record {where} lacks one of: pcr, nv_index or ccmr; recnum; digests; content_type",
            hint=NOT_A_LOG if at <= 9 else DAMAGED,
        )
    name = CONTENT_NAMES.get(content_type, str(content_type))
    return CelRecord(
        number,
        REGISTER_KINDS[kind],
        register,
        tuple(_cbor_digest(digest, where) for digest in digests),
        name,
        _cbor_content(name, record.get(CONTENT), reader.offset - at, where),
        register_size=1 if register < 256 else 8,
    )


def _cbor_digest(item: object, where: str) -> tuple[int, bytes]:
    if isinstance(item, dict):
        algorithm, digest = item.get(0), item.get(1)
        if isinstance(algorithm, int) and isinstance(digest, bytes):
            return _digest(algorithm, digest, f"in the record {where}")
    raise MalformedError(f"CEL: the record {where} has a digest without hashAlg and digest", hint=DAMAGED)


def _cbor_content(content_type: str, content: object, size: int, where: str) -> bytes:
    """Bytes as they are; the TLV form of what has one; else JSON."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, dict):
        first, second = content.get(0), content.get(1)
        if isinstance(second, bytes):
            if content_type == "pcclient_std" and isinstance(first, int):
                return _firmware_event(first, second, f"the record {where}")
            if content_type == "ima_template" and isinstance(first, str):
                return tlv(0, first.encode()) + tlv(1, second)
    if size > MAX_JSON:
        raise MalformedError(
            f"CEL: the record {where} has {size} bytes, at most {MAX_JSON} are read where content of type "
            f"{content_type!r} is no byte string",
            hint="give the log in TLV encoding",
        )
    return json.dumps(_plain(content), separators=(",", ":")).encode("ascii")


def _plain(value: object) -> object:
    """What JSON has a form for: bytes as hexadecimal digits, keys as text."""
    match value:
        case bytes():
            return value.hex()
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {str(_plain(key)): _plain(one) for key, one in value.items()}
    return value


def _firmware_event(event_type: int, event_data: bytes, where: str) -> bytes:
    if not 0 <= event_type < 1 << 32:
        raise MalformedError(f"CEL: {where} has event type {event_type}", hint=DAMAGED)
    return tlv(0, event_type.to_bytes(4, "big")) + tlv(1, event_data)


def _json_records(data: bytes) -> tuple[CelRecord, ...]:
    records: list[CelRecord] = []
    digests = 0
    for text in _json_texts(data):
        if len(text) > MAX_JSON:
            raise MalformedError(
                f"CEL: {len(text)} bytes of JSON from record {len(records)} on, at most {MAX_JSON} are read",
                hint="give a record a line, or TLV encoding",
            )
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"CEL: record {len(records)} is no JSON: {error}", hint=DAMAGED) from None
        for one in document if isinstance(document, list) else (document,):
            records.append(_json_record(one, len(records)))
            digests += len(records[-1].digests)
            if max(digests, len(records)) > MAX_RECORDS:
                raise MalformedError(f"CEL: more than {MAX_RECORDS} records or digests", hint=DAMAGED)
    return tuple(records)


def _json_texts(data: bytes) -> Iterator[bytes]:
    """The whole of a list; else what lies between record separators and line ends."""
    if data.lstrip(b" \t\r\n")[:1] == b"[":
        yield data
        return
    lines = data.replace(RECORD_SEPARATOR, b"\n")
    at = 0
    while at < len(lines):
        end = lines.find(b"\n", at)
        end = len(lines) if end < 0 else end
        if text := lines[at:end].strip():
            yield text
        at = end + 1


def _json_record(document: object, place: int) -> CelRecord:
    if not isinstance(document, dict):
        raise MalformedError(f"CEL: record {place} is no JSON object", hint=DAMAGED)
    kind = next((kind for kind in REGISTER_KINDS.values() if kind in document), "")
    number, register = _number(document.get("recnum", place)), _number(document.get(kind))
    digests, content_type = document.get("digests"), document.get("content_type")
    if (
        number is None
        or register is None
        or not isinstance(digests, list)
        or not isinstance(content_type, str)
    ):
        raise MalformedError(
            f"CEL: record {place} lacks one of: pcr, nv_index or ccmr; recnum; digests; content_type",
            hint=NOT_A_LOG if place == 0 else DAMAGED,
        )
    return CelRecord(
        number,
        kind,
        register,
        tuple(_json_digest(digest, place) for digest in digests),
        content_type,
        _json_content(content_type, document.get("content"), place),
        register_size=1 if register < 256 else 8,
    )


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 64 else None


def _json_digest(document: object, place: int) -> tuple[int, bytes]:
    if isinstance(document, dict) and isinstance(document.get("digest"), str):
        name = str(document.get("hashAlg")).lower().replace("-", "")
        algorithm = _ALGORITHM_IDS.get(name, 0)
        return _digest(algorithm, _json_bytes(document["digest"], place), f"in record {place}")
    raise MalformedError(f"CEL: record {place} has a digest without hashAlg and digest", hint=DAMAGED)


def _json_content(content_type: str, content: object, place: int) -> bytes:
    """The TLV form of what has one, else the JSON itself."""
    if isinstance(content, dict):
        event_type, event_data = content.get("event_type"), content.get("event_data")
        if content_type == "pcclient_std" and isinstance(event_type, int) and isinstance(event_data, str):
            return _firmware_event(event_type, _json_bytes(event_data, place), f"record {place}")
        name, template = content.get("template_name"), content.get("template_data")
        if content_type == "ima_template" and isinstance(name, str) and isinstance(template, str):
            return tlv(0, name.encode("utf-8", "replace")) + tlv(1, _json_bytes(template, place))
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _json_bytes(text: str, place: int) -> bytes:
    """Bytes in hexadecimal digits or base64 (of either alphabet, padded or not)."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(
            f"CEL: record {place} has {text[:40]!r} in place of hexadecimal digits or base64", hint=DAMAGED
        ) from None
