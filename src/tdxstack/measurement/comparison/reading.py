"""The sides of a comparison, read from what people have: logs, quotes, reports, evidence, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tdxstack.abi.event_log import EVENT_TYPE_NAMES, EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.abi.tdreport import TdReport
from tdxstack.errors import MalformedError
from tdxstack.evidence.document import Evidence
from tdxstack.measurement import reference
from tdxstack.measurement.comparison.memory_size import MIB
from tdxstack.measurement.comparison.side import (
    REGISTERS,
    Entry,
    Side,
    entries_of_log,
    text_digests,
    type_value,
)
from tdxstack.measurement.reference import Reference, digest_of
from tdxstack.measurement.replay import replay

NOT_KNOWN = (
    "give an event log, a quote, a TDREPORT, evidence of `tdx-guest collect`, or what `tdx predict` wrote"
)
COMMAND_LINE = "kernel command line: "
"""How the meaning of a predicted event begins whose text is measured."""
MAX_EVENTS = 100_000
"""Events of a prediction that are read."""


def read_side(name: str, data: bytes, texts: Iterable[str] = ()) -> Side:
    """What `data` is, found out from the data; `name` is how people call it.

    `texts` are command lines that the log may have measured. Raises `MalformedError` for anything else.
    """
    if data.lstrip()[:1] == b"{":
        return _of_json(name, data, texts)
    problems = []
    for read in (_of_report, _of_quote, _of_log):
        try:
            return read(name, data, texts)
        except MalformedError as error:
            problems.append(error.message)
    raise MalformedError(f"{name} is none of what can be compared ({'; '.join(problems)})", hint=NOT_KNOWN)


def _of_report(name: str, data: bytes, texts: Iterable[str]) -> Side:
    report = TdReport.parse(data)
    info = report.td_info
    registers = {"mrseam": report.tcb_info.mrseam, "mrtd": info.mrtd}
    registers |= {f"rtmr{number}": value for number, value in enumerate(info.rtmrs)}
    return Side(name, "TDREPORT", registers)


def _of_quote(name: str, data: bytes, texts: Iterable[str]) -> Side:
    return Side(name, "quote", _registers(Quote.parse(data)))


def _registers(quote: Quote) -> Mapping[str, bytes]:
    body = quote.body
    if not isinstance(body, TdBody10):
        raise MalformedError("quote: it is of an SGX enclave, which has no such registers", hint=NOT_KNOWN)
    return {name: getattr(body, name) for name in REGISTERS}


def _of_log(name: str, data: bytes, texts: Iterable[str]) -> Side:
    log = EventLog.parse(data)
    entries = entries_of_log(log.events, texts)
    registers = {f"rtmr{number}": value for number, value in enumerate(replay(log.events))}
    if not any(entry.register == "rtmr3" for entry in entries):
        del registers["rtmr3"]  # software extends it without logging here: nothing is known of it
    return Side(name, "event log", registers, entries)


def _of_json(name: str, data: bytes, texts: Iterable[str]) -> Side:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError(f"{name} is damaged JSON", hint=NOT_KNOWN) from None
    if isinstance(document, dict) and "ccel_data" in document:
        return _of_evidence(name, Evidence.from_json(data), texts)
    if isinstance(document, dict) and document.get("type") == reference.TYPE:
        return _of_reference(name, Reference.from_json(data))
    if isinstance(document, dict) and isinstance(document.get("events"), list):
        return _of_prediction(name, document)
    raise MalformedError(f"{name} is JSON of no kind that can be compared", hint=NOT_KNOWN)


def _of_evidence(name: str, evidence: Evidence, texts: Iterable[str]) -> Side:
    entries = entries_of_log(EventLog.parse(evidence.ccel_data).events, texts) if evidence.ccel_data else None
    return Side(name, "evidence", _registers(Quote.parse(evidence.quote)), entries)


def _of_reference(name: str, wanted: Reference) -> Side:
    """Reference values; of several for one register the first counts, MRTD's second is that of two passes."""
    registers = {register: values[0] for register, values in wanted.registers.items()}
    entries = tuple(
        Entry(register, EVENT_TYPE_NAMES[event.type], event.digest, event.meaning)
        for register, events in wanted.events.items()
        for event in events
    )
    unlogged = frozenset(REGISTERS) - frozenset(wanted.events)
    two_pass = wanted.registers.get("mrtd", ())[1:2]
    return Side(name, "reference values", registers, entries, unlogged, two_pass[0] if two_pass else None)


def _of_prediction(name: str, document: Mapping[str, Any]) -> Side:
    """The document that `tdx predict --json` prints."""
    if len(document["events"]) > MAX_EVENTS:
        raise MalformedError(f"{name} has more than {MAX_EVENTS} events", hint=NOT_KNOWN)
    entries = tuple(_entry(name, number, event) for number, event in enumerate(document["events"]))
    registers = document.get("registers")
    mrtd = document.get("mrtd")
    if not isinstance(registers, dict):
        raise MalformedError(f"{name}: registers is no object", hint=NOT_KNOWN)
    known = {
        register: value
        for register in REGISTERS
        if (value := _digest(name, f"registers.{register}", registers.get(register))) is not None
    }
    two_pass = mrtd.get("two_pass") if isinstance(mrtd, dict) else None
    memory, vcpus = _machine(document.get("machine"))
    return Side(
        name,
        "prediction",
        known,
        entries,
        mrtd_two_pass=_digest(name, "mrtd.two_pass", two_pass),
        memory=memory,
        vcpus=vcpus,
        emulated=document.get("emulated") is True,
    )


def _machine(document: object) -> tuple[int | None, int | None]:
    """Memory in bytes and number of vCPUs, where the prediction says of which machine it is."""
    memory, vcpus = (
        (document.get("memory_mib"), document.get("vcpus")) if isinstance(document, dict) else (None, None)
    )
    return memory * MIB if isinstance(memory, int) else None, vcpus if isinstance(vcpus, int) else None


def _entry(name: str, number: int, event: object) -> Entry:
    where = f"events[{number}]"
    if not isinstance(event, dict):
        raise MalformedError(f"{name}: {where} is no object", hint=NOT_KNOWN)
    register, kind, meaning = (event.get(key) for key in ("register", "type", "meaning"))
    if register not in REGISTERS or not isinstance(kind, str) or not isinstance(meaning, str):
        raise MalformedError(f"{name}: {where} lacks a register, type or meaning", hint=NOT_KNOWN)
    if type_value(kind) is None:
        raise MalformedError(f"{name}: {where}.type is {kind!r}, which is no event type", hint=NOT_KNOWN)
    digest, other = (_digest(name, f"{where}.{key}", event.get(key)) for key in ("digest", "other_header"))
    text = meaning.removeprefix(COMMAND_LINE) if meaning.startswith(COMMAND_LINE) else None
    if text is None or digest not in text_digests(text):
        text = None
    return Entry(register, kind, digest, meaning, _data(name, where, event), text, other)


def _data(name: str, where: str, event: Mapping[str, object]) -> bytes | None:
    value = event.get("data")
    if value is None:
        return None
    try:
        return bytes.fromhex(value if isinstance(value, str) else "-")
    except ValueError:
        raise MalformedError(f"{name}: {where}.data is no hexadecimal digits", hint=NOT_KNOWN) from None


def _digest(name: str, where: str, value: object) -> bytes | None:
    if value is None:
        return None
    digest = digest_of(value)
    if digest is None:
        raise MalformedError(f"{name}: {where} is no SHA-384 in hexadecimal digits", hint=NOT_KNOWN)
    return digest
