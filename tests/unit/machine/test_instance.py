"""Life of a machine, with a small program in QEMU's place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack import interrupts
from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import Directories, is_locked
from tdxstack.machine import control, instance
from tdxstack.machine.control import StopMode
from tdxstack.machine.instance import why_ended, why_halted
from tdxstack.machine.readiness import Mark, until_ready
from tdxstack.machine.starting import start_machine
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.machine.written import state_of
from tdxstack.run import Leash
from tests.golden.test_qemu_command import EMULATED, TD

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAKE_QEMU = textwrap.dedent(
    """\
    import json, os, socket, sys, time
    argv = sys.argv
    path = next(word for word in argv if word.startswith("unix:"))[5:].split(",")[0]
    console = next(word for word in argv if word.startswith("socket,id=console"))
    log = console.split("logfile=")[1].split(",")[0]
    events = next(word for word in argv if word.startswith("file,id=events"))
    events = events.split(",path=")[1].split(",")[0]
    mode = argv[1]
    if mode == "dies":
        sys.exit("qemu: no such firmware")
    open(log, "w").write("firmware\\n" + ("kernel\\ntdxstack: ready\\n" if mode == "boots" else ""))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    if mode != "listens-late":
        server.listen()
    if mode == "hangs":
        time.sleep(600)
    os.rename(path + ".new", path)
    if mode == "listens-late":
        time.sleep(0.3)
        server.listen()
    if mode == "dies-late":
        server.close()
        time.sleep(0.1)
        sys.exit("qemu: that port is taken")
    number = {"major": 10, "minor": 0, "micro": 0}
    greeting = {"QMP": {"version": {"qemu": number, "package": ""}, "capabilities": []}}
    happens = {
        "panics": {"event": "GUEST_PANICKED", "data": {"action": "shutdown"}},
        "fails": {"event": "TDX_TCG_FATAL_ERROR", "data": {"error-code": 0, "message": "no ACPI"}},
        "violates": {"event": "TDX_TCG_VIOLATION", "data": {"gpa": 4096, "fatal": True}},
        "fills-the-disk": {"event": "BLOCK_IO_ERROR", "data": {
            "action": "stop", "node-name": "disk0", "operation": "write", "nospace": True,
            "reason": "No space left on device"}},
        "may-violate": {"event": "TDX_TCG_VIOLATION", "data": {"gpa": 4096, "fatal": False}},
    }
    def write(event):
        event["timestamp"] = {"seconds": 1, "microseconds": 0}
        open(events, "a").write(json.dumps(event) + "\\n")
    if mode in happens:
        write(happens[mode])
    if mode == "may-violate":
        open(log, "a").write("tdxstack: ready\\n")
    while True:
        client, _ = server.accept()
        if mode == "garbage":
            client.sendall(b"\\xff no QMP\\n"); client.close(); continue
        if mode == "closes":
            client.close(); continue
        if mode == "mute":
            time.sleep(600)
        def say(message): client.sendall(json.dumps(message).encode() + b"\\n")
        say(greeting)
        while data := client.recv(65536):  # the client waits for each answer and ends no line
            request = json.loads(data)
            number = {key: request[key] for key in ("id",) if key in request}
            answer = {"return": {}}
            if request["execute"] == "query-status":
                answer = {"return": {"status": "running"}}
            if request["execute"] == "human-monitor-command":
                answer = {"return": "  TCP[HOST_FORWARD]  14  127.0.0.1 0  10.0.2.15    22     0     0"}
                if mode == "refuses":
                    answer = {"error": {"class": "GenericError", "desc": "not today"}}
            if request["execute"] == "quit" and mode == "stays":
                answer = {"error": {"class": "GenericError", "desc": "not today"}}
            say(answer | number)
            if request["execute"] == "quit" and mode != "stays":
                write({"event": "SHUTDOWN", "data": {"reason": "host-qmp-quit"}})
                sys.exit(0)
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


