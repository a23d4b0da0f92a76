"""What is done to a machine that runs, with a scripted QEMU monitor and guest agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.files import Directories, lock
from tdxstack.machine import control, readiness
from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.machine import Machine
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.qemu import monitor
from tests.unit.qemu.test_agent import FakeAgent

STATE = MachineState("td", "emulated", True, 0, 1, "2026-01-01T00:00:00+00:00", ["qemu"])


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


@pytest.fixture
def vm(store: MachineStore) -> Machine:
    return Machine(store, "td", lambda name: [f"/bin/{name}"], clock)


def clock() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Qemu:
    """In place of a monitor: remembers commands, answers, and writes the events that follow them."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.status = "running"
        self.after: dict[str, Callable[[], None]] = {}

    @contextlib.asynccontextmanager
    async def connect(self, _socket: Path, _within: float = 10.0) -> AsyncIterator[Qemu]:
        yield self

    async def execute(self, command: str, arguments: Any = None, timeout: float = 20.0) -> Any:
        self.commands.append(command if not arguments else f"{command} {arguments}")
        self.after.get(command, lambda: None)()
        return {"status": self.status}


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> Qemu:
    qemu = Qemu()
    monkeypatch.setattr(monitor, "connect", qemu.connect)
    return qemu


def says(store: MachineStore, name: str, **data: object) -> Callable[[], None]:
    """QEMU writes an event."""

    def write() -> None:
        event = {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}}
        with store.files("td").events.open("a") as file:
            file.write(json.dumps(event) + "\n")

    return write


def test_state_is_qemus_own_word(running: MachineStore, vm: Machine, qemu: Qemu) -> None:
    assert vm.state() == "running"
    qemu.status = "paused"
    assert vm.state() == "paused"


