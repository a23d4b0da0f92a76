"""A connection to a QEMU's monitor (QMP), for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError
from qemu.qmp.qmp_client import ExecuteError

from tdxstack.errors import CommandError, UnavailableError

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Event:
    """One QMP event: its name and its data."""

    name: str
    data: Mapping[str, object]


class Monitor:
    """An open QMP connection."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Execute one command and return its result; `CommandError` carries QEMU's own words."""
        try:
            return await asyncio.wait_for(self._client.execute(command, arguments), ANSWER_TIMEOUT)
        except ExecuteError as error:
            raise CommandError(f"QEMU refused {command}: {error.error.error.desc}") from None
        except TimeoutError:
            raise CommandError(f"QEMU did not answer {command} within {ANSWER_TIMEOUT:g} s") from None
        except QMPError as error:
            raise CommandError(f"the connection to QEMU broke during {command}: {error}") from None

    async def events(self) -> AsyncIterator[Event]:
        """The events from now on. A QEMU that is killed ends them late or never: watch its process too."""
        with contextlib.suppress(QMPError):
            async for message in self._client.events:
                data = message.get("data")
                yield Event(str(message["event"]), data if isinstance(data, dict) else {})


@contextlib.asynccontextmanager
async def connect(socket: Path, within: float = CONNECT_TIMEOUT) -> AsyncIterator[Monitor]:
    """Connect to the QMP socket at `socket`; `UnavailableError` where nobody answers `within` seconds."""
    client = QMPClient("tdx")
    client.logger.propagate = False
    try:
        await asyncio.wait_for(client.connect(str(socket)), within)
    except (QMPError, OSError, TimeoutError) as error:
        raise UnavailableError(
            f"no QEMU monitor answers at {socket}: {error or 'timed out'}",
            hint="the machine has ended, or another program holds its monitor",
        ) from None
    try:
        yield Monitor(client)
    finally:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await client.disconnect()


def execute(
    socket: Path,
    command: str,
    arguments: dict[str, object] | None = None,
    *,
    within: float = CONNECT_TIMEOUT,
) -> Any:
    """Connect, execute one command, disconnect; raises as `connect` and `Monitor.execute` do."""

    async def once() -> Any:
        async with connect(socket, within) as monitor:
            return await monitor.execute(command, arguments)

    return asyncio.run(once())