def begin(store: MachineStore, program: Path, mode: str) -> MachineState:
    write_down(store, program, mode)
    return interrupts.wait(lambda: start_machine(store, "td", NOW))


def write_down(store: MachineStore, program: Path, mode: str) -> None:
    files = store.prepare("td")
    qemu = (sys.executable, str(program), mode)
    store.save(replace(state_of(TD, replace(EMULATED, qemu=qemu), files), quoting=False))


def stop(store: MachineStore) -> None:
    asyncio.run(control.stop(store, "td", StopMode.FORCE, 10))


def wait(
    store: MachineStore, timeout: float, lines: list[str] | None = None, since: Mark | None = None
) -> None:
    took = lines if lines is not None else []
    asyncio.run(until_ready(store.files("td"), 0, timeout, took.append, since))


@pytest.fixture(autouse=True)
def nothing_is_left(store: MachineStore) -> Iterator[None]:
    yield
    files = store.files("td")
    assert not is_locked(files.lock)
    assert not any(path.exists() for path in (files.monitor, files.console_socket))


def test_machine_runs_until_it_is_stopped(store: MachineStore, program: Path) -> None:
    state = begin(store, program, "boots")
    lines: list[str] = []
    try:
        assert store.load("td") == state
        assert store.is_running("td")
        wait(store, 30, lines)
    finally:
        stop(store)
    assert lines == ["firmware", "kernel", "tdxstack: ready"]
    assert not store.is_running("td")
    assert why_ended(store.files("td")) == "the machine has shut down: it was told to end"


@pytest.mark.parametrize(
    ("mode", "words"), [("dies", "no such firmware"), ("dies-late", "that port is taken")]
)
def test_qemu_that_ends_at_once_is_told_in_its_own_words(
    store: MachineStore, program: Path, mode: str, words: str
) -> None:
    with pytest.raises(CommandError, match=f"QEMU ended at once: qemu: {words}"):
        begin(store, program, mode)


def test_qemu_may_make_its_socket_a_while_before_it_listens(store: MachineStore, program: Path) -> None:
    begin(store, program, "listens-late")
    stop(store)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("hangs", "opened no monitor within 1 s"),
        ("mute", "no QEMU monitor answers"),
        ("garbage", "no QEMU monitor answers"),
        ("closes", "no QEMU monitor answers"),
        ("refuses", "QEMU refused human-monitor-command: not today"),
    ],
)
def test_qemu_whose_monitor_is_of_no_use_is_ended(
    store: MachineStore, program: Path, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    monkeypatch.setattr(instance, "MONITOR_SECONDS", 1.0)
    with pytest.raises(UnavailableError, match=words):
        begin(store, program, mode)
    assert not store.is_running("td")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("panics", "the guest has panicked"),
        ("fails", "the TD has reported a fatal error, a panic: 'no ACPI'"),
        ("violates", "the guest used a page as a TD may not (gpa 4096, fatal True)"),
        (
            "fills-the-disk",
            "a write of disk0 has failed (No space left on device): the machine waits; make space on the "
            "host, and resume it",
        ),
    ],
)
def test_event_that_ends_the_guest_ends_the_wait(
    store: MachineStore, program: Path, mode: str, reason: str
) -> None:
    begin(store, program, mode)
    try:
        with pytest.raises(CommandError) as caught:
            wait(store, 30)
    finally:
        stop(store)
    assert caught.value.message == f"the guest did not become ready: {reason}"
    assert why_ended(store.files("td")) == reason, "also after QEMU was told to end"


@pytest.mark.parametrize(("mode", "event"), [("panics", "RESET"), ("fills-the-disk", "RESUME")])
def test_what_lets_a_guest_go_on_again(store: MachineStore, program: Path, mode: str, event: str) -> None:
    begin(store, program, mode)
    try:
        assert why_halted(store.files("td"))
        reset = {"event": event, "data": {}, "timestamp": {"seconds": 2, "microseconds": 0}}
        with store.files("td").events.open("a") as file:
            file.write(json.dumps(reset) + "\n")
        store.files("td").console_log.write_text("tdxstack: ready\n")
        wait(store, 30)
    finally:
        stop(store)


