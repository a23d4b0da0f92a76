"""Logs of measurements of every kind that tdxstack reads: recognised, listed line by line, replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
from tdxstack.abi.ima_log import is_binary, is_text, parse_ima_log
from tdxstack.errors import MalformedError, UsageError
from tdxstack.measurement.describe import describe
from tdxstack.measurement.digests import Status, check_digest
from tdxstack.measurement.ima import (
    ALGORITHM_OF_SIZE,
    SIZE_OF_ALGORITHM,
    describe_ima,
    extend_rtmrs,
    replay_ima,
)
from tdxstack.measurement.replay import RTMR_COUNT, Rtmrs, extend
from tdxstack.measurement.text import printable

NO_TD_LOG = "give the CCEL log of a TD first (/sys/firmware/acpi/tables/data/CCEL)"
DIFFERS = "differs: the log is another boot's, or software has extended the register without an event"
IMA_NOTE = "; a kernel with IMA in RTMRs does: give its IMA log as well"
UNLOGGED_RTMR3 = (
    "RTMR3 was extended, and the logs have no event for it: programs in the TD extend it without writing to"
    " the boot log; their own log, if they keep one, can be given as well"
)

SPEC_ID_PLACE = slice(32, 48)
STARTUP_LOCALITY = b"StartupLocality\0"

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
        return self.kind is not LogKind.IMA and all(map(_is_rtmr_extension, filter(_extends, self.parsed)))

    def entries(self) -> Iterator[LogEntry]:
        """The measurements in order."""
        if self.kind is LogKind.IMA:
            yield from _ima_entries(self.data)
        of_td = self.of_td
        if self.spec_id:
            yield _header_entry(self.spec_id, of_td)
        for item in self.parsed:
            yield _event_entry(item, of_td) if isinstance(item, Event) else _cel_entry(item)


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


@dataclass(frozen=True, slots=True)
class Replay:
    """What logs add up to.

    `events`: how many there are, headers included. `rtmrs`: of a TD's logs, else None. `rtmr_events`: how
    many extend each RTMR. `banks`: of other logs, the PCRs by algorithm and by name. `wrong_digests`: numbers
    of events (the first ten) whose digest is not that of the data logged with it. `not_computed`: algorithms
    that the log has digests of and Python may not have.
    """

    events: int
    rtmrs: Rtmrs | None
    rtmr_events: tuple[int, ...]
    banks: dict[str, dict[str, bytes]] | None
    wrong_digests: tuple[int, ...]
    not_computed: tuple[str, ...] = ()


def replay_logs(logs: Sequence[Log]) -> Replay:
    """Replay logs of a TD one after the other into RTMRs, or one other log into PCRs.

    An IMA log after a TD's boot log extends RTMRs too (see `extend_rtmrs`). Raises `UsageError` for more
    logs than one without a TD's first, and `MalformedError` for one that cannot follow a TD's.
    """
    events = sum(log.count for log in logs)
    wrong = tuple(number for number, entry in _numbered(logs) if entry.digest_status == "fail")[:10]
    if not logs[0].of_td:
        if len(logs) > 1:
            raise UsageError(
                "several logs are replayed together only for a TD", hint="give the TD's boot log first"
            )
        found = {name for _, entry in _numbered(logs) for name, _ in entry.digests}
        missing = tuple(sorted(found - SIZE_OF_ALGORITHM.keys()))
        return Replay(events, None, (), _replay_banks(logs[0]), wrong, missing)
    rtmrs: Rtmrs = (bytes(SHA384_SIZE),) * 4
    counts = [0] * RTMR_COUNT
    for log in logs:
        if log.kind is LogKind.IMA:
            before, rtmrs = rtmrs, extend_rtmrs(rtmrs, parse_ima_log(log.data))
            counts = [count + (old != new) for count, old, new in zip(counts, before, rtmrs, strict=True)]
            continue
        if not log.of_td:
            raise MalformedError(
                f"the {log.kind} log has events that extend no RTMR", hint="give logs of one TD together"
            )
        registers = list(rtmrs)
        for index, digest in _rtmr_extensions(log):
            registers[index] = extend(registers[index], digest)
            counts[index] += 1
        rtmrs = (registers[0], registers[1], registers[2], registers[3])
    return Replay(events, rtmrs, tuple(counts), None, wrong)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Replayed RTMRs against measured ones. `matches`: whether each is equal. `notes`: what explains a
    difference. `good`: whether all are equal, but for an RTMR3 that no event of the logs extends."""

    matches: tuple[bool, ...]
    notes: tuple[str, ...]
    good: bool


