"""What is done to a machine while it runs: halt it, let it go on, start its guest anew."""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.errors import UnavailableError
from tdxstack.machine.instance import wait_until_ready
from tdxstack.machine.store import MachineStore
from tdxstack.qemu import monitor

NO_REBOOT = "-no-reboot"
ENDED, RUNNING = "ended", "running"
MONITOR_SECONDS = 0.5
"""How long a monitor that is free takes to answer, and more."""


def run_state(store: MachineStore, name: str) -> str:
    """`ended`, or QEMU's word for what the machine does (`running`, `paused`, `guest-panicked`, ...).

    A monitor serves one at a time: of a machine that another command watches, as `tdx up` does until it has
    booted, only that it is `running` can be told.
    """
    if not store.is_running(name):
        return ENDED
    try:
        answer = monitor.execute(store.files(name).monitor, "query-status", within=MONITOR_SECONDS)
        return str(answer["status"])
    except UnavailableError:
        return RUNNING if store.is_running(name) else ENDED


def suspend(store: MachineStore, name: str) -> None:
    """Halt the vCPUs; memory and connections stay. Raises `UnavailableError` where it does not run."""
    require_running(store, name)
    monitor.execute(store.files(name).monitor, "stop")


def resume(store: MachineStore, name: str) -> None:
    """Let a halted machine go on. Raises `UnavailableError` where it does not run."""
    require_running(store, name)
    monitor.execute(store.files(name).monitor, "cont")


def reboot(
    store: MachineStore,
    name: str,
    timeout: float,
    on_line: Callable[[str], None],
    ask: Callable[[], None] | None = None,
) -> None:
    """Start the guest anew and wait until it is ready: `ask` tells it to reboot; without that it is reset.

    A reset loses what the guest has not yet written to its disk. Raises `UnavailableError` where the machine
    does not run or cannot be rebooted: upstream QEMU before 11.0 ends a TD that is. Raises `CommandError` as
    `wait_until_ready` does.
    """
    require_running(store, name)
    if NO_REBOOT in store.load(name).argv:
        raise UnavailableError(
            f"machine {name!r} cannot be rebooted: it was started for a QEMU that ends a TD then",
            hint=f"end it and start another: tdx down {name}, then tdx up --name {name}",
        )
    files = store.files(name)
    seen = files.console_log.stat().st_size if files.console_log.exists() else 0
    if ask is None:
        monitor.execute(files.monitor, "system_reset")
    else:
        ask()
    wait_until_ready(files, timeout, on_line, skip=seen)


def require_running(store: MachineStore, name: str) -> None:
    """Raise `UsageError` where there is no such machine, `UnavailableError` where it does not run."""
    store.load(name)
    if not store.is_running(name):
        raise UnavailableError(f"machine {name!r} is not running", hint="start one with: tdx up")
