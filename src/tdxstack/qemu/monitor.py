"""A connection to a QEMU's monitor (QMP), for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, QMPClient, QMPError
from qemu.qmp.qmp_client import ExecuteError

from tdxstack.errors import CommandError, UnavailableError

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 20.0
PAUSES = tuple(0.01 * 2**number for number in range(7))
"""Seconds before it is tried again to connect."""


class Monitor:
    """An open QMP connection."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def execute(
        self, command: str, arguments: dict[str, object] | None = None, timeout: float = ANSWER_TIMEOUT
    ) -> Any:
        """Execute one command and return its result; `CommandError` carries QEMU's own words."""
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise CommandError(f"QEMU refused {command}: {error.error.error.desc}") from None
        except TimeoutError:
            raise CommandError(f"QEMU did not answer {command} within {timeout:g} s") from None
        except QMPError as error:
            raise CommandError(f"the connection to QEMU broke during {command}: {error}") from None

    async def give_file(self, name: str, descriptor: int) -> None:
        """Let QEMU have a file descriptor, under a name that other commands know it by (`fd:NAME`)."""
        self._client.send_fd_scm(descriptor)
        await self.execute("getfd", {"fdname": name})


@contextlib.asynccontextmanager
async def connect(socket: Path, within: float = CONNECT_TIMEOUT) -> AsyncIterator[Monitor]:
    """Connect to the QMP socket at `socket`; `UnavailableError` where nobody answers `within` seconds."""
    client = QMPClient("tdx")
    client.logger.disabled = True
    try:
        async with asyncio.timeout(within):
            await _connect(client, str(socket))
    except (QMPError, OSError, TimeoutError, AssertionError) as error:
        # An assertion of the library's fails where QEMU ends in the middle of the greeting.
        await _disconnect(client)
        raise UnavailableError(
            f"no QEMU monitor answers at {socket}: {error or 'timed out'}",
            hint="the machine has ended, or another program holds its monitor",
        ) from None
    try:
        yield Monitor(client)
    finally:
        await _disconnect(client)


async def _connect(client: QMPClient, socket: str) -> None:
    """Connect to a QEMU that may only just have started: the file is there a moment before QEMU listens."""
    for pause in PAUSES:
        try:
            await client.connect(socket)
        except ConnectError as error:
            if not isinstance(error.exc, ConnectionRefusedError):
                raise
            await asyncio.sleep(pause)
        else:
            return
    await client.connect(socket)


async def _disconnect(client: QMPClient) -> None:
    with contextlib.suppress(QMPError, OSError, EOFError, AssertionError):
        await client.disconnect()
