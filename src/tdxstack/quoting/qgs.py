"""The quote generation service: QGS messages, framed or raw, on a unix socket and on vsock.

Source: Intel DCAP, `qgs_server.cpp`. As there, a connection carries one request; unlike there, a request may
arrive in any number of pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tdxstack.abi.qgs import HEADER_SIZE, LENGTH_PREFIX_SIZE, MAX_REQUEST_SIZE, Header, frame
from tdxstack.abi.tdreport import REPORT_TYPE_TDX, TDREPORT_SIZE
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.files import make_private
from tdxstack.quoting.responder import Responder

VSOCK_PORT: Final = 4050
"""Where guests look for qgsd."""

_MAX_UNIX_PATH = 107
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a client may take, from connecting to having read its answer; how many may be at it."""

    seconds: float = 30.0
    clients: int = 256


class Connections:
    """Serves each connection with one answer. The oldest gives way when there are too many."""

    def __init__(self, responder: Responder, limits: Limits) -> None:
        self._responder = responder
        self._limits = limits
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order of arrival

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client within the time limit, or drop it."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self._limits.clients:
            next(iter(self._tasks)).cancel()
        self._tasks[task] = None
        try:
            async with asyncio.timeout(self._limits.seconds):
                writer.write(await self._reply(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or is being dropped: nobody is left to tell
        finally:
            writer.transport.abort()
            self._tasks.pop(task, None)

    async def close(self) -> None:
        """Drop every client."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)  # transports close their sockets in the next turn of the loop

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        prefix = await reader.readexactly(LENGTH_PREFIX_SIZE)
        # As a length this would be 2 GiB and more, so no framed message starts like a TDREPORT.
        if prefix[0] == REPORT_TYPE_TDX:
            report = prefix + await reader.readexactly(TDREPORT_SIZE - LENGTH_PREFIX_SIZE)
            return await asyncio.to_thread(self._responder.answer_raw, report)
        size = int.from_bytes(prefix, "big")
        if size > MAX_REQUEST_SIZE:
            header = Header.parse(await reader.readexactly(HEADER_SIZE))
            return frame(self._responder.refuse_size(header))
        message = await reader.readexactly(size)
        return frame(await asyncio.to_thread(self._responder.answer, message))


@contextlib.asynccontextmanager
async def listening(
    responder: Responder, socket_path: Path, *, vsock_port: int | None = None, limits: Limits | None = None
) -> AsyncIterator[None]:
    """Serve on `socket_path` (mode 0600, made here and removed at the end) for the block.

    A socket that is left over at that path is replaced: the caller sees to it that no other server is alive.
    Raises `UnavailableError` or `UsageError` where a socket cannot be had.
    """
    connections = Connections(responder, limits or Limits())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(connections.close)
        listeners = [stack.enter_context(_unix_listener(socket_path))]
        if vsock_port is not None:
            listeners.append(stack.enter_context(_vsock_listener(vsock_port)))
        for listener in listeners:
            listener.setblocking(False)
            server = await asyncio.start_server(connections.serve, sock=listener, limit=2 * MAX_REQUEST_SIZE)
            stack.callback(server.close)
        yield


async def serve(
    responder: Responder,
    socket_path: Path,
    *,
    vsock_port: int | None = None,
    limits: Limits | None = None,
    until: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `until` returns. `ready` is called when clients can connect.

    Runs in the main thread, for it handles signals. Raises as `listening` does.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with listening(responder, socket_path, vsock_port=vsock_port, limits=limits):
        ready()
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(stop.wait())}
        if until is not None:
            waits.add(asyncio.create_task(until()))
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


@contextlib.contextmanager
def _unix_listener(path: Path) -> Iterator[socket.socket]:
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise UsageError(
            f"socket path {path} is longer than {_MAX_UNIX_PATH} bytes",
            hint="set XDG_RUNTIME_DIR to a short path",
        )
    make_private(path.parent)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        # Linux gives the file the mode of the socket: it is never open to others, not even for a moment.
        os.fchmod(listener.fileno(), 0o600)
        try:
            if stat.S_ISSOCK(_mode(path)):
                path.unlink()
            listener.bind(os.fspath(path))
        except OSError as error:
            raise UnavailableError(f"cannot listen on {path}: {error.strerror}", hint="remove it") from None
        made = path.stat()
        try:
            listener.listen(_BACKLOG)
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == made.st_ino:
                    path.unlink()


@contextlib.contextmanager
def _vsock_listener(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        raise _no_vsock(port, error) from None
    with contextlib.closing(listener):
        try:
            listener.bind((socket.VMADDR_CID_ANY, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _no_vsock(port, error) from None
        yield listener


def _no_vsock(port: int, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"cannot listen on vsock port {port}: {error.strerror}",
        hint="load the vsock module (modprobe vhost_vsock), end the other server there, or do without vsock",
    )


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0
