"""What QEMU has said of a machine, and why a guest ended, in a sentence.

QEMU itself writes the events down, from its first moment to its last, whoever may be watching: see
`qemu_command`. So any number may read, and what happened while nobody looked is not lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tdxstack.terminal import printable

HANDSHAKE = b'{"execute": "qmp_capabilities"}\n'
"""What the events' monitor is told, once, so that it speaks."""

MAX_LINE = 1 << 20
"""Bytes of one event."""

VIOLATION = "TDX_TCG_VIOLATION"
FATAL_ERROR = "TDX_TCG_FATAL_ERROR"

ANEW = ("RESET", "RESUME")
"""Events after which a guest goes on, whatever was before."""

_GPA_GIVEN = 1 << 63
_CODE = (1 << 32) - 1
_SHUTDOWNS = {
    "host-qmp-quit": "it was told to end",
    "host-signal": "a signal has ended it",
    "host-qmp-system-reset": "it was reset, which this QEMU cannot do",
    "host-error": "QEMU could not go on",
    "guest-shutdown": "the guest has powered it off",
    "guest-reset": "the guest has rebooted, which ends this machine",
    "guest-panic": "the guest has panicked",
}
"""Reasons of SHUTDOWN (ShutdownCause in QEMU's qapi/run-state.json)."""

_SEPT_VE = "start it with the attribute SEPT_VE_DISABLE"
_KNOWN_MESSAGES = {
    "TD misconfiguration: SEPT #VE has to be disabled": _SEPT_VE,
    "TD misconfiguration: SEPT_VE_DISABLE attribute must be set.": _SEPT_VE,
}
"""What Linux says before it has a console (arch/x86/coco/tdx/tdx.c), and what to do."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of QEMU's."""

    name: str
    seconds: float
    """Since 1970, UTC, as QEMU's host had it."""
    data: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        return {"event": self.name, "time": self.seconds, "data": dict(self.data)}


class EventLog:
    """The events that QEMU writes to `path`, read on from where one was."""

    def __init__(self, path: Path, *, at: int = 0) -> None:
        self._path = path
        self.at = at
        """Bytes of the file that are read."""

    def read(self) -> Iterator[Event]:
        """The events since the last reading. Lines that are no event are passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.at)
                while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                    self.at += len(line)
                    event = _event(line)
                    if event is not None:
                        yield event
        except FileNotFoundError:
            return


def _event(line: bytes) -> Event | None:
    try:
        document = json.loads(line)
        stamp = document["timestamp"]
        seconds = stamp["seconds"] + stamp["microseconds"] / 1_000_000
        data = document.get("data", {})
        return Event(str(document["event"]), seconds, data if isinstance(data, dict) else {})
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def ending(event: Event) -> str:
    """Why a guest does not go on after this event, as a clause; empty where it does."""
    if event.name == FATAL_ERROR:
        return fatal_error(event.data)
    if event.name == "GUEST_PANICKED":
        info = event.data.get("info")
        if isinstance(info, dict) and info.get("type") == "tdx":
            return fatal_error(info)
        return "the guest has panicked" + _facts(info if isinstance(info, dict) else {})
    if event.name == "SHUTDOWN":
        reason = printable(str(event.data.get("reason", "no reason is given")))
        return f"the machine has shut down: {_SHUTDOWNS.get(reason, reason)}"
    if event.name == VIOLATION and event.data.get("fatal"):
        return violation(event.data)
    if event.name == "BLOCK_IO_ERROR" and event.data.get("action") == "stop":
        return _disk_error(event.data)
    return ""


def _disk_error(facts: Mapping[str, object]) -> str:
    """A read or write that QEMU could not do, and will try again (BLOCK_IO_ERROR in qapi/block-core.json)."""
    disk, operation, reason = (
        printable(str(facts.get(name, "?"))) for name in ("node-name", "operation", "reason")
    )
    remedy = "make space on the host" if facts.get("nospace") else "see to it"
    return f"a {operation} of {disk} has failed ({reason}): the machine waits; {remedy}, and resume it"


def fatal_error(facts: Mapping[str, object]) -> str:
    """What a TD has reported by TDG.VP.VMCALL<ReportFatalError>, as a clause.

    GHCI specification, ReportFatalError: bits 31:0 of R12 are the code, of which 0 is a panic and the rest
    reserved; 62:32 are the software's own; 63 says that R13 is the address of a page with more. The message
    is what the guest chose to say.
    """
    code = facts.get("error-code")
    message = printable(str(facts.get("message", ""))).strip()
    if not isinstance(code, int):
        return "the TD has reported a fatal error" + _facts(facts)
    kind = "a panic" if not code & _CODE else f"the reserved code {code & _CODE:#x}"
    extended = code >> 32 & 0x7FFFFFFF
    parts = [f"the TD has reported a fatal error, {kind}"]
    if extended:
        parts.append(f"with its own code {extended:#x}")
    said = " ".join(parts) + (f": {message!r}" if message else ", without a message")
    gpa = facts.get("gpa")
    if code & _GPA_GIVEN and isinstance(gpa, int):
        said += f" (more at guest physical address {gpa:#x})"
    known = _KNOWN_MESSAGES.get(message)
    return f"{said}; {known}" if known else said


def violation(facts: Mapping[str, object]) -> str:
    """A use of a page that an emulated TD may not make, as a clause."""
    return "the guest used a page as a TD may not" + _facts(facts)


def _facts(facts: Mapping[str, object]) -> str:
    text = ", ".join(f"{name} {printable(str(value))}" for name, value in facts.items())
    return f" ({text})" if text else ""