def test_state_while_the_monitor_says_nothing(
    running: MachineStore, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket accepts, as that of a QEMU that hangs does."""
    monkeypatch.setattr(control, "STATE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(running.files("td").monitor))
        server.listen()
        assert vm.state() == "running"


def test_state_without_a_monitor(running: MachineStore, vm: Machine) -> None:
    assert vm.state() == "running"


def test_state_of_what_does_not_run(store: MachineStore, vm: Machine) -> None:
    assert vm.state() == "ended"
    store.save(replace(STATE, started=""))
    assert vm.state() == "created"


def test_suspend_and_resume(running: MachineStore, vm: Machine, qemu: Qemu) -> None:
    vm.suspend()
    vm.resume()
    assert qemu.commands == ["stop", "cont"]


@pytest.mark.parametrize(
    "action", [Machine.suspend, Machine.resume, Machine.reboot, Machine.wait_for_ssh, Machine.wait_for_agent]
)
def test_what_does_not_run_is_not_controlled(store: MachineStore, vm: Machine, action: Any) -> None:
    store.files("td").qemu_log.write_text("qemu: out of \x1b[31mmemory\n")
    with pytest.raises(UnavailableError, match=r"not running any more: QEMU has ended: qemu: out of memory"):
        action.__get__(vm, Machine)()
    with pytest.raises(UsageError, match="no machine"):
        action.__get__(Machine(store, "other", lambda name: [], clock), Machine)()


def test_a_machine_that_another_command_controls(running: MachineStore, vm: Machine, qemu: Qemu) -> None:
    with running.claim("td"):
        for action in (vm.suspend, vm.resume, vm.reboot, vm.stop, vm.remove):
            with pytest.raises(UnavailableError, match="machine 'td' is in use by another process"):
                action()
    assert qemu.commands == []


def test_a_call_in_an_event_loop_names_its_twin(vm: Machine) -> None:
    async def call() -> None:
        with pytest.raises(UsageError) as caught:
            vm.state()
        assert "state.aio" in caught.value.hint
        assert await vm.state.aio() == "ended"

    asyncio.run(call())


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The guest can be entered at once; from which byte of the console on it was watched."""
    waited: list[int] = []

    async def at_once(_files: Any, _port: int, _timeout: float, _on_line: Any, since: Any) -> None:
        waited.append(since.console)

    monkeypatch.setattr(readiness, "until_ready", at_once)
    return waited


def test_reset_waits_for_the_guest_that_starts_anew(
    running: MachineStore, vm: Machine, qemu: Qemu, entered: list[int]
) -> None:
    running.files("td").console_log.write_text("tdxstack: ready\n")
    qemu.after["system_reset"] = says(running, "RESET")
    vm.reboot(RebootMode.QMP, timeout=60)
    assert qemu.commands == ["system_reset"]
    assert entered == [len("tdxstack: ready\n")]


def test_power_cycle_resets_a_guest_that_has_powered_off(
    running: MachineStore, vm: Machine, qemu: Qemu, entered: list[int]
) -> None:
    qemu.after["system_powerdown"] = says(running, "SHUTDOWN", reason="guest-shutdown")
    vm.reboot(RebootMode.ACPI, timeout=60)
    assert qemu.commands == [
        "set-action {'shutdown': 'pause'}", "system_powerdown", "system_reset", "cont",
        "set-action {'shutdown': 'poweroff'}",
    ]  # fmt: skip


def test_guest_that_does_not_power_off_can_still_end(
    running: MachineStore, vm: Machine, qemu: Qemu, entered: list[int]
) -> None:
    with pytest.raises(CommandError, match=r"did not go down within 0.1 s"):
        vm.reboot(RebootMode.ACPI, timeout=0.1)
    assert qemu.commands[-1] == "set-action {'shutdown': 'poweroff'}"


def test_reboot_of_a_guest_that_ends_instead(
    running: MachineStore, vm: Machine, qemu: Qemu, entered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu.after["system_reset"] = lambda: monkeypatch.setattr(control, "is_locked", lambda path: False)
    with pytest.raises(CommandError, match="the machine has ended instead"):
        vm.reboot(RebootMode.QMP, timeout=60)


def test_a_machine_that_would_end_is_not_rebooted(running: MachineStore, vm: Machine, qemu: Qemu) -> None:
    running.save(replace(STATE, argv=["qemu", "-no-reboot"]))
    with pytest.raises(UnavailableError, match="cannot be rebooted"):
        vm.reboot()
    assert qemu.commands == []


@pytest.mark.parametrize("mode", [StopMode.ACPI, StopMode.QMP])
def test_stop_that_is_not_heeded_is_an_error_and_ends_nothing(
    running: MachineStore, vm: Machine, qemu: Qemu, mode: StopMode
) -> None:
    with pytest.raises(CommandError, match=r"did not (go down|end) within 0.1 s"):
        vm.stop(mode, timeout=0.1)
    assert running.is_running("td")
    assert qemu.commands == [{"acpi": "system_powerdown", "qmp": "quit"}[mode.value]]


def test_the_agent_is_asked(running: MachineStore, vm: Machine, entered: list[int]) -> None:
    fake = FakeAgent(lambda request: None)

    async def both() -> None:
        async with fake.serve(running.files("td").agent):
            with pytest.raises(CommandError, match=r"did not go down within 1 s of being asked \(agent\)"):
                await vm.stop.aio(StopMode.AGENT, timeout=1)
            says(running, "RESET")()
            with pytest.raises(CommandError, match="did not go down"):
                await vm.reboot.aio(RebootMode.AGENT, timeout=1)

    asyncio.run(both())
    asked = [request["arguments"]["mode"] for request in fake.requests if "shutdown" in request["execute"]]
    assert asked == ["powerdown", "reboot"]


def test_what_an_ended_machine_left_is_removed_when_it_is_stopped(store: MachineStore, vm: Machine) -> None:
    files = store.files("td")
    left = [files.monitor, files.console_socket, files.agent]
    for path in left:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    vm.stop()
    assert not any(path.exists() for path in left)
    assert files.directory.exists()


def test_remove_leaves_nothing(store: MachineStore, vm: Machine) -> None:
    files = store.files("td")
    vm.remove()
    assert (files.directory.exists(), files.runtime.exists()) == (False, False)
    assert [path.name for path in files.directory.parent.iterdir()] == []


def test_waiting_for_a_state(running: MachineStore, vm: Machine, qemu: Qemu) -> None:
    assert vm.wait_for_state("paused", "running", timeout=60) == "running"
    with pytest.raises(CommandError, match=r"was not paused or ended after 0.3 s"):
        vm.wait_for_state("paused", "ended", timeout=0.3)


def test_waiting_for_an_event(running: MachineStore, vm: Machine) -> None:
    says(running, "RESET", reason="guest-reset")()
    assert vm.wait_for_event("RESET").data == {"reason": "guest-reset"}
    with pytest.raises(CommandError, match=r"had no event STOP within 0.1 s"):
        vm.wait_for_event("STOP", timeout=0.1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 255", "SSH to machine 'td' failed: no route"),
        ("exit 9", "date in machine 'td' ended with 9: no route"),
    ],
)
def test_programs_that_fail_in_the_guest(
    running: MachineStore, tmp_path: Path, script: str, message: str
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho no route >&2; {script}\n")
    ssh.chmod(0o755)
    vm = Machine(running, "td", lambda name: [str(ssh)], clock)
    with pytest.raises(CommandError) as caught:
        vm.run(["date"])
    assert caught.value.message == message


def test_program_that_does_not_end_in_the_guest(running: MachineStore, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid; exec sleep 60\n")
    ssh.chmod(0o755)
    vm = Machine(running, "td", lambda name: [str(ssh)], clock)
    with pytest.raises(CommandError, match=r"did not end within 0.5 s"):
        vm.run(["date"], timeout=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_machine_without_a_forwarded_port_cannot_be_entered(running: MachineStore, vm: Machine) -> None:
    running.save(replace(STATE, ssh_port=0))
    with pytest.raises(UnavailableError, match="forwards no port"):
        vm.run(["true"])


def test_the_first_host_key_is_remembered_and_then_required(running: MachineStore, vm: Machine) -> None:
    assert "StrictHostKeyChecking=accept-new" in vm.copy_command("a", "b", into=True)
    running.files("td").known_hosts.write_text("")
    words = vm.copy_command("a", "b", into=False, recursive=True)
    assert "StrictHostKeyChecking=yes" in words
    assert words[-4:] == ["-r", "--", "root@127.0.0.1:b", "a"]
