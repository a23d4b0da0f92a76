"""The document that carries a TD's evidence to whoever verifies it: JSON, version 1."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tdxstack.errors import MalformedError
from tdxstack.evidence.binding import NONCE_SIZE, report_data
from tdxstack.evidence.registers import REGISTER_SIZE
from tdxstack.evidence.tdreport import REPORT_SIZE

TYPE = "tdxstack evidence"
VERSION = 1

MAX_JSON = 64 << 20
MAX_BLOB = 16 << 20
"""The kernel's own limit for a quote (TSM_REPORT_OUTBLOB_MAX); more than any log area."""
MAX_HOST_KEY = 8192
MAX_TEXT = 256
MAX_REGISTERS = 32
CCEL_TABLE_SIZE = 56

HINT = "give the output of 'tdx-guest collect', unchanged"

NAME = re.compile(r"[a-z0-9_:.-]{1,64}")
ABSENT = ("ccel", "measurements")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a TD says about itself. Nothing in it is to be believed before the quote is verified.

    | key          | JSON                  | content                                                    |
    |--------------|-----------------------|------------------------------------------------------------|
    | type         | "tdxstack evidence"   |                                                            |
    | version      | 1                     |                                                            |
    | nonce        | hex, 32 bytes         | the verifier's nonce                                       |
    | host_key     | base64                | SSH host public key, wire blob; empty where there is none  |
    | tdreport     | base64, 1024 bytes    | TDREPORT with the REPORTDATA of `report_data`              |
    | quote        | base64                | quote with the same REPORTDATA, as the kernel gave it      |
    | provider     | text                  | configfs-tsm's provider, or `qgs` for a quote over vsock   |
    | generation   | number                | configfs-tsm's generation, or 0                            |
    | ccel_table   | base64, 56 bytes/null | ACPI CCEL table                                            |
    | ccel_data    | base64/null           | event log without its padding, see `ccel_log`              |
    | measurements | {name: hex}/null      | the kernel's register files, 48 bytes each                 |
    | absent       | {key: text}           | why `ccel` or `measurements` is null                       |
    | kernel       | text                  | uname -r                                                   |
    | os           | text                  | PRETTY_NAME of /etc/os-release                             |
    """

    nonce: bytes
    host_key: bytes
    tdreport: bytes
    quote: bytes
    provider: str
    generation: int
    ccel_table: bytes | None
    ccel_data: bytes | None
    measurements: Mapping[str, bytes] | None
    kernel: str
    os: str
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def report_data(self) -> bytes:
        """The REPORTDATA that the nonce and the host key ask for, 64 bytes."""
        return report_data(self.nonce, self.host_key)

    def to_json(self) -> str:
        """The document, as one line."""
        registers = self.measurements
        return json.dumps(
            {
                "type": TYPE,
                "version": VERSION,
                "nonce": self.nonce.hex(),
                "host_key": _base64(self.host_key),
                "tdreport": _base64(self.tdreport),
                "quote": _base64(self.quote),
                "provider": self.provider,
                "generation": self.generation,
                "ccel_table": None if self.ccel_table is None else _base64(self.ccel_table),
                "ccel_data": None if self.ccel_data is None else _base64(self.ccel_data),
                "measurements": None if registers is None else {k: v.hex() for k, v in registers.items()},
                "absent": dict(self.absent),
                "kernel": self.kernel,
                "os": self.os,
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """Read a document. Raises `MalformedError`, which names the key, on anything but a sound one."""
        fields = _Fields(_load(text))
        if fields.text("type") != TYPE:
            raise _bad("type", f"is not {TYPE!r}")
        if (version := fields.number("version")) != VERSION:
            raise _bad("version", f"is {version}, this program reads {VERSION}")
        evidence = cls(
            nonce=fields.hexadecimal("nonce", NONCE_SIZE),
            host_key=fields.blob("host_key", MAX_HOST_KEY),
            tdreport=fields.blob("tdreport", REPORT_SIZE, exact=True),
            quote=fields.blob("quote", MAX_BLOB),
            provider=fields.text("provider"),
            generation=fields.number("generation"),
            ccel_table=fields.blob_or_none("ccel_table", CCEL_TABLE_SIZE, exact=True),
            ccel_data=fields.blob_or_none("ccel_data", MAX_BLOB),
            measurements=fields.registers("measurements"),
            kernel=fields.text("kernel"),
            os=fields.text("os"),
            absent=fields.reasons("absent"),
        )
        fields.end()
        if (evidence.ccel_table is None) != (evidence.ccel_data is None):
            raise _bad("ccel_data", "and 'ccel_table' must both be there or both be null")
        return evidence


class _Fields:
    """The members of the JSON object, taken out one by one."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def take(self, key: str) -> Any:
        if key not in self._members:
            raise _bad(key, "is missing")
        return self._members.pop(key)

    def end(self) -> None:
        for key in self._members:
            raise _bad(key[:MAX_TEXT], "is unknown")

    def text(self, key: str) -> str:
        return _short_text(key, self.take(key))

    def number(self, key: str) -> int:
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise _bad(key, "is not a whole number from 0 on")
        return value

    def hexadecimal(self, key: str, size: int) -> bytes:
        return _hexadecimal(key, self.take(key), size)

    def blob_or_none(self, key: str, size: int, *, exact: bool = False) -> bytes | None:
        value = self.take(key)
        return None if value is None else _blob(key, value, size, exact=exact)

    def blob(self, key: str, size: int, *, exact: bool = False) -> bytes:
        return _blob(key, self.take(key), size, exact=exact)

    def registers(self, key: str) -> dict[str, bytes] | None:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict) or len(value) > MAX_REGISTERS:
            raise _bad(key, f"is not an object of at most {MAX_REGISTERS} registers")
        for name in value:
            if not NAME.fullmatch(name):
                raise _bad(key, f"has a register with the name {name[:MAX_TEXT]!r}")
        return {name: _hexadecimal(f"{key}.{name}", text, REGISTER_SIZE) for name, text in value.items()}

    def reasons(self, key: str) -> dict[str, str]:
        value = self.take(key)
        if not isinstance(value, dict) or not set(value) <= set(ABSENT):
            raise _bad(key, f"is not an object with some of the keys {', '.join(ABSENT)}")
        return {name: _short_text(f"{key}.{name}", text) for name, text in value.items()}


def _load(text: str | bytes) -> dict[str, Any]:
    """The JSON object of a document; no key may come twice."""
    if len(text) > MAX_JSON:
        raise MalformedError(f"evidence: {len(text)} bytes, at most {MAX_JSON} are read", hint=HINT)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MalformedError("evidence: it is not JSON", hint=HINT) from None
    if not isinstance(value, dict):
        raise MalformedError("evidence: it is not a JSON object", hint=HINT)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("evidence: a key comes twice in one object", hint=HINT)
    return members


def _short_text(key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _bad(key, f"is not a printable text of at most {MAX_TEXT} characters")
    return value


def _hexadecimal(key: str, value: Any, size: int) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise _bad(key, f"is not {size} bytes as lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _blob(key: str, value: Any, size: int, *, exact: bool) -> bytes:
    if not isinstance(value, str):
        raise _bad(key, "is not base64")
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        raise _bad(key, "is not base64") from None
    if _base64(data) != value:
        raise _bad(key, "is not base64 in its one proper form")
    if len(data) > size or (exact and len(data) != size):
        raise _bad(key, f"has {len(data)} bytes, {'not' if exact else 'more than'} {size}")
    return data


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _bad(key: str, problem: str) -> MalformedError:
    return MalformedError(f"evidence: {key!r} {problem}", hint=HINT)