def compare_rtmrs(replay: Replay, measured: Rtmrs) -> Comparison:
    """Compare what logs add up to with the RTMRs of a quote or report. Raises `UsageError` for PCRs.

    Programs in a TD extend RTMR3 without writing into its boot log. One that differs although the logs have
    no event for it is told in a note, and is not taken for tampering.
    """
    if replay.rtmrs is None:
        raise UsageError("this log is not a TD's: it has PCRs, and no RTMRs to compare", hint=NO_TD_LOG)
    matches = tuple(ours == theirs for ours, theirs in zip(replay.rtmrs, measured, strict=True))
    notes = []
    for index, match in enumerate(matches):
        if match:
            continue
        if replay.rtmr_events[index]:
            notes.append(f"RTMR{index} {DIFFERS}{IMA_NOTE if index == 2 else ''}")
        elif index < RTMR_COUNT - 1:
            notes.append(f"RTMR{index}: the logs have no event for it")
    unlogged = not matches[3] and not replay.rtmr_events[3]
    if unlogged:
        notes.append(UNLOGGED_RTMR3)
    return Comparison(matches, tuple(notes), all(matches[:3]) and (matches[3] or unlogged))


def _numbered(logs: Sequence[Log]) -> Iterator[tuple[int, LogEntry]]:
    number = 0
    for log in logs:
        for entry in log.entries():
            yield number, entry
            number += 1


def _extends(item: Event | CelRecord) -> bool:
    """EV_NO_ACTION and canonical records without digests only inform."""
    return item.type != EV_NO_ACTION if isinstance(item, Event) else bool(item.digests)


def _is_rtmr_extension(item: Event | CelRecord) -> bool:
    digest = item.digest(ALG_SHA384)
    if isinstance(item, Event):
        return 1 <= item.mr_index <= RTMR_COUNT and digest is not None and len(digest) == SHA384_SIZE
    return item.register_kind == "ccmr" and 1 <= item.register <= RTMR_COUNT and digest is not None


def _rtmr_extensions(log: Log) -> Iterator[tuple[int, bytes]]:
    """RTMR index and digest of everything in a TD's log."""
    for item in filter(_extends, log.parsed):
        index = item.mr_index if isinstance(item, Event) else item.register
        yield index - 1, item.digest(ALG_SHA384) or b""


def _replay_banks(log: Log) -> dict[str, dict[str, bytes]]:
    """The PCRs of each bank that the log has digests for and that can be computed."""
    if log.kind is LogKind.IMA:
        return {
            algorithm: {
                f"pcr{pcr}": value
                for pcr, value in sorted(replay_ima(parse_ima_log(log.data), algorithm).registers.items())
            }
            for algorithm in ("sha1", "sha256", "sha384")
        }
    banks: dict[str, dict[str, bytes]] = {}
    locality = next(
        (item.data[-1:] for item in log.parsed if isinstance(item, Event) and _is_locality(item)), b"\0"
    )
    for item in filter(_extends, log.parsed):
        name = f"pcr{item.mr_index}" if isinstance(item, Event) else _cel_register(item)
        for number, digest in item.digests:
            algorithm, size = ALGORITHMS.get(number, ("", 0))
            if algorithm not in SIZE_OF_ALGORITHM or len(digest) != size:
                continue
            bank = banks.setdefault(algorithm, {})
            start = bytes(size - 1) + (locality if name == "pcr0" else b"\0")
            bank[name] = hashlib.new(algorithm, bank.get(name, start) + digest).digest()
    return {
        algorithm: dict(sorted(bank.items(), key=lambda item: (len(item[0]), item[0])))
        for algorithm, bank in banks.items()
    }


def _is_locality(event: Event) -> bool:
    return event.type == EV_NO_ACTION and event.data.startswith(STARTUP_LOCALITY) and len(event.data) == 17


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
    return LogEntry(
        _tcg_register(event.mr_index, of_td),
        event.type_name,
        tuple((_algorithm(number), digest) for number, digest in event.digests),
        check_digest(event).status,
        describe(event),
    )


def _ima_entries(data: bytes) -> Iterator[LogEntry]:
    for entry in parse_ima_log(data):
        algorithm = ALGORITHM_OF_SIZE[len(entry.digest)]
        status: Status = "ok"
        if entry.violation:
            status = "not_applicable"
        elif hashlib.new(algorithm, entry.hashed()).digest() != entry.digest:
            status = "fail"
        yield LogEntry(
            f"pcr{entry.pcr}", entry.template, ((algorithm, entry.digest),), status, describe_ima(entry)
        )


def _cel_entry(record: CelRecord) -> LogEntry:
    digests = tuple((_algorithm(number), digest) for number, digest in record.digests)
    return LogEntry(_cel_register(record), record.content_type, digests, "unknown", _cel_meaning(record))


def _cel_register(record: CelRecord) -> str:
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
