"""Reference values: what the registers of a TD should be, or which events should have made them.

A file of them is JSON:

| member      | is                                                                                          |
|-------------|---------------------------------------------------------------------------------------------|
| `type`      | "tdxstack reference values"                                                                 |
| `version`   | 1                                                                                           |
| `name`      | what they describe, for people                                                              |
| `registers` | for each register name the list of values that it may have, 48 bytes in hexadecimal         |
| `events`    | for each register name the list of all its events: `type`, `digest` (null: any), `meaning`,  |
|             | and for an open digest the `reason`                                                         |

A register is in one of them, or in none if nothing is demanded of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tdxstack.abi.event_log import (
    EV_EFI_HANDOFF_TABLES,
    EV_EFI_HANDOFF_TABLES2,
    EV_PLATFORM_CONFIG_FLAGS,
    EVENT_TYPE_NAMES,
)
from tdxstack.errors import MalformedError
from tdxstack.measurement.expected import PREDICTED_REGISTERS, ExpectedEvent, Prediction

TYPE: Final = "tdxstack reference values"
VERSION: Final = 1
REGISTERS: Final = ("mrseam", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
DIGEST_SIZE: Final = 48
MAX_SIZE: Final = 4 << 20
"""Bytes of a file that is read."""

MACHINE_SIZE: Final = "it depends on the machine's size and devices"
_HINT: Final = "make the file anew with `tdx predict --output`"
_TYPES: Final = {name: kind for kind, name in EVENT_TYPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class ReferenceEvent:
    """One event that must be there; `digest` has 48 bytes, or is None where any will do, for `reason`."""

    type: int
    digest: bytes | None
    meaning: str
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """type, digest, meaning; `reason` only where there is one."""
        document: dict[str, object] = {
            "type": EVENT_TYPE_NAMES[self.type],
            "digest": self.digest.hex() if self.digest is not None else None,
            "meaning": self.meaning,
        }
        return document | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True, slots=True)
class Reference:
    """What is demanded of the registers: values to choose from, or the whole list of events."""

    name: str
    registers: Mapping[str, tuple[bytes, ...]]
    events: Mapping[str, tuple[ReferenceEvent, ...]]

    @classmethod
    def of(cls, prediction: Prediction, name: str, *, portable: bool = False) -> Reference:
        """The reference values of a prediction.

        A register whose value is known is pinned to it, MRTD to both orders of adding pages; one with an
        event that cannot be predicted is described by its events, and left out where it is not known which
        those are. `portable` leaves the digests of the TD
        HOB, ACPI and SMBIOS events open, so that machines of different sizes share one reference: whoever
        starts the TD may then choose what those tables say.
        """
        registers: dict[str, tuple[bytes, ...]] = {}
        if prediction.mrseam is not None:
            registers["mrseam"] = (prediction.mrseam,)
        if prediction.mrtd is not None:
            orders = (prediction.mrtd.single_pass, prediction.mrtd.two_pass)
            registers["mrtd"] = tuple(dict.fromkeys(orders))
        events = {}
        for register in PREDICTED_REGISTERS:
            own = tuple(
                _reference_event(event, portable) for event in prediction.events if event.register == register
            )
            if any(event.register == register and event.and_more for event in prediction.events):
                continue
            value = prediction.registers[register]
            if value is not None and all(event.digest is not None for event in own):
                registers[register] = (value,)
            else:
                events[register] = own
        return cls(name, registers, events)

    def open_events(self) -> tuple[tuple[str, ReferenceEvent], ...]:
        """(register, event) of every event that may have any digest."""
        return tuple(
            (register, event)
            for register, events in self.events.items()
            for event in events
            if event.digest is None
        )

    @classmethod
    def from_json(cls, data: bytes) -> Reference:
        """Read a file. Raises `MalformedError` naming the member."""
        if len(data) > MAX_SIZE:
            raise _bad("the file", f"is longer than {MAX_SIZE >> 20} MiB")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise _bad("the file", "is not JSON") from None
        if not isinstance(document, dict) or document.get("type") != TYPE:
            raise _bad("type", f"is not {TYPE!r}")
        if document.get("version") != VERSION:
            raise _bad("version", f"is {document.get('version')!r}, known is {VERSION}")
        unknown = sorted(set(document) - {"type", "version", "name", "registers", "events"})
        if unknown:
            raise _bad(unknown[0], "is unknown")
        name, registers, events = (document.get(key) for key in ("name", "registers", "events"))
        if not isinstance(name, str) or not isinstance(registers, dict) or not isinstance(events, dict):
            raise _bad("name, registers or events", "is missing or of another kind")
        for register in (*registers, *events):
            if register not in REGISTERS:
                raise _bad(register, "is no register")
        both = sorted(set(registers) & set(events))
        if both:
            raise _bad(both[0], "has values and events; one of them is needed")
        return cls(
            name,
            {register: _values(register, values) for register, values in registers.items()},
            {register: _events(register, values) for register, values in events.items()},
        )

    def to_json(self) -> bytes:
        """The file."""
        document = {
            "type": TYPE,
            "version": VERSION,
            "name": self.name,
            "registers": {
                register: [value.hex() for value in values] for register, values in self.registers.items()
            },
            "events": {
                register: [event.to_json() for event in events] for register, events in self.events.items()
            },
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def _reference_event(event: ExpectedEvent, portable: bool) -> ReferenceEvent:
    if portable and _of_machine(event):
        return ReferenceEvent(event.type, None, event.meaning, MACHINE_SIZE)
    return ReferenceEvent(event.type, event.digest, event.meaning, event.reason)


def _of_machine(event: ExpectedEvent) -> bool:
    """Whether the event is the TD HOB's, an ACPI table's or SMBIOS's."""
    if event.type == EV_PLATFORM_CONFIG_FLAGS:
        return event.meaning.startswith("ACPI")
    return event.type in (EV_EFI_HANDOFF_TABLES, EV_EFI_HANDOFF_TABLES2)


