"""Life of a machine, with a small program in QEMU's place."""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.errors import CommandError
from tdxstack.files import Directories, is_locked
from tdxstack.machine.instance import start_machine, stop_machine, wait_until_ready
from tdxstack.machine.store import MachineStore
from tests.unit.machine.test_spec import SPEC

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAKE_QEMU = textwrap.dedent(
    """\
    import json, os, socket, sys
    argv = sys.argv
    path = next(word for word in argv if word.startswith("unix:"))[5:].split(",")[0]
    console = next(word for word in argv if word.startswith("socket,id=console"))
    log = console.split("logfile=")[1].split(",")[0]
    mode = argv[1]
    if mode == "dies":
        sys.exit("qemu: no such firmware")
    open(log, "w").write("firmware\\n" + ("" if mode == "panics" else "kernel\\ntdxstack: ready\\n"))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new"); server.listen(); os.rename(path + ".new", path)
    number = {"major": 10, "minor": 0, "micro": 0}
    greeting = {"QMP": {"version": {"qemu": number, "package": ""}, "capabilities": []}}
    panic = {"event": "GUEST_PANICKED", "data": {"action": "pause"}}
    panic["timestamp"] = {"seconds": 1, "microseconds": 0}
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
            if mode == "panics" and os.path.exists(path + ".watched"):
                say(panic)
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


def spec_of(program: Path, mode: str) -> tuple[str, ...]:
    return (sys.executable, str(program), mode)


def test_machine_runs_until_it_is_stopped(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    state = start_machine(store, replace(SPEC, qemu=spec_of(program, "boots")), NOW)
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
        start_machine(store, replace(SPEC, qemu=spec_of(program, "dies")), NOW)
    assert not is_locked(store.files("td").lock)


def test_panic_ends_the_wait_with_the_reason(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, replace(SPEC, qemu=spec_of(program, "panics")), NOW)
    try:
        with pytest.raises(CommandError, match=r"did not become ready: the guest has panicked"):
            wait_until_ready(store.files("td"), 30, lambda line: None)
    finally:
        stop_machine(store, "td", force=True)


def test_guest_that_is_never_ready_ends_the_wait(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, replace(SPEC, qemu=spec_of(program, "boots")), NOW)
    try:
        store.files("td").console_log.write_text("firmware\n" + "x" * 200_000)
        with pytest.raises(CommandError, match=r"was not ready after 0.5 s"):
            wait_until_ready(store.files("td"), 0.5, lambda line: None)
    finally:
        stop_machine(store, "td", force=True)


def test_machine_whose_state_is_lost_is_ended_through_its_monitor(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    pid = start_machine(store, replace(SPEC, qemu=spec_of(program, "boots")), NOW).pid
    store.files("td").state.unlink()
    stop_machine(store, "td", force=True)
    assert not store.is_running("td")
    os.waitpid(pid, 0)


def test_machine_without_monitor_is_ended_by_signal(store: MachineStore, program: Path) -> None:
    store.prepare("td")
    start_machine(store, replace(SPEC, qemu=spec_of(program, "boots")), NOW)
    store.files("td").monitor.unlink()
    stop_machine(store, "td", force=True)
    assert not store.is_running("td")
