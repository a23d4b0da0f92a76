"""A machine that runs: start it, watch it boot, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tdxstack.errors import CommandError, TdxError, UnavailableError
from tdxstack.files import is_locked, lock, write_atomically
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.store import MachineFiles, MachineState, MachineStore
from tdxstack.qemu import monitor
from tdxstack.run import start

READY_LINE = "tdxstack: ready"
"""What the guest image prints on its console once SSH answers."""

MONITOR_SECONDS = 30.0
POWERDOWN_SECONDS = 60.0
QUIT_SECONDS = 10.0
POLL_SECONDS = 0.2
LOG_TAIL_BYTES = 4000
CONSOLE_READ = 1 << 16
"""Bytes of a console that are looked at at once, and that a line without an end may have."""


_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")
_ENDINGS = {
    "GUEST_PANICKED": "the guest has panicked",
    "SHUTDOWN": "the machine has shut down",
    "TDX_TCG_FATAL_ERROR": "the TD has reported a fatal error",
}
"""QMP events after which a guest will not become ready. The emulator's own come before QEMU's."""

_VIOLATION = "TDX_TCG_VIOLATION"


def start_machine(
    store: MachineStore,
    spec: MachineSpec,
    placement: Placement,
    now: datetime,
    *,
    holds: Sequence[int] = (),
) -> MachineState:
    """Start QEMU for `spec`; the caller has claimed the name, prepared its files and made its disk overlay.

    QEMU outlives this process. It holds the machine's lock, and the file descriptors of `holds`, for as
    long as it lives. What is known of it is saved at once, so that it can be ended whatever happens here.
    Raises `CommandError` if QEMU ends at once; it is ended if anything else goes wrong.
    """
    files = store.files(spec.name)
    write_atomically(files.authorized_key, placement.authorized_key.encode() + b"\n")
    argv = build_qemu_command(spec, placement, files)
    state = MachineState(
        name=spec.name,
        platform=placement.platform.value,
        emulated=placement.silicon is not None,
        pid=0,
        ssh_port=0,
        started=now.isoformat(timespec="seconds"),
        argv=argv,
    )
    try:
        with lock(files.lock) as descriptor:
            state = replace(state, pid=start(argv, log=files.qemu_log, pass_fds=[descriptor, *holds]))
            store.save(state)
        _await_monitor(files)
        state = replace(state, ssh_port=ssh_port(files.monitor))
        store.save(state)
    except BaseException:
        kill(files, state.pid)
        raise
    return state


def ssh_port(monitor_socket: Path) -> int:
    """The local TCP port that QEMU forwards to the guest's port 22."""
    text = monitor.execute(monitor_socket, "human-monitor-command", {"command-line": "info usernet"})
    found = _FORWARD.search(text)
    if not found:
        raise CommandError(f"QEMU forwards no port to the guest's SSH: {text.strip()!r}")
    return int(found[1])


def wait_until_ready(
    files: MachineFiles, timeout: float, on_line: Callable[[str], None], *, skip: int = 0
) -> None:
    """Follow the console, from `skip` bytes on, until the guest says that it is ready.

    Raises `CommandError` with what QEMU reported if the guest panics or ends first, or when
    `timeout` seconds have passed.
    """

    async def watch() -> None:
        async with asyncio.timeout(timeout):
            await _watch_boot(files, on_line, skip)

    try:
        asyncio.run(watch())
    except TimeoutError:
        raise CommandError(
            f"the guest was not ready after {timeout:g} s",
            hint=f"see how far it came: {files.console_log}",
        ) from None


async def _watch_boot(files: MachineFiles, on_line: Callable[[str], None], skip: int) -> None:
    async with monitor.connect(files.monitor) as connection:
        ended = asyncio.create_task(_first_ending(connection, on_line))
        try:
            await _follow_console(files, ended, on_line, skip)
        finally:
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended


async def _follow_console(
    files: MachineFiles, ended: asyncio.Task[str], on_line: Callable[[str], None], skip: int
) -> None:
    """Give complete console lines to `on_line` until the ready line; an ending first is an error."""
    with files.console_log.open("rb") as console:
        console.seek(skip)
        pending = b""
        while True:
            # A QEMU that was killed says nothing on its monitor, and lets go of its lock.
            over = ended.done() or not is_locked(files.lock)
            pending += console.read(CONSOLE_READ)
            *lines, pending = pending.split(b"\n")
            pending = pending[-CONSOLE_READ:]
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                on_line(line)
                if READY_LINE in line:
                    return
            if over:
                reason = ended.result() if ended.done() else "QEMU has ended"
                raise CommandError(
                    f"the guest did not become ready: {reason}", hint=f"see {files.console_log}"
                )
            await asyncio.sleep(POLL_SECONDS)


async def _first_ending(connection: monitor.Monitor, on_line: Callable[[str], None]) -> str:
    """What ended the guest; uses of pages that are only reported go to `on_line`."""
    async for event in connection.events():
        facts = ", ".join(f"{name} {value}" for name, value in event.data.items())
        if event.name in _ENDINGS:
            return f"{_ENDINGS[event.name]} ({facts})"
        if event.name == _VIOLATION:
            text = f"the guest used a page as a TD may not ({facts})"
            if event.data.get("fatal"):
                return text
            on_line(text)
    return "QEMU has closed its monitor"


def stop_machine(store: MachineStore, name: str, *, force: bool = False) -> None:
    """Stop a machine: ACPI power button (not with `force`), then `quit`, then a signal.

    Returns once it has ended. Raises `MalformedError` where it runs, does not answer on its monitor, and
    its state cannot be read.
    """
    files = store.files(name)
    with contextlib.suppress(TdxError):
        if not force and is_locked(files.lock):
            monitor.execute(files.monitor, "system_powerdown")
            _await_end(files, POWERDOWN_SECONDS)
    with contextlib.suppress(TdxError):
        if is_locked(files.lock):
            monitor.execute(files.monitor, "quit")
            _await_end(files, QUIT_SECONDS)
    if is_locked(files.lock):
        kill(files, store.load(name).pid)


def kill(files: MachineFiles, pid: int) -> None:
    """End the QEMU process if it still lives: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The lock says that this very process lives; the number alone could be somebody else's by now.
        if not pid or not is_locked(files.lock):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(UnavailableError):
            _await_end(files, QUIT_SECONDS)


def _await_end(files: MachineFiles, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_locked(files.lock):
        if time.monotonic() > deadline:
            raise UnavailableError(f"the machine did not end within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def _await_monitor(files: MachineFiles) -> None:
    deadline = time.monotonic() + MONITOR_SECONDS
    while not files.monitor.exists():
        if not is_locked(files.lock):
            tail = files.qemu_log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            raise CommandError(f"QEMU ended at once: {tail}", hint=f"see {files.qemu_log}")
        if time.monotonic() > deadline:
            raise CommandError(f"QEMU opened no monitor within {MONITOR_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