def _values(register: str, values: object) -> tuple[bytes, ...]:
    if not isinstance(values, list) or not values:
        raise _bad(f"registers.{register}", "is no list of values")
    return tuple(_digest(f"registers.{register}[{number}]", value) for number, value in enumerate(values))


def _events(register: str, values: object) -> tuple[ReferenceEvent, ...]:
    if not isinstance(values, list):
        raise _bad(f"events.{register}", "is no list of events")
    return tuple(_event(f"events.{register}[{number}]", value) for number, value in enumerate(values))


def _event(where: str, value: Any) -> ReferenceEvent:
    if not isinstance(value, dict) or set(value) - {"type", "digest", "meaning", "reason"}:
        raise _bad(where, "is no event, or has members that are unknown")
    kind, meaning, reason = value.get("type"), value.get("meaning"), value.get("reason", "")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _bad(f"{where}.type", f"is {kind!r}, which is no event type")
    if not isinstance(meaning, str) or not isinstance(reason, str):
        raise _bad(f"{where}.meaning", "or reason is no text")
    if "digest" not in value:
        raise _bad(f"{where}.digest", "is missing; null leaves it open")
    digest = None if value["digest"] is None else _digest(f"{where}.digest", value["digest"])
    return ReferenceEvent(_TYPES[kind], digest, meaning, reason)


def _digest(where: str, value: object) -> bytes:
    digest = digest_of(value)
    if digest is None:
        raise _bad(where, f"is no value of {DIGEST_SIZE} bytes in hexadecimal digits")
    return digest


def digest_of(value: object) -> bytes | None:
    """The 48 bytes of a JSON value of hexadecimal digits; None if it is anything else."""
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_SIZE else None


def _bad(where: str, problem: str) -> MalformedError:
    return MalformedError(f"reference values: {where} {problem}", hint=_HINT)
