"""A conversation with the guest agent (qemu-ga) over its virtio-serial port, for as long as a block lasts.

The protocol is QEMU's qga/qapi-schema.json: one JSON document a line, one request at a time. Whatever comes
from the guest is not to be trusted; it is bounded in size and time, and checked for its form.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.run import Completed

ANSWER_SECONDS = 20.0
POLL_SECONDS = 0.1
MAX_ANSWER = 64 << 20
"""Bytes of one answer; qemu-ga keeps at most 16 MiB of each output of a program, and sends them as base64."""

_SENTINEL = b"\xff"
"""What no JSON holds: after it, an agent that was interrupted in the middle of a document starts anew."""

_KILLED = "child process has terminated abnormally"
"""What the agent says of a program that a signal has ended (QEMU's qga/commands-posix.c)."""

SHUTDOWN_MODES = ("powerdown", "reboot", "halt")


class Agent:
    """An open conversation; see `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def synchronize(self) -> None:
        """Pass over everything that was said before: answers to those who have given up waiting.

        Raises as `ask` does.
        """
        number = secrets.randbits(31)
        self._writer.write(_SENTINEL)
        await self._send("guest-sync-delimited", {"id": number})
        async with _bounded(ANSWER_SECONDS, "guest-sync-delimited"):
            while True:
                await self._read(_SENTINEL)
                # Another sync's answer may stand before ours.
                if _document(await self._read(b"\n")).get("return") == number:
                    return

    async def ask(
        self, command: str, arguments: dict[str, object] | None = None, timeout: float = ANSWER_SECONDS
    ) -> Any:
        """The agent's answer to one command.

        Raises `CommandError` with the agent's own words where it refuses, answers nonsense or is silent for
        `timeout` seconds.
        """
        async with _bounded(timeout, command):
            await self._send(command, arguments)
            answer = _document(await self._read(b"\n"))
        if "return" in answer:
            return answer["return"]
        error = answer.get("error")
        words = error.get("desc") if isinstance(error, dict) else None
        raise CommandError(f"the guest agent refused {command}: {words or repr(answer)}")

    async def ping(self) -> None:
        """Return if the agent answers; raises as `ask` does."""
        await self.ask("guest-ping")

    async def shut_down(self, mode: str) -> None:
        """Have the guest power down, reboot or halt (`SHUTDOWN_MODES`); the agent does not answer that.

        Raises `CommandError` where it refuses within a second.
        """
        refusal: object = None
        with contextlib.suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(1):
                await self._send("guest-shutdown", {"mode": mode})
                refusal = _document(await self._read(b"\n")).get("error")
        if refusal is not None:
            words = str(refusal.get("desc") if isinstance(refusal, dict) else refusal)
            # The program that takes the guest down goes down with it, and its agent may still tell.
            if _KILLED not in words:
                raise CommandError(f"the guest agent refused to {mode}: {words}")

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float) -> Completed:
        """Run a program in the guest to its end, and return its output.

        A signal that ended it is a negative return code. Raises `CommandError` where the agent refuses, or
        the program has not ended after `timeout` seconds: it then goes on, for the agent cannot end it.
        """
        path, *words = argv
        request: dict[str, object] = {"path": path, "arg": words, "capture-output": True}
        if input:
            request["input-data"] = base64.b64encode(input).decode()
        try:
            async with asyncio.timeout(timeout):
                started = await self.ask("guest-exec", request, timeout)
                pid = _member(started, "pid", int)
                while True:
                    status = await self.ask("guest-exec-status", {"pid": pid}, timeout)
                    if _member(status, "exited", bool):
                        break
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise CommandError(f"{path} did not end in the guest within {timeout:g} s") from None
        signal = status.get("signal")
        code = -signal if isinstance(signal, int) else _member(status, "exitcode", int)
        return Completed(tuple(argv), code, _bytes(status, "out-data"), _bytes(status, "err-data"))

    async def _send(self, command: str, arguments: dict[str, object] | None = None) -> None:
        request: dict[str, object] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        try:
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise _gone(error) from None

    async def _read(self, end: bytes) -> bytes:
        try:
            return await self._reader.readuntil(end)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _gone(error) from None
        except asyncio.LimitOverrunError:
            raise CommandError(f"the guest agent answered with more than {MAX_ANSWER} bytes") from None


@contextlib.asynccontextmanager
async def connect(socket: Path, timeout: float = ANSWER_SECONDS) -> AsyncIterator[Agent]:
    """Converse with the agent behind the port that QEMU serves at `socket`.

    Raises `UnavailableError` where no agent answers within `timeout` seconds: QEMU takes the connection
    whether or not the guest runs one.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=MAX_ANSWER)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(
            f"the guest agent's port {socket} does not answer: {error or 'timed out'}",
            hint="the machine has ended, has no such port, or another command is using it",
        ) from None
    try:
        agent = Agent(reader, writer)
        try:
            async with asyncio.timeout(timeout):
                await agent.synchronize()
        except (TimeoutError, CommandError) as error:
            raise UnavailableError(
                f"no guest agent answers at {socket} ({error or f'silent for {timeout:g} s'})",
                hint="the guest needs the package qemu-guest-agent, running",
            ) from None
        yield agent
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def _bounded(seconds: float, command: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise CommandError(f"the guest agent did not answer {command} within {seconds:g} s") from None


def _document(line: bytes) -> dict[str, Any]:
    # The port may still hold the sentinel of a sync before this answer.
    try:
        document = json.loads(line.rpartition(_SENTINEL)[2])
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _nonsense(line)
    return document


def _member(document: object, name: str, kind: type[int]) -> int:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise _nonsense(document)
    return value


def _bytes(document: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(document.get(name, ""), validate=True)
    except (TypeError, ValueError, AttributeError, binascii.Error):
        raise _nonsense(document) from None


def _nonsense(answer: object) -> CommandError:
    return CommandError(f"the guest agent answers nonsense: {answer!r:.200}")


def _gone(error: Exception) -> UnavailableError:
    return UnavailableError(f"the guest agent's port has closed: {error}", hint="the machine has ended")
