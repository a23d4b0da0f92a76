from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.files import Directories, lock
from tdxstack.machine import control
from tdxstack.machine.instance import wait_until_ready
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.qemu import monitor

STATE = MachineState("td", "emulated", True, 1, 1, "", ["qemu"])


@pytest.fixture
def store(tmp_path: Path) -> MachineStore:
    store = MachineStore(Directories(tmp_path / "c", tmp_path / "d", tmp_path / "r"))
    store.prepare("td")
    store.save(STATE)
    return store


@pytest.fixture
def running(store: MachineStore) -> Iterator[MachineStore]:
    with lock(store.files("td").lock):
        yield store


class Qemu:
    """In place of a monitor: remembers commands, and answers."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.status = "running"

    def execute(self, _socket: Path, command: str, _arguments: object = None, *, within: float = 10.0) -> Any:
        self.commands.append(command)
        return {"status": self.status}


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> Qemu:
    qemu = Qemu()
    monkeypatch.setattr(monitor, "execute", qemu.execute)
    return qemu


def test_state_is_qemus_own_word(running: MachineStore, qemu: Qemu) -> None:
    assert control.run_state(running, "td") == "running"
    qemu.status = "paused"
    assert control.run_state(running, "td") == "paused"


def test_state_while_another_command_holds_the_monitor(running: MachineStore) -> None:
    """The socket accepts, as QEMU's does, and says nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(running.files("td").monitor))
        server.listen()
        assert control.run_state(running, "td") == "running"


def test_state_without_a_monitor(running: MachineStore) -> None:
    assert control.run_state(running, "td") == "running"


def test_state_of_an_ended_machine(store: MachineStore) -> None:
    assert control.run_state(store, "td") == "ended"


def test_suspend_and_resume(running: MachineStore, qemu: Qemu) -> None:
    control.suspend(running, "td")
    control.resume(running, "td")
    assert qemu.commands == ["stop", "cont"]


def test_reset_waits_for_the_guest_that_starts_anew(
    running: MachineStore, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(control, "wait_until_ready", lambda *_, skip: waited.append(skip))
    running.files("td").console_log.write_text("tdxstack: ready\n")
    control.reboot(running, "td", 1, lambda line: None)
    assert qemu.commands == ["system_reset"]
    assert waited == [len("tdxstack: ready\n")]


def test_a_reboot_asks_the_guest(running: MachineStore, qemu: Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "wait_until_ready", lambda *_, skip: None)
    asked: list[str] = []
    control.reboot(running, "td", 1, lambda line: None, lambda: asked.append("reboot"))
    assert (asked, qemu.commands) == (["reboot"], [])


def test_a_machine_that_would_end_is_not_rebooted(running: MachineStore, qemu: Qemu) -> None:
    running.save(replace(STATE, argv=["qemu", "-no-reboot"]))
    with pytest.raises(UnavailableError, match="cannot be rebooted"):
        control.reboot(running, "td", 1, lambda line: None)
    assert qemu.commands == []


@pytest.mark.parametrize("action", [control.suspend, control.resume])
def test_what_does_not_run_is_not_controlled(store: MachineStore, action: Any) -> None:
    with pytest.raises(UnavailableError, match="not running"):
        action(store, "td")
    with pytest.raises(UsageError, match="no machine"):
        action(store, "other")


def test_the_ready_line_of_an_earlier_boot_does_not_count(running: MachineStore) -> None:
    files = running.files("td")
    files.console_log.write_text("tdxstack: ready\n")
    with pytest.raises((CommandError, UnavailableError)):
        wait_until_ready(files, 1, lambda line: None, skip=files.console_log.stat().st_size)
