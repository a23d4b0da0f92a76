"""Expected events: what a TD will log and measure when it boots, worked out before it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tdxstack.abi.event_log import EV_EFI_BOOT_SERVICES_APPLICATION, EVENT_TYPE_NAMES, SHA384_SIZE
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.measurement.replay import extend

PREDICTED_REGISTERS = ("rtmr0", "rtmr1", "rtmr2")
"""RTMR3 is left to software inside the TD, and starts as zeros."""


@dataclass(frozen=True, slots=True)
class ExpectedEvent:
    """One event that a TD will log.

    `register` is rtmr0, rtmr1 or rtmr2; `digest` has 48 bytes, or is None where it cannot be known
    beforehand: `reason` then says why. `source` names the input that it comes from. `and_more`: it stands
    for all that follows in its register, and nobody knows how many events that is. `other_header` is the
    digest that a kernel has where QEMU does otherwise with its setup header. `data` is what the log will
    hold with the event, where that is the structure that was measured.
    """

    register: str
    type: int
    digest: bytes | None
    meaning: str
    source: str
    reason: str = ""
    and_more: bool = False
    other_header: bytes | None = None
    data: bytes | None = None

    @property
    def type_name(self) -> str:
        """The specification's name of the type."""
        return EVENT_TYPE_NAMES[self.type]

    def to_json(self) -> dict[str, object]:
        """The event as `tdx predict --json` shows it; some members only where they apply."""
        document: dict[str, object] = {
            "register": self.register,
            "type": self.type_name,
            "digest": self.digest.hex() if self.digest is not None else None,
            "meaning": self.meaning,
            "source": self.source,
        }
        if self.other_header is not None:
            document["other_header"] = self.other_header.hex()
        if self.data is not None:
            document["data"] = self.data.hex()
        return document | ({"reason": self.reason} if self.reason else {})


def hashed(
    register: str, kind: int, measured: bytes, meaning: str, source: str, *, data: bytes | None = None
) -> ExpectedEvent:
    """The event whose digest is that of `measured`; `data` is what the log will hold with it."""
    digest = hashlib.sha384(measured).digest()
    return ExpectedEvent(register, kind, digest, meaning, source, data=data)


def unknown(register: str, kind: int, meaning: str, source: str, reason: str) -> ExpectedEvent:
    """An event that will be there, with a digest that cannot be known; its register cannot be either."""
    return ExpectedEvent(register, kind, None, meaning, source, reason)


def unknown_rest(meaning: str, source: str, reason: str) -> list[ExpectedEvent]:
    """One event for each register, in the place of everything from here on."""
    kind = EV_EFI_BOOT_SERVICES_APPLICATION
    return [
        ExpectedEvent(register, kind, None, meaning, source, reason, and_more=True)
        for register in PREDICTED_REGISTERS
    ]


@dataclass(frozen=True, slots=True)
class Prediction:
    """All events in the order in which they are logged, and MRTD in both orders of adding pages.

    `mrtd` is None where the firmware is not known. `mrseam` has 48 bytes; None where it is not said which TDX
    module will run. `guess` says what release the firmware is taken for where its image does not say so; else
    empty.
    """

    events: tuple[ExpectedEvent, ...]
    mrtd: Mrtd | None
    mrseam: bytes | None = None
    guess: str = ""

    @property
    def registers(self) -> Mapping[str, bytes | None]:
        """MRTD (single pass, as upstream VMMs add pages) and the RTMRs; None for what cannot be known.

        MRSEAM comes first where the module is known, and is absent otherwise.
        """
        module = {"mrseam": self.mrseam} if self.mrseam is not None else {}
        return {
            **module,
            "mrtd": self.mrtd.single_pass if self.mrtd else None,
            **{name: fold(self.events, name) for name in PREDICTED_REGISTERS},
        }

    @property
    def unpredicted(self) -> tuple[ExpectedEvent, ...]:
        """The events without a digest."""
        return tuple(event for event in self.events if event.digest is None)

    @property
    def whole(self) -> bool:
        """Whether every register is predicted."""
        return None not in self.registers.values()

    def to_json(self) -> dict[str, object]:
        """The document that `tdx predict --json` prints."""
        return {
            "registers": {
                name: value.hex() if value is not None else None for name, value in self.registers.items()
            },
            "mrtd": {
                "single_pass": self.mrtd.single_pass.hex() if self.mrtd else None,
                "two_pass": self.mrtd.two_pass.hex() if self.mrtd else None,
            },
            "events": [event.to_json() for event in self.events],
        }


def fold(events: Iterable[ExpectedEvent], register: str) -> bytes | None:
    """What a register holds after its events; None if one of them is not known."""
    value = bytes(SHA384_SIZE)
    for event in events:
        if event.register == register:
            if event.digest is None:
                return None
            value = extend(value, event.digest)
    return value
