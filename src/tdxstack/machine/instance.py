"""The QEMU process of a machine: start it, and end it whatever state it is in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Sequence

from tdxstack.errors import CommandError
from tdxstack.files import is_locked, lock, write_atomically
from tdxstack.interrupts import to_the_end
from tdxstack.machine.events import ANEW, HANDSHAKE, EventLog, ending
from tdxstack.machine.qemu_text import escape
from tdxstack.machine.store import MachineFiles
from tdxstack.qemu import monitor
from tdxstack.run import Leash, start
from tdxstack.terminal import printable

MONITOR_SECONDS = 30.0
QUIT_SECONDS = 10.0
SHORTEST_WAIT, LONGEST_WAIT = 0.005, 0.2
"""Seconds between two looks at something: short at first, for what is done at once."""

LOG_TAIL_BYTES = 4000
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


def event_log_options(files: MachineFiles) -> list[str]:
    """Have QEMU write down its events: a monitor that is greeted by a file and speaks into another."""
    paths = {"path": files.events, "input-path": files.handshake}
    escaped = ",".join(f"{name}={escape(path)}" for name, path in paths.items())
    return ["-chardev", f"file,id=events,{escaped}", "-mon", "chardev=events,mode=control"]


async def start_qemu(
    files: MachineFiles,
    argv: Sequence[str],
    *,
    holds: Sequence[int] = (),
    leash: Leash | None = None,
    on_start: Callable[[int], None] = lambda pid: None,
) -> None:
    """Start QEMU and return once its monitor answers; `on_start` is given its process id at once.

    QEMU outlives this process, unless it is on a `leash`. It holds the machine's lock, and the file
    descriptors of `holds`, for as long as it lives. Raises `CommandError` with the end of its log if it ends
    at once; it is ended if anything else goes wrong.
    """
    if not files.handshake.exists():
        write_atomically(files.handshake, HANDSHAKE, mode=0o600)
    for left in (files.events, files.monitor):
        left.unlink(missing_ok=True)
    pid = 0
    inherited = [*holds] if leash is None else [*holds, leash.descriptor]
    try:
        with lock(files.lock, wait=False) as descriptor:
            pid = start(argv, log=files.qemu_log, pass_fds=[descriptor, *inherited])
            if leash is not None:
                leash.tie(pid)
            on_start(pid)
        await _until_monitor(files)
    except BaseException:
        await to_the_end(end(files, pid))
        raise


async def ssh_port(files: MachineFiles) -> int:
    """The local TCP port that QEMU forwards to the guest's port 22; 0 where there is none."""
    async with monitor.connect(files.monitor, MONITOR_SECONDS) as connection:
        text = await connection.execute("human-monitor-command", {"command-line": "info usernet"})
    found = _FORWARD.search(text) if isinstance(text, str) else None
    return int(found[1]) if found else 0


def why_halted(files: MachineFiles) -> str:
    """Why the guest does not go on, as a clause, as far as QEMU's events tell; empty where they do not."""
    reasons: list[str] = []
    for event in EventLog(files.events).read():
        if event.name in ANEW:
            # What went before was another life of the guest's.
            reasons.clear()
        elif reason := ending(event):
            reasons.append(reason)
    # What a guest said of itself comes before QEMU's own end, and says more.
    return next((reason for reason in reasons if "shut down" not in reason), reasons[-1] if reasons else "")


def why_ended(files: MachineFiles) -> str:
    """Why QEMU is not there any more, as a clause: from its events, else the end of its log."""
    if reason := why_halted(files):
        return reason
    tail = log_tail(files)
    return "QEMU has ended" + (f": {tail}" if tail else " without a word, as if killed")


def log_tail(files: MachineFiles) -> str:
    """The end of what QEMU has printed, in lines that a terminal can show."""
    try:
        with files.qemu_log.open("rb") as file:
            file.seek(max(0, files.qemu_log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(printable(line) for line in text.strip().splitlines())


async def quit_qemu(files: MachineFiles, timeout: float = QUIT_SECONDS) -> None:
    """Have QEMU end itself, which writes out its disks. Raises `CommandError` where it does not."""
    if is_locked(files.lock):
        async with monitor.connect(files.monitor, timeout) as connection:
            await connection.execute("quit")
        await until_ended(files, timeout)


async def end(files: MachineFiles, pid: int) -> None:
    """End the QEMU process if it still lives, by SIGTERM, then SIGKILL; remove the sockets it left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The lock says that this very process lives; the number alone could be somebody else's by now.
        if not pid or not is_locked(files.lock):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(CommandError):
            await until_ended(files, QUIT_SECONDS)
    remove_sockets(files)


def remove_sockets(files: MachineFiles) -> None:
    """Remove what only a running machine has; nothing happens while it runs."""
    if not is_locked(files.lock):
        sockets = (files.monitor, files.console_socket, files.agent, files.tpm_socket)
        for path in (*sockets, files.gdb):
            path.unlink(missing_ok=True)


async def until_ended(files: MachineFiles, timeout: float) -> None:
    """Wait until QEMU has ended. Raises `CommandError` where it has not after `timeout` seconds."""
    await until(lambda: not is_locked(files.lock), timeout, f"the machine did not end within {timeout:g} s")


async def until(condition: Callable[[], bool], timeout: float, complaint: str, hint: str = "") -> None:
    """Wait until `condition` holds; `CommandError` with `complaint` where it does not in `timeout` seconds.

    Looks often at first, for what is done at once, and seldom later.
    """
    pause = SHORTEST_WAIT
    try:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_WAIT)
    except TimeoutError:
        # Somebody else may have kept the event loop busy all the while.
        if not condition():
            raise CommandError(complaint, hint=hint) from None


def ended_at_once(files: MachineFiles) -> CommandError:
    """The error for a QEMU that has ended instead of running, in its own words."""
    return CommandError(f"QEMU ended at once: {log_tail(files)}", hint=f"see {files.qemu_log}")


async def _until_monitor(files: MachineFiles) -> None:
    def is_there() -> bool:
        if files.monitor.exists():
            return True
        if is_locked(files.lock):
            return False
        raise ended_at_once(files)

    complaint = f"QEMU opened no monitor within {MONITOR_SECONDS:g} s"
    await until(is_there, MONITOR_SECONDS, complaint, hint=f"see {files.qemu_log}")
