"""What hostile input may cost: at most 64 MiB of memory for 16 MiB of it, and time in proportion to it.

Memory is what Python allocates while parsing, input not counted. Time is not judged by itself: eight times
the input may take at most forty times as long, where a parser of quadratic time takes sixty-four times.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest

from tdxstack.abi import event_log
from tdxstack.abi.aael import parse_aael
from tdxstack.abi.cel import parse_cel
from tdxstack.abi.event_log import Event, EventLog
from tdxstack.abi.hcl_report import HclReport
from tdxstack.abi.ima_log import parse_ima_log
from tdxstack.abi.quote import Quote
from tdxstack.cli.evidence_input import MAX_SIZE, decode_evidence
from tdxstack.errors import MalformedError
from tdxstack.measurement.describe import describe
from tdxstack.measurement.logs import read_log
from tdxstack.measurement.signature_list import X509
from tests.unit.abi.test_cel import as_cbor, as_json, cbor_record, document
from tests.unit.abi.test_cel import packed as cel_record
from tests.unit.abi.test_hcl_report import packed as hcl_report
from tests.unit.abi.test_ima_log import NG
from tests.unit.abi.test_ima_log import packed as ima_entry
from tests.unit.abi.test_quote import KINDS
from tests.unit.measurement.test_describe import GLOBAL, node, signature_list
from tests.unit.measurement.test_logs import header

MIB = 1 << 20
ALLOWED = 64 * MIB
SMALL = 32 * 1024
SLOWER = 40
"""How much longer eight times the input may take."""


def parse_ima(data: bytes) -> None:
    for entry in parse_ima_log(data):
        entry.hashed()


def described(kind: int) -> Callable[[bytes], object]:
    """Put the data into an event of this type, then into words."""
    return lambda data: describe(Event(1, kind, (), data))


def variable(value: bytes) -> bytes:
    return struct.pack("<16sQQ", GLOBAL, 2, len(value)) + "db".encode("utf-16-le") + value


MANY_ALGORITHMS = tuple((number, 0) for number in range(16))
TINY_IMA = struct.pack("<I20sI3sI", 10, b"D" * 20, 3, b"a|b", 0)
QUOTE = KINDS["v5-td15"].to_bytes()
SIGNATURE_SIZE = 48 + 6 + 648
WIDE_QUOTE = QUOTE[:SIGNATURE_SIZE]

PARSERS: dict[str, tuple[Callable[[bytes], object], bytes, bytes]] = {
    "events of SHA-1": (EventLog.parse, b"", struct.pack("<II20sI", 1, 4, b"x", 0)),
    "events without bytes": (EventLog.parse, header((11, 0)), struct.pack("<IIIHI", 1, 4, 1, 11, 0)),
    "events of 16 digests": (
        EventLog.parse,
        header(*MANY_ALGORITHMS),
        struct.pack("<III", 1, 4, 16) + struct.pack("<16H", *range(16)) + bytes(4),
    ),
    "padding": (EventLog.parse, header((12, 48)), b"\xff"),
    "IMA entries": (parse_ima, b"", ima_entry(b"ima-ng", NG)),
    "IMA entries without data": (parse_ima, b"", TINY_IMA),
    "IMA lines": (parse_ima, b"", b"1 %s ima-ng 00 /\n" % (b"0" * 40)),
    "one IMA line": (parse_ima, b"1 %s ima-modsig 00 /" % (b"0" * 40), b" "),
    "CEL records": (parse_cel, b"", cel_record(digest=b"")),
    "CEL lines": (parse_cel, b"", as_json(document())[1:-1] + b"\n"),
    "CEL records in CBOR": (parse_cel, b"", as_cbor(cbor_record({3: []}))[1:]),
    "CBOR items": (parse_cel, b"\x9a\xff\xff\xff\xff", b"\0"),
    "CBOR content": (parse_cel, b"\xa5\0\0\1\0\3\x80\x09\x05\x0a\xa2\0\0\1\x5a\0\xff\xff\0", b"\0"),
    "empty lines": (parse_cel, b"{}", b"\n"),
    "JSON objects": (parse_cel, b"[", b'{"":0},'),
    "JSON depth": (parse_cel, b"", b"["),
    "attestation agent's lines": (parse_aael, b"INIT sha384/0\n", b"\n"),
    "a quote's padding": (Quote.parse, QUOTE, b"\0"),
    "runtime data": (lambda data: HclReport.parse(data).to_bytes(), hcl_report(), b"\0"),
    "digits": (decode_evidence, b"", b"0"),
    "base64": (decode_evidence, b"=", b"+"),
    "spaces": (decode_evidence, b"", b" "),
    "device path": (described(event_log.EV_EFI_BOOT_SERVICES_APPLICATION), bytes(32), node(1, 1, b"")),
    "text": (described(event_log.EV_IPL), b"", b"a"),
    "no text": (described(event_log.EV_IPL), b"", b"\x80"),
    "UTF-16": (described(event_log.EV_IPL), b"", b"a\0"),
    "keys": (
        described(event_log.EV_EFI_VARIABLE_DRIVER_CONFIG),
        variable(b"")[:32],
        signature_list(X509, [b"x"]),
    ),
    "variable's name": (
        described(event_log.EV_EFI_VARIABLE_BOOT),
        struct.pack("<16sQQ", GLOBAL, (MAX_SIZE - 32) // 2, 0),
        "\U0001f512".encode("utf-16-le"),
    ),
    "boot option": (
        described(event_log.EV_EFI_VARIABLE_BOOT),
        struct.pack("<16sQQ", GLOBAL, 0, MAX_SIZE - 32) + b"\1\0\0\0\0\0",
        "\U0001f512".encode("utf-16-le"),
    ),
    "tables": (described(event_log.EV_EFI_HANDOFF_TABLES), struct.pack("<Q", 1), bytes(24)),
}
"""Parser, how the input starts, and what fills it up."""

ONE_BY_ONE = ("IMA entries", "IMA entries without data", "IMA lines")
"""Kept no longer than it takes to read the next: judged on 1 MiB, as each costs the same."""

HALF_OF_ALL = ("CEL records", "CEL records in CBOR", "CEL lines")
"""Judged on 1 MiB too: that is about half of the records that there may be."""


def filled(name: str, size: int) -> bytes:
    _, start, piece = PARSERS[name]
    return start + piece * ((size - len(start)) // len(piece))


def run(name: str, data: bytes) -> None:
    try:
        PARSERS[name][0](data)
    except MalformedError as error:
        assert error.hint


@pytest.mark.parametrize("name", PARSERS)
def test_memory(name: str) -> None:
    size, allowed = MAX_SIZE, ALLOWED
    if name in ONE_BY_ONE:
        size, allowed = MIB, 4 * MIB
    elif name in HALF_OF_ALL:
        size, allowed = MIB, ALLOWED // 2
    data = filled(name, size)
    assert len(data) > size - 400
    peak = memory(lambda: run(name, data))
    assert peak < allowed, f"{peak / MIB:.1f} MiB"


@pytest.mark.parametrize("name", PARSERS)
def test_time_grows_with_the_input(name: str) -> None:
    small, large = filled(name, SMALL), filled(name, 8 * SMALL)
    assert took(name, large) < SLOWER * max(took(name, small), 50e-6)


def took(name: str, data: bytes) -> float:
    """Seconds of the processor, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        run(name, data)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", ["events of SHA-1", "IMA entries without data"])
def test_memory_of_a_list(name: str) -> None:
    """Going through a log of any kind keeps no more than the log itself."""
    data = filled(name, MIB // 8)

    def go_through() -> None:
        log = read_log(data)
        assert sum(1 for _ in log.entries()) == log.count

    assert memory(go_through) < 2 * MIB


def memory(work: Callable[[], object]) -> int:
    """The most bytes that were allocated at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
