"""One of the two things that are compared: its registers and, where it has one, its list of events."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tdxstack.abi.event_log import EV_IPL, EVENT_TYPE_NAMES, MR_NAMES, Event
from tdxstack.measurement.describe import describe
from tdxstack.measurement.replay import extend

BOOT_ORDER = "boot order"
GRUB_LINE = b"kernel_cmdline: "
MAX_CLAIM = 16 << 10
"""Bytes of a command line that a boot loader logs; Linux takes 2048 letters."""
WITHOUT_EVENTS = ("mrseam", "mrtd")
"""Registers that no log tells of."""
REGISTERS = (*WITHOUT_EVENTS, "rtmr0", "rtmr1", "rtmr2", "rtmr3")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, logged or predicted.

    `digest` has 48 bytes, or is None where it could not be predicted. `data` is what the log holds with it,
    None where a prediction does not say. `text` is what was measured, where that is known to be the text of
    `digest`.
    `other_header` is the digest that a kernel has where QEMU does otherwise with its setup header.
    """

    register: str
    type: str
    digest: bytes | None
    meaning: str
    data: bytes | None = None
    text: str | None = None
    other_header: bytes | None = None

    @property
    def subject(self) -> tuple[str, str]:
        """What the event is about, without its value; events of one subject are versions of each other."""
        if self.meaning.startswith(BOOT_ORDER):
            return self.type, BOOT_ORDER
        return self.type, self.meaning.partition(":")[0].partition(",")[0]

    def to_json(self) -> dict[str, object]:
        """register, type, digest, meaning; `text` only where it is known."""
        document: dict[str, object] = {
            "register": self.register,
            "type": self.type,
            "digest": self.digest.hex() if self.digest is not None else None,
            "meaning": self.meaning,
        }
        return document | ({"text": self.text} if self.text is not None else {})


@dataclass(frozen=True, slots=True)
class Side:
    """What one side says.

    `registers` has the names and values (48 bytes) that are known; `entries` is None where there is no log.

    `unlogged` are registers that it has no events of, though it has of others (pinned reference values).
    `mrtd_two_pass` is MRTD as a VMM would make it that adds all pages before it measures them.
    `memory` (bytes) and `vcpus` are given where they are known from elsewhere than the measurements.
    """

    name: str
    kind: str
    registers: Mapping[str, bytes]
    entries: tuple[Entry, ...] | None = None
    unlogged: frozenset[str] = frozenset()
    mrtd_two_pass: bytes | None = None
    memory: int | None = None
    vcpus: int | None = None
    emulated: bool = False

    def of_register(self, register: str) -> tuple[Entry, ...]:
        """The entries of one register, in the order of the log."""
        return tuple(entry for entry in self.entries or () if entry.register == register)

    def folded(self, register: str) -> bytes | None:
        """What the entries make of a register; None where there is no log or an entry without a digest."""
        if self.entries is None or register in self.unlogged or register in WITHOUT_EVENTS:
            return None
        value = bytes(48)
        for entry in self.of_register(register):
            if entry.digest is None:
                return None
            value = extend(value, entry.digest)
        return value


def entries_of_log(events: Iterable[Event], texts: Iterable[str] = ()) -> tuple[Entry, ...]:
    """The entries of a log's events that extend a register of a TD.

    `texts` are claims of what was measured (command lines), as is what boot loaders log of their own; one is
    believed only for an event whose digest is that of the text in UTF-16, with or without a zero at its end.
    """
    logged = tuple(events)
    known = {digest: text for text in (*_claims(logged), *texts) for digest in text_digests(text)}
    entries = []
    for event in logged:
        digest = event.digest()
        if event.extends and digest is not None and event.mr_index < len(MR_NAMES):
            register, kind = event.mr_name.lower(), event.type_name
            text = known.get(digest) or _grub_line(event, digest)
            entries.append(Entry(register, kind, digest, describe(event), event.data, text))
    return tuple(entries)


def _grub_line(event: Event, digest: bytes) -> str | None:
    """The command line that GRUB measures as bytes, where the digest is that of what it logs."""
    line = event.data.removeprefix(GRUB_LINE).rstrip(b"\0")
    is_one = event.type == EV_IPL and event.data.startswith(GRUB_LINE)
    return line.decode("latin-1") if is_one and hashlib.sha384(line).digest() == digest else None


def _claims(events: Iterable[Event]) -> Iterator[str]:
    """What boot loaders say that they have passed on as a command line."""
    for event in events:
        if event.type != EV_IPL or len(event.data) > MAX_CLAIM:
            continue
        if event.data.startswith(GRUB_LINE):
            line = event.data.removeprefix(GRUB_LINE).rstrip(b"\0").decode("latin-1")
            yield from (line, f"BOOT_IMAGE={line}")
        elif len(event.data) % 2 == 0:
            yield event.data.decode("utf-16-le", "surrogatepass").rstrip("\0")


def text_digests(text: str) -> tuple[bytes, bytes]:
    """What a text in UTF-16 is measured to, without and with the zero behind it."""
    measured = text.encode("utf-16-le", "surrogatepass")
    return hashlib.sha384(measured).digest(), hashlib.sha384(measured + b"\0\0").digest()


def type_value(name: str) -> int | None:
    """The number of an event type's name, which may be the number itself (0x...); None for any other."""
    if _NUMBER.fullmatch(name):
        return int(name, 16)
    return _VALUES.get(name)


_NUMBER = re.compile("0x[0-9a-f]{8}")
_VALUES = {name: value for value, name in EVENT_TYPE_NAMES.items()}
