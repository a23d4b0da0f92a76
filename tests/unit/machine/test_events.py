from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.machine.events import Event, EventLog, ending


def line(name: str, **data: Any) -> bytes:
    stamp = {"seconds": 10, "microseconds": 500_000}
    return json.dumps({"event": name, "data": data, "timestamp": stamp}).encode() + b"\n"


def test_events_are_read_on_from_where_one_was(tmp_path: Path) -> None:
    path = tmp_path / "events"
    log = EventLog(path)
    assert list(log.read()) == []
    path.write_bytes(b'{"QMP": {}}\n{"return": {}}\n' + line("STOP") + line("RESUME")[:20])
    assert list(log.read()) == [Event("STOP", 10.5, {})]
    with path.open("ab") as file:
        file.write(line("RESUME")[20:])
    assert [event.name for event in log.read()] == ["RESUME"]
    assert [event.name for event in EventLog(path).read()] == ["STOP", "RESUME"]


@pytest.mark.parametrize(
    "nonsense",
    [b"\n", b"\xff\n", b"[]\n", b"[" * 100_000 + b"\n", b'{"event": 1}\n',
     b'{"event": "A", "timestamp": {}}\n',
     b'{"event": "A", "timestamp": {"seconds": "x", "microseconds": 1}}\n'],
)  # fmt: skip
def test_lines_that_are_no_event_are_passed_over(tmp_path: Path, nonsense: bytes) -> None:
    (tmp_path / "events").write_bytes(nonsense + line("STOP"))
    assert [event.name for event in EventLog(tmp_path / "events").read()] == ["STOP"]


def reason(name: str, **data: Any) -> str:
    return ending(Event(name, 0, data))


@pytest.mark.parametrize("name", ["STOP", "RESUME", "RESET", "NIC_RX_FILTER_CHANGED", "POWERDOWN"])
def test_events_after_which_a_guest_goes_on(name: str) -> None:
    assert reason(name) == ""


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"error-code": 0, "message": "out of luck"},
         "the TD has reported a fatal error, a panic: 'out of luck'"),
        ({"error-code": 0, "message": ""}, "the TD has reported a fatal error, a panic, without a message"),
        ({"error-code": 7, "message": "x"}, "the TD has reported a fatal error, the reserved code 0x7: 'x'"),
        ({"error-code": 5 << 32, "message": "x"},
         "the TD has reported a fatal error, a panic with its own code 0x5: 'x'"),
        ({"error-code": 1 << 63, "message": "x", "gpa": 0x8000},
         "the TD has reported a fatal error, a panic: 'x' (more at guest physical address 0x8000)"),
        ({"error-code": 0, "message": "x", "gpa": 0x8000}, "the TD has reported a fatal error, a panic: 'x'"),
        ({"error-code": 0, "message": "TD misconfiguration: SEPT #VE has to be disabled"},
         "the TD has reported a fatal error, a panic: 'TD misconfiguration: SEPT #VE has to be disabled'; "
         "start it with the attribute SEPT_VE_DISABLE"),
        ({"error-code": 0, "message": "\x1b]0;owned\x07red"},
         "the TD has reported a fatal error, a panic: 'red'"),
        ({"error-code": "?"}, "the TD has reported a fatal error (error-code ?)"),
    ],
)  # fmt: skip
def test_fatal_errors_of_a_td(facts: dict[str, Any], words: str) -> None:
    """As upstream QEMU tells it and as the emulator does."""
    assert reason("GUEST_PANICKED", action="pause", info={"type": "tdx", **facts}) == words.replace(
        "(error-code ?)", "(type tdx, error-code ?)"
    )
    assert reason("TDX_TCG_FATAL_ERROR", **facts) == words


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, "the guest has panicked"),
        ("GUEST_PANICKED", {"info": {"type": "hyper-v", "arg1": 1}},
         "the guest has panicked (type hyper-v, arg1 1)"),
        ("GUEST_PANICKED", {"info": 3}, "the guest has panicked"),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"},
         "the machine has shut down: the guest has powered it off"),
        ("SHUTDOWN", {"reason": "new-reason"}, "the machine has shut down: new-reason"),
        ("SHUTDOWN", {}, "the machine has shut down: no reason is given"),
        ("TDX_TCG_VIOLATION", {"gpa": 4096, "fatal": True},
         "the guest used a page as a TD may not (gpa 4096, fatal True)"),
        ("TDX_TCG_VIOLATION", {"gpa": 4096, "fatal": False}, ""),
        ("BLOCK_IO_ERROR", {"action": "report", "node-name": "disk0", "operation": "write"}, ""),
        ("BLOCK_IO_ERROR",
         {"action": "stop", "node-name": "disk0", "operation": "write", "nospace": True,
          "reason": "No space left on device"},
         "a write of disk0 has failed (No space left on device): the machine waits; make space on the host, "
         "and resume it"),
        ("BLOCK_IO_ERROR", {"action": "stop", "node-name": "disk1", "operation": "read", "reason": "EIO"},
         "a read of disk1 has failed (EIO): the machine waits; see to it, and resume it"),
    ],
)  # fmt: skip
def test_other_endings(name: str, data: dict[str, Any], words: str) -> None:
    assert reason(name, **data) == words
