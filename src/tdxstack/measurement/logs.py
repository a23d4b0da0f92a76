"""Logs of measurements of every kind that tdxstack reads: recognised, and listed line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tdxstack.abi.aael import is_aael, parse_aael
from tdxstack.abi.cel import ALGORITHMS, CelRecord, is_cel, parse_cel, read_tlvs
from tdxstack.abi.event_log import (
    ALG_SHA384,
    EV_NO_ACTION,
    EVENT_TYPE_NAMES,
    MR_NAMES,
    SHA384_SIZE,
    SPEC_ID_CRYPTO_AGILE,
    Event,
    EventLog,
    SpecId,
)
from tdxstack.abi.ima_log import ImaEntry, is_binary, is_text, parse_ima_log
from tdxstack.errors import MalformedError
from tdxstack.measurement.describe import describe
from tdxstack.measurement.digests import Status, check_digest
from tdxstack.measurement.ima import (
    ALGORITHM_OF_SIZE,
    describe_ima,
)
from tdxstack.measurement.log_profile import Firmware, classify
from tdxstack.measurement.replay import RTMR_COUNT
from tdxstack.measurement.text import printable

SPEC_ID_PLACE = slice(32, 48)

NO_LOG = "give a CCEL or TPM event log, an IMA log, an attestation agent's log or a canonical event log"
OTHERS: Final = (
    (b"CCEL", "the ACPI table CCEL", "give the log itself: /sys/firmware/acpi/tables/data/CCEL"),
    (b"HCLA", "an HCL report", "see: tdx report show"),
    (b"\x81\0\0\0", "a TDREPORT", "see: tdx report show"),
    (b"\x81\0\1\0", "a TDREPORT", "see: tdx report show"),
    *((bytes((version, 0, 2, 0)), "a quote", "see: tdx quote show") for version in (3, 4, 5)),
)
"""How other evidence starts, what it is, and what to do with it."""


class LogKind(StrEnum):
    """The kinds, by the names that `--format` takes."""

    TCG = "tcg"
    AAEL = "aael"
    IMA = "ima"
    CEL = "cel"


Digests = tuple[tuple[tuple[str, bytes], ...], Status]
"""Digests by the name of the algorithm, and whether they are those of the logged data."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One measurement, as people read it.

    `register`: rtmr0 to rtmr3 (or mrtd), pcrN, or nv 0xN. `digests`: by the name of the algorithm.
    `digest_status`: as in `DigestCheck`, whether the digest is that of the logged data.
    """

    register: str
    type: str
    digests: tuple[tuple[str, bytes], ...]
    digest_status: Status
    meaning: str


@dataclass(frozen=True, slots=True)
class Log:
    """A log that was read whole, so that going through it raises nothing.

    `parsed` is empty for an IMA log, which is read again each time: it may hold a million entries. `count`:
    the entries, with the header of a crypto-agile log, which is an event that extends nothing.
    """

    kind: LogKind
    data: bytes
    parsed: tuple[Event, ...] | tuple[CelRecord, ...]
    count: int
    spec_id: SpecId | None = None

    @property
    def of_td(self) -> bool:
        """Whether all that it has is extended into RTMRs, with SHA-384 digests. IMA logs do not say so."""
        return self.kind is not LogKind.IMA and all(map(_is_rtmr_extension, filter(extends, self.parsed)))

    @property
    def firmware(self) -> Firmware | None:
        """Whose firmware wrote it; None for a log that no firmware of a TD writes."""
        if self.kind is not LogKind.TCG or not self.of_td or not any(map(extends, self.parsed)):
            return None
        return classify(tuple(self.entries()))

    def entries(self) -> Iterator[LogEntry]:
        """The measurements in order."""
        if self.kind is LogKind.IMA:
            yield from map(_ima_entry, parse_ima_log(self.data))
        of_td = self.of_td
        if self.spec_id:
            yield _header_entry(self.spec_id, of_td)
        for item in self.parsed:
            yield _event_entry(item, of_td) if isinstance(item, Event) else _cel_entry(item)

    def digests(self) -> Iterator[Digests]:
        """Of each entry the digests and their status: `entries` without the words, which take longest."""
        if self.kind is LogKind.IMA:
            yield from map(_ima_digests, parse_ima_log(self.data))
        if self.spec_id:
            yield (), "not_applicable"
        for item in self.parsed:
            yield _event_digests(item) if isinstance(item, Event) else _cel_digests(item)


def recognise(data: bytes) -> LogKind:
    """What kind of log `data` is. Raises `MalformedError` if it is none, naming other evidence that it is."""
    if is_text(data):
        return LogKind.IMA
    if is_aael(data):
        return LogKind.AAEL
    if data[SPEC_ID_PLACE] == SPEC_ID_CRYPTO_AGILE:
        return LogKind.TCG
    if is_binary(data):
        return LogKind.IMA
    refuse_other_evidence(data, "log")
    if is_cel(data):
        return LogKind.CEL
    if len(data) >= 32 and int.from_bytes(data[4:8], "little") in EVENT_TYPE_NAMES:
        return LogKind.TCG
    raise MalformedError(f"{len(data)} bytes are no log of a known kind", hint=NO_LOG)


def refuse_other_evidence(data: bytes, wanted: str) -> None:
    """Raise `MalformedError` if `data` is evidence of another kind than `wanted`, naming it."""
    for start, name, hint in OTHERS:
        if data.startswith(start):
            raise MalformedError(f"this is {name} and no {wanted}", hint=hint)


def read_log(data: bytes, kind: LogKind | None = None) -> Log:
    """Read a log of the given kind, or of the one that it is recognised as. Raises `MalformedError`."""
    match kind or recognise(data):
        case LogKind.TCG:
            log = EventLog.parse(data)
            count = len(log.events) + (log.spec_id is not None)
            return Log(LogKind.TCG, data, log.events, count, log.spec_id)
        case LogKind.AAEL:
            events = parse_aael(data)
            return Log(LogKind.AAEL, data, events, len(events))
        case LogKind.CEL:
            records = parse_cel(data)
            return Log(LogKind.CEL, data, records, len(records))
        case LogKind.IMA:
            return Log(LogKind.IMA, data, (), sum(1 for _ in parse_ima_log(data)))


def extends(item: Event | CelRecord) -> bool:
    """Whether a measurement was extended: EV_NO_ACTION and canonical records without digests only inform."""
    return item.type != EV_NO_ACTION if isinstance(item, Event) else bool(item.digests)


def _is_rtmr_extension(item: Event | CelRecord) -> bool:
    digest = item.digest(ALG_SHA384)
    if isinstance(item, Event):
        return 1 <= item.mr_index <= RTMR_COUNT and digest is not None and len(digest) == SHA384_SIZE
    return item.register_kind == "ccmr" and 1 <= item.register <= RTMR_COUNT and digest is not None


def _header_entry(spec_id: SpecId, of_td: bool) -> LogEntry:
    algorithms = ", ".join(f"{_algorithm(number)} ({size} bytes)" for number, size in spec_id.algorithms)
    return LogEntry(
        _tcg_register(spec_id.mr_index, of_td),
        EVENT_TYPE_NAMES[EV_NO_ACTION],
        (),
        "not_applicable",
        f"header of the log, specification {spec_id.major}.{spec_id.minor:02}, digests: {algorithms}",
    )


def _tcg_register(index: int, of_td: bool) -> str:
    return MR_NAMES[index].lower() if of_td and index < len(MR_NAMES) else f"pcr{index}"


def _event_entry(event: Event, of_td: bool) -> LogEntry:
    register = _tcg_register(event.mr_index, of_td)
    return LogEntry(register, event.type_name, *_event_digests(event), describe(event))


def _event_digests(event: Event) -> Digests:
    return _named(event.digests), check_digest(event).status


def _ima_entry(entry: ImaEntry) -> LogEntry:
    return LogEntry(f"pcr{entry.pcr}", entry.template, *_ima_digests(entry), describe_ima(entry))


def _ima_digests(entry: ImaEntry) -> Digests:
    algorithm = ALGORITHM_OF_SIZE[len(entry.digest)]
    status: Status = "ok"
    if entry.violation:
        status = "not_applicable"
    elif hashlib.new(algorithm, entry.hashed()).digest() != entry.digest:
        status = "fail"
    return ((algorithm, entry.digest),), status


def _cel_entry(record: CelRecord) -> LogEntry:
    return LogEntry(cel_register(record), record.content_type, *_cel_digests(record), _cel_meaning(record))


def _cel_digests(record: CelRecord) -> Digests:
    return _named(record.digests), "unknown"


def _named(digests: tuple[tuple[int, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    return tuple((_algorithm(number), digest) for number, digest in digests)


def cel_register(record: CelRecord) -> str:
    """The name of a canonical record's register, as in `LogEntry`."""
    if record.register_kind == "ccmr":
        return f"rtmr{record.register - 1}" if record.register else "mrtd"
    return f"pcr{record.register}" if record.register_kind == "pcr" else f"nv 0x{record.register:x}"


def _cel_meaning(record: CelRecord) -> str:
    """Firmware's events and text in words; other content as it is."""
    try:
        parts = dict(read_tlvs(record.content))
    except MalformedError:
        return printable(record.content.decode("utf-8", "replace"))
    if record.content_type == "pcclient_std" and {0, 1} <= parts.keys():
        event = Event(0, int.from_bytes(parts[0], "big"), (), parts[1])
        return f"{event.type_name}: {describe(event)}"
    return ", ".join(
        f"{kind}: {printable(value.decode('utf-8', 'replace'))}" for kind, value in parts.items()
    )


def _algorithm(number: int) -> str:
    return ALGORITHMS.get(number, (f"0x{number:04x}", 0))[0]
