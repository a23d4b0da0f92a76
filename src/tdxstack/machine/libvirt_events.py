"""What libvirt tells of its machines, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tdxstack.errors import TdxError
from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine.libvirt_binding import Connection, Domain
from tdxstack.machine.libvirt_calls import Calls
from tdxstack.machine.twin import twin, wait

EVENT_SECONDS = 60.0

_EVENTS: Sequence[tuple[str, Sequence[str]]] = (
    ("defined", ("added", "updated", "renamed", "from-snapshot")),
    ("undefined", ("removed", "renamed")),
    ("started", ("booted", "migrated", "restored", "from-snapshot", "woken")),
    ("suspended", ("paused", "migrated", "io-error", "watchdog", "restored", "from-snapshot", "api-error")),
    ("resumed", ("unpaused", "migrated", "from-snapshot")),
    ("stopped", ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot")),
    ("shutdown", ("finished", "guest", "host")),
    ("pm-suspended", ("memory", "disk")),
    ("crashed", ("panicked", "crash-loaded")),
)
"""virDomainEventType and its details, by their numbers."""


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """What happened to a machine, in words like virsh's."""

    machine: str
    event: str
    detail: str = ""


class Events:
    """The events of one machine, or of all, while a block lasts. Those that nobody asks for are kept."""

    def __init__(self, calls: Calls, connection: Connection, machine: str | None) -> None:
        self._calls = calls
        self._connection = connection
        self._machine = machine
        self._seen: deque[DomainEvent] = deque()
        self._wake: Callable[[], object] | None = None
        self._numbers: list[int] = []

    @twin
    async def next(self, *, timeout: float = EVENT_SECONDS) -> DomainEvent | None:
        """The oldest event that was not asked for yet; None where there is none within `timeout` seconds."""
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(came.set)
        try:
            if not self._seen:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(came.wait(), timeout)
            return self._seen.popleft() if self._seen else None
        finally:
            self._wake = None

    def __enter__(self) -> Events:
        return wait(self.__aenter__, "events")

    def __exit__(self, *_: object) -> None:
        wait(self.__aexit__, "events")

    async def __aenter__(self) -> Events:
        try:
            await self._watch(binding.EVENT_LIFECYCLE, self._on_lifecycle)
            await self._watch(binding.EVENT_REBOOT, self._on_reboot)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        deregister = self._connection.domainEventDeregisterAny
        while self._numbers:
            with contextlib.suppress(TdxError):
                await self._calls.call("stop watching", functools.partial(deregister, self._numbers.pop()))

    async def _watch(self, kind: int, callback: Callable[..., None]) -> None:
        register = self._connection.domainEventRegisterAny
        self._numbers.append(
            await self._calls.call("watch events", lambda: register(None, kind, callback, None))
        )

    def _on_lifecycle(self, _: object, domain: Domain, event: int, detail: int, __: object) -> None:
        self._keep(domain, *_event(event, detail))

    def _on_reboot(self, _: object, domain: Domain, __: object) -> None:
        self._keep(domain, "rebooted")

    def _keep(self, domain: Domain, event: str, detail: str = "") -> None:
        """Called by libvirt, in a thread of its event loop."""
        name = domain.name()
        if self._machine in (None, name):
            self._seen.append(DomainEvent(name, event, detail))
            # Whoever waited may have gone, with its loop.
            with contextlib.suppress(RuntimeError):
                if wake := self._wake:
                    wake()


def _event(event: int, detail: int) -> tuple[str, str]:
    if not 0 <= event < len(_EVENTS):
        return f"event-{event}", str(detail)
    word, details = _EVENTS[event]
    return word, details[detail] if 0 <= detail < len(details) else str(detail)
