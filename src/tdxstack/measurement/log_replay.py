"""What logs add up to: the RTMRs of a TD, or PCRs; and whether a quote or TDREPORT has the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from tdxstack.abi.cel import ALGORITHMS
from tdxstack.abi.event_log import ALG_SHA384, EV_NO_ACTION, SHA384_SIZE, Event
from tdxstack.abi.ima_log import parse_ima_log
from tdxstack.errors import MalformedError, UsageError
from tdxstack.measurement.ima import MAX_MISMATCHES, SIZE_OF_ALGORITHM, extend_rtmrs, replay_ima
from tdxstack.measurement.logs import Log, LogKind, cel_register, extends
from tdxstack.measurement.replay import RTMR_COUNT, Rtmrs, extend

NO_TD_LOG = "give the CCEL log of a TD first (/sys/firmware/acpi/tables/data/CCEL)"
DIFFERS = "differs: the log is another boot's, or software has extended the register without an event"
IMA_NOTE = "; a kernel with IMA in RTMRs does: give its IMA log as well"
UNLOGGED_RTMR3 = (
    "RTMR3 was extended, and the logs have no event for it: programs in the TD extend it without writing to"
    " the boot log; their own log, if they keep one, can be given as well"
)

STARTUP_LOCALITY = b"StartupLocality\0"


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
    digests = chain.from_iterable(log.digests() for log in logs)
    failing = (number for number, (_, status) in enumerate(digests) if status == "fail")
    wrong = tuple(islice(failing, MAX_MISMATCHES))
    if not logs[0].of_td:
        if len(logs) > 1:
            raise UsageError(
                "several logs are replayed together only for a TD", hint="give the TD's boot log first"
            )
        found = {name for named, _ in logs[0].digests() for name, _ in named}
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


def _rtmr_extensions(log: Log) -> Iterator[tuple[int, bytes]]:
    """RTMR index and digest of everything in a TD's log."""
    for item in filter(extends, log.parsed):
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
    for item in filter(extends, log.parsed):
        name = f"pcr{item.mr_index}" if isinstance(item, Event) else cel_register(item)
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
