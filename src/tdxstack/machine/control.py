"""What is done to a machine while it runs: halt it, let it go on, start its guest anew, end it."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable

from tdxstack.errors import CommandError, TdxError, UnavailableError
from tdxstack.files import is_locked
from tdxstack.machine.events import EventLog
from tdxstack.machine.instance import end, quit_qemu, remove_sockets, until, until_ended
from tdxstack.machine.readiness import Mark
from tdxstack.machine.store import MachineFiles, MachineStore
from tdxstack.qemu import agent, monitor

NO_REBOOT = "-no-reboot"
CREATED, RUNNING, ENDED = "created", "running", "ended"
STATE_SECONDS = 2.0
"""How long a monitor takes to answer, and more."""

ASK_SECONDS = 60.0


class StopMode(enum.Enum):
    """How a machine is ended."""

    ACPI = "acpi"
    """The power button; the guest goes down as it is set up to."""
    AGENT = "agent"
    """The guest agent is told to power down."""
    QMP = "qmp"
    """QEMU is told to end: as if the power failed, but with its disks written out."""
    FORCE = "force"
    """As `QMP`, and by a signal where QEMU does not answer."""


class RebootMode(enum.Enum):
    """How a guest is started anew."""

    SSH = "ssh"
    """The guest's own `systemctl reboot`."""
    ACPI = "acpi"
    """The power button, and the power again once the guest is down."""
    AGENT = "agent"
    """The guest agent is told to reboot."""
    QMP = "qmp"
    """A reset; what the guest has not yet written to its disk is lost."""


async def run_state(store: MachineStore, name: str) -> str:
    """`created`, `ended`, or QEMU's word for what it does (`running`, `paused`, `guest-panicked`, ...).

    Of a QEMU that does not answer, only that it is `running` can be told.
    """
    files = store.files(name)
    if not store.is_running(name):
        return ENDED if store.load(name).started else CREATED
    try:
        async with monitor.connect(files.monitor, STATE_SECONDS) as connection:
            return str((await connection.execute("query-status"))["status"])
    except UnavailableError:
        return RUNNING if store.is_running(name) else ENDED


async def command(files: MachineFiles, name: str, timeout: float) -> None:
    """Have QEMU execute one command without arguments; raises as `monitor.connect` and `execute` do."""
    async with monitor.connect(files.monitor, timeout) as connection:
        await connection.execute(name, timeout=timeout)


async def stop(store: MachineStore, name: str, mode: StopMode | None, timeout: float) -> None:
    """End a machine that the caller has claimed, and return once it has; tidy up where it does not run.

    Without a `mode`, everything is tried in turn: the power button for `timeout` seconds, then as by force.
    With one, nothing else is: `CommandError` where the machine then still runs.
    """
    files = store.files(name)
    if not store.is_running(name):
        remove_sockets(files)
        return
    if mode is None or mode is StopMode.FORCE:
        if mode is None:
            with contextlib.suppress(TdxError):
                await command(files, "system_powerdown", timeout)
                await until_ended(files, timeout)
        await _end_by_force(store, name)
    elif mode is StopMode.QMP:
        await quit_qemu(files, timeout)
    else:
        if mode is StopMode.ACPI:
            await command(files, "system_powerdown", timeout)
        else:
            await tell_agent(files, "powerdown", timeout)
        complaint = f"the guest did not go down within {timeout:g} s of being asked ({mode.value})"
        await until(
            lambda: not is_locked(files.lock), timeout, complaint, hint="end it at once with --mode force"
        )
    remove_sockets(files)


async def _end_by_force(store: MachineStore, name: str) -> None:
    """End QEMU by its monitor, and where that does not answer by signals.

    Raises `MalformedError` where neither is possible, as its state cannot be read.
    """
    files = store.files(name)
    with contextlib.suppress(TdxError):
        await quit_qemu(files)
    if store.is_running(name):
        await end(files, store.load(name).pid)


async def reboot(
    files: MachineFiles, mode: RebootMode, timeout: float, ask: Callable[[], Awaitable[None]]
) -> Mark:
    """Start the guest anew, and return where its new console and events begin, once it has begun.

    `ask` tells the guest to reboot, for `RebootMode.SSH`. Raises `CommandError` where the guest has not gone
    down after `timeout` seconds, or the machine ends.
    """
    mark = Mark.now(files)
    if mode is RebootMode.ACPI:
        await _power_cycle(files, timeout)
        return mark
    if mode is RebootMode.SSH:
        await ask()
    elif mode is RebootMode.AGENT:
        await tell_agent(files, "reboot", timeout)
    else:
        await command(files, "system_reset", timeout)
    await _until_event(files, "RESET", mark, timeout)
    return mark


async def tell_agent(files: MachineFiles, mode: str, timeout: float) -> None:
    """Have the guest agent take the guest down; raises as `agent_of` and `Agent.shut_down` do."""
    async with agent_of(files, min(timeout, ASK_SECONDS)) as connection:
        await connection.shut_down(mode)


@contextlib.asynccontextmanager
async def agent_of(files: MachineFiles, timeout: float = agent.ANSWER_SECONDS) -> AsyncIterator[agent.Agent]:
    """The guest agent of a machine; `UnavailableError` where it has no port for one, or none answers."""
    if not files.agent.exists():
        raise UnavailableError(
            f"machine {files.directory.name!r} has no port for a guest agent",
            hint="give it one in its specification: guest_agent: true",
        )
    async with agent.connect(files.agent, timeout) as connection:
        yield connection


async def _power_cycle(files: MachineFiles, timeout: float) -> None:
    """Press the power button, wait until the guest has powered off, and reset it, as libvirt does."""
    mark = Mark.now(files)
    async with monitor.connect(files.monitor) as connection:
        await connection.execute("set-action", {"shutdown": "pause"})
        try:
            await connection.execute("system_powerdown")
            await _until_event(files, "SHUTDOWN", mark, timeout)
            await connection.execute("system_reset")
            await connection.execute("cont")
        finally:
            with contextlib.suppress(CommandError):
                await connection.execute("set-action", {"shutdown": "poweroff"})


async def _until_event(files: MachineFiles, name: str, since: Mark, timeout: float) -> None:
    log = EventLog(files.events, at=since.events)

    def has_come() -> bool:
        if any(event.name == name for event in log.read()):
            return True
        if not is_locked(files.lock):
            raise CommandError("the machine has ended instead", hint=f"see {files.console_log}")
        return False

    await until(has_come, timeout, f"the guest did not go down within {timeout:g} s of being asked")
