"""Waiting for a guest: until it can be entered, or its agent answers, unless it ends first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import is_locked
from tdxstack.machine.events import ANEW, VIOLATION, EventLog, ending, violation
from tdxstack.machine.instance import LONGEST_WAIT, why_ended
from tdxstack.machine.store import MachineFiles
from tdxstack.qemu import agent

READY_LINE = "tdxstack: ready"
"""What the guest image prints on its console once SSH answers."""

CONSOLE_READ = 1 << 16
"""Bytes of a console that are looked at at once, and that a line without an end may have."""

BANNER_SECONDS = 5.0
AGENT_SECONDS = 2.0

OnLine = Callable[[str], None]
"""Is given each line that the guest writes on its console, as it is."""


def unseen(_line: str) -> None:
    """An `OnLine` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a machine's console and events have come, in bytes."""

    console: int = 0
    events: int = 0

    @classmethod
    def now(cls, files: MachineFiles) -> Mark:
        return cls(_size(files.console_log), _size(files.events))


class Watch:
    """One machine, watched from a mark on. Any number may watch."""

    def __init__(self, files: MachineFiles, on_line: OnLine, since: Mark) -> None:
        self.files = files
        self.ready = False
        """Whether the guest has said so on its console."""
        self._on_line = on_line
        self._console_at = since.console
        self._events = EventLog(files.events, at=since.events)
        self._pending = b""

    def look(self) -> None:
        """Take notice of what is new. Raises `CommandError` where the guest cannot become ready any more."""
        # Asked before the console is read, so that the last words of a machine that ends are heard.
        over = not is_locked(self.files.lock)
        self._read_console()
        reason = ""
        for event in self._events.read():
            if event.name == VIOLATION and not event.data.get("fatal"):
                self._on_line(violation(event.data))
            # A reset gives a guest that had panicked another life.
            reason = "" if event.name in ANEW else reason or ending(event)
        if over or reason:
            raise CommandError(
                f"the guest did not become ready: {reason or why_ended(self.files)}",
                hint=f"see {self.files.console_log}",
            )

    def _read_console(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.files.console_log.open("rb") as console:
            console.seek(self._console_at)
            while piece := console.read(CONSOLE_READ):
                self._console_at += len(piece)
                *lines, rest = (self._pending + piece).split(b"\n")
                self._pending = rest[-CONSOLE_READ:]
                for raw in lines:
                    line = raw.decode(errors="replace").rstrip()
                    self._on_line(line)
                    self.ready = self.ready or READY_LINE in line


async def until_ready(
    files: MachineFiles, port: int, timeout: float, on_line: OnLine = unseen, since: Mark | None = None
) -> None:
    """Wait until an SSH server greets on the local `port`; without one, until the console says ready.

    What the guest writes from `since` on (default: its start) is given to `on_line`. Raises `CommandError`
    with what is known if the guest panics or ends first, or when `timeout` seconds have passed.
    """
    watch = Watch(files, on_line, since or Mark())

    async def is_ready() -> bool:
        return await greets(port) if port else watch.ready

    await _until(watch, is_ready, timeout, f"the guest was not ready after {timeout:g} s")


async def until_agent(
    files: MachineFiles, timeout: float, on_line: OnLine = unseen, since: Mark | None = None
) -> None:
    """Wait until the guest agent answers; else as `until_ready`."""

    async def answers() -> bool:
        with contextlib.suppress(UnavailableError):
            async with agent.connect(files.agent, AGENT_SECONDS):
                return True
        return False

    watch = Watch(files, on_line, since or Mark())
    await _until(watch, answers, timeout, f"no guest agent answered within {timeout:g} s")


async def until_greeted(port: int, timeout: float) -> None:
    """Wait until an SSH server greets on the local `port`; `CommandError` after `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            while not await greets(port):
                await asyncio.sleep(LONGEST_WAIT)
    except TimeoutError:
        raise CommandError(f"no SSH server greeted on 127.0.0.1:{port} within {timeout:g} s") from None


async def greets(port: int) -> bool:
    """Whether an SSH server greets on the local `port` (QEMU takes connections long before)."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(BANNER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await reader.read(4) == b"SSH-"
            finally:
                writer.close()
    return False


async def _until(
    watch: Watch, condition: Callable[[], Awaitable[bool]], timeout: float, complaint: str
) -> None:
    """Wait until `condition` holds, while `watch` looks whether the guest ends.

    An attempt under way when the guest says that it is ready is made anew: it may have gone to nobody.
    """

    async def attempt() -> None:
        while not await condition():
            await asyncio.sleep(LONGEST_WAIT)

    attempts = asyncio.create_task(attempt())
    renewed = False
    try:
        async with asyncio.timeout(timeout):
            while not attempts.done():
                watch.look()
                if watch.ready and not renewed:
                    await _give_up(attempts)
                    attempts, renewed = asyncio.create_task(attempt()), True
                await asyncio.wait([attempts], timeout=LONGEST_WAIT)
            attempts.result()
    except TimeoutError:
        raise CommandError(complaint, hint=f"see how far it came: {watch.files.console_log}") from None
    finally:
        await _give_up(attempts)


async def _give_up(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