def test_what_came_true_while_the_loop_was_busy_counts() -> None:
    async def wait_beside_a_busy_one() -> None:
        true_after = time.monotonic() + 0.1
        waiting = asyncio.create_task(instance.until(lambda: time.monotonic() > true_after, 0.2, "never"))
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - what a caller should not do
        await waiting

    asyncio.run(wait_beside_a_busy_one())


def test_the_end_of_an_earlier_life_is_no_reason(store: MachineStore) -> None:
    files = store.prepare("td")
    stamp = {"timestamp": {"seconds": 1, "microseconds": 0}}
    off = {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}
    for event in (off, {"event": "RESET"}):
        with files.events.open("a") as file:
            file.write(json.dumps(event | stamp) + "\n")
    assert why_ended(files) == "QEMU has ended without a word, as if killed"
    with files.events.open("a") as file:
        file.write(json.dumps(off | stamp) + "\n")
    assert why_ended(files) == "the machine has shut down: the guest has powered it off"


def test_violation_that_is_only_reported_is_shown(store: MachineStore, program: Path) -> None:
    begin(store, program, "may-violate")
    lines: list[str] = []
    try:
        wait(store, 30, lines)
    finally:
        stop(store)
    assert "tdxstack: ready" in lines
    assert "the guest used a page as a TD may not (gpa 4096, fatal False)" in lines


def test_qemu_that_is_killed_ends_the_wait(store: MachineStore, program: Path) -> None:
    pid = begin(store, program, "silent").pid
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(
        CommandError, match="did not become ready: QEMU has ended without a word, as if killed"
    ):
        wait(store, 30)
    os.waitpid(pid, 0)
    stop(store)


def test_guest_that_is_never_ready_ends_the_wait(store: MachineStore, program: Path) -> None:
    begin(store, program, "silent")
    try:
        store.files("td").console_log.write_text("firmware\n" + "x" * 200_000)
        with pytest.raises(CommandError, match=r"was not ready after 0.5 s"):
            wait(store, 0.5)
    finally:
        stop(store)


def test_the_ready_line_of_an_earlier_boot_does_not_count(store: MachineStore, program: Path) -> None:
    begin(store, program, "boots")
    try:
        wait(store, 30)
        with pytest.raises(CommandError, match="was not ready"):
            wait(store, 0.5, since=Mark.now(store.files("td")))
    finally:
        stop(store)


def test_machine_whose_state_is_lost_is_ended_through_its_monitor(store: MachineStore, program: Path) -> None:
    pid = begin(store, program, "boots").pid
    store.files("td").state.unlink()
    stop(store)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("mode", ["boots", "stays"])
def test_machine_that_does_not_heed_its_monitor_is_ended_by_signal(
    store: MachineStore, program: Path, mode: str
) -> None:
    begin(store, program, mode)
    if mode == "boots":
        store.files("td").monitor.unlink()
    stop(store)


@pytest.mark.parametrize("after", [0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.15])
def test_interrupt_while_it_starts_leaves_nothing(store: MachineStore, program: Path, after: float) -> None:
    """At whatever point of the start it comes; that nothing is left is looked at after every test."""
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin(store, program, "hangs" if after else "boots")
        time.sleep(10)
    stop(store)


def test_leashed_machine_ends_with_its_leash(store: MachineStore, program: Path) -> None:
    write_down(store, program, "boots")
    leash = Leash()
    asyncio.run(start_machine(store, "td", NOW, leash=leash))
    assert store.is_running("td")
    leash.cut()
    asyncio.run(instance.until_ended(store.files("td"), 10))
    stop(store)
