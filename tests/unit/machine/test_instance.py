"""Life of a machine, with a small program in QEMU's place."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.errors import CommandError
from tdxstack.files import Directories, is_locked
from tdxstack.machine.instance import start_machine, stop_machine, wait_until_ready
from tdxstack.machine.placement import Placement
from tdxstack.machine.store import MachineStore
from tests.golden.test_qemu_command import EMULATED, TD

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAKE_QEMU = textwrap.dedent(
    """\
    import json, os, socket, sys, time
    argv = sys.argv
    path = next(word for word in argv if word.startswith("unix:"))[5:].split(",")[0]
    console = next(word for word in argv if word.startswith("socket,id=console"))
    log = console.split("logfile=")[1].split(",")[0]
    mode = argv[1]
    if mode == "dies":
        sys.exit("qemu: no such firmware")
    open(log, "w").write("firmware\\n" + ("kernel\\ntdxstack: ready\\n" if mode == "boots" else ""))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new"); server.listen(); os.rename(path + ".new", path)
    number = {"major": 10, "minor": 0, "micro": 0}
    greeting = {"QMP": {"version": {"qemu": number, "package": ""}, "capabilities": []}}
    events = {
        "panics": {"event": "GUEST_PANICKED", "data": {"action": "shutdown"}},
        "fails": {"event": "TDX_TCG_FATAL_ERROR", "data": {"error-code": 7, "message": "no ACPI"}},
        "violates": {"event": "TDX_TCG_VIOLATION", "data": {"gpa": 4096, "fatal": True}},
        "may-violate": {"event": "TDX_TCG_VIOLATION", "data": {"gpa": 4096, "fatal": False}},
    }
    while True:
        client, _ = server.accept()
        def say(message): client.sendall(json.dumps(message).encode() + b"\\n")
        say(greeting)
        while data := client.recv(65536):  # the client waits for each answer and ends no line
            request = json.loads(data)
            answer = {}
            if request["execute"] == "human-monitor-command":
                answer = "  TCP[HOST_FORWARD]  14  127.0.0.1 40022  10.0.2.15    22     0     0"
            say({"return": answer} | {key: request[key] for key in ("id",) if key in request})
            # The first connection starts the machine, the second one watches it.
            if mode in events and os.path.exists(path + ".watched"):
                say(events[mode] | {"timestamp": {"seconds": 1, "microseconds": 0}})
                if mode == "may-violate":
                    time.sleep(0.5)
                    open(log, "a").write("tdxstack: ready\\n")
            if request["execute"] == "quit":
                sys.exit(0)
        open(path + ".watched", "w").close()
    """
)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> MachineStore:
    root = tmp_path_factory.mktemp("m")
    return MachineStore(Directories(root / "c", root / "d", root / "r"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "fake-qemu"
    path.write_text(FAKE_QEMU)
    return path


def placement(program: Path, mode: str) -> Placement:
    return replace(EMULATED, qemu=(sys.executable, str(program), mode))


def test_machine_runs_until_it_is_stopped(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    state = start_machine(store, TD, placement(program, "boots"), NOW)
    lines: list[str] = []
    try:
        assert state.ssh_port == 40022
        assert store.load("td") == state
        assert store.is_running("td")
        wait_until_ready(store.files("td"), 30, lines.append)
    finally:
        stop_machine(store, "td", force=True)
    assert lines == ["firmware", "kernel", "tdxstack: ready"]
    assert not store.is_running("td")


def test_qemu_that_ends_at_once_is_told_in_its_own_words(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    with pytest.raises(CommandError, match="QEMU ended at once: qemu: no such firmware"):
        start_machine(store, TD, placement(program, "dies"), NOW)
    assert not is_locked(store.files("td").lock)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("panics", "the guest has panicked (action shutdown)"),
        ("fails", "the TD has reported a fatal error (error-code 7, message no ACPI)"),
        ("violates", "the guest used a page as a TD may not (gpa 4096, fatal True)"),
    ],
)
def test_event_that_ends_the_guest_ends_the_wait(
    store: MachineStore, program: Path, mode: str, reason: str
) -> None:
    store.prepare("td")
    start_machine(store, TD, placement(program, mode), NOW)
    try:
        with pytest.raises(CommandError) as caught:
            wait_until_ready(store.files("td"), 30, lambda line: None)
    finally:
        stop_machine(store, "td", force=True)
    assert caught.value.message == f"the guest did not become ready: {reason}"


def test_violation_that_is_only_reported_is_shown(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, TD, placement(program, "may-violate"), NOW)
    lines: list[str] = []
    try:
        wait_until_ready(store.files("td"), 30, lines.append)
    finally:
        stop_machine(store, "td", force=True)
    assert lines[-1] == "tdxstack: ready"
    assert "the guest used a page as a TD may not (gpa 4096, fatal False)" in lines


def test_qemu_that_is_killed_ends_the_wait(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    pid = start_machine(store, TD, placement(program, "silent"), NOW).pid
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    store.files("td").console_log.write_text("")
    with pytest.raises(CommandError, match="did not become ready"):
        wait_until_ready(store.files("td"), 30, lambda line: None)
    os.waitpid(pid, 0)


def test_guest_that_is_never_ready_ends_the_wait(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, TD, placement(program, "boots"), NOW)
    try:
        store.files("td").console_log.write_text("firmware\n" + "x" * 200_000)
        with pytest.raises(CommandError, match=r"was not ready after 0.5 s"):
            wait_until_ready(store.files("td"), 0.5, lambda line: None)
    finally:
        stop_machine(store, "td", force=True)


def test_machine_whose_state_is_lost_is_ended_through_its_monitor(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    pid = start_machine(store, TD, placement(program, "boots"), NOW).pid
    store.files("td").state.unlink()
    stop_machine(store, "td", force=True)
    assert not store.is_running("td")
    os.waitpid(pid, 0)


def test_machine_without_monitor_is_ended_by_signal(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, TD, placement(program, "boots"), NOW)
    store.files("td").monitor.unlink()
    stop_machine(store, "td", force=True)
    assert not store.is_running("td")
