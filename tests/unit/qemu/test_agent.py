"""The guest agent's client, with a scripted agent behind the socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.qemu import agent
from tdxstack.qemu.agent import Agent, connect

Answer = Callable[[dict[str, Any]], Any]
"""What the scripted agent says to a request: a document, bytes as they are, or None for silence."""


class FakeAgent:
    """qemu-ga as far as its protocol goes; `greeting` is what an earlier client left unread."""

    def __init__(self, answer: Answer, greeting: bytes = b"") -> None:
        self.answer = answer
        self.greeting = greeting
        self.requests: list[dict[str, Any]] = []

    @contextlib.asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._talk, str(path))
        try:
            yield
        finally:
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                request = json.loads(line.lstrip(b"\xff"))
                self.requests.append(request)
                if request["execute"] == "guest-sync-delimited":
                    synchronized = json.dumps({"return": request["arguments"]["id"]})
                    answer: Any = b"\xff" + synchronized.encode() + b"\n"
                else:
                    answer = self.answer(request)
                if answer is None:
                    continue
                writer.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")
        writer.close()


def converse(fake: FakeAgent, path: Path, work: Callable[[Agent], Awaitable[Any]]) -> Any:
    async def both() -> Any:
        async with fake.serve(path / "a"), connect(path / "a", 2) as open_agent:
            return await work(open_agent)

    return asyncio.run(both())


def said(document: Any) -> Answer:
    return lambda request: document


def test_answers_to_an_earlier_client_are_passed_over(tmp_path: Path) -> None:
    stale = b'{"return": {"pid": 7}}\n\xff{"return": 1}\n{"retu'
    converse(FakeAgent(said({"return": {}}), stale), tmp_path, Agent.ping)


def test_refusal_is_told_in_the_agents_words(tmp_path: Path) -> None:
    refusal = {"error": {"class": "GenericError", "desc": "Command guest-ping has been disabled"}}
    with pytest.raises(CommandError, match="refused guest-ping: Command guest-ping has been disabled"):
        converse(FakeAgent(said(refusal)), tmp_path, Agent.ping)


@pytest.mark.parametrize("answer", [b"[1]\n", b"nonsense\n", b"[" * 100_000 + b"\n", b'{"neither": 1}\n'])
def test_nonsense_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(CommandError):
        converse(FakeAgent(said(answer)), tmp_path, Agent.ping)


def test_silence_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match=r"did not answer guest-info within 0.2 s"):
        converse(FakeAgent(said(None)), tmp_path, lambda a: a.ask("guest-info", timeout=0.2))


def test_answer_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "MAX_ANSWER", 1000)
    with pytest.raises(CommandError, match="more than 1000 bytes"):
        converse(FakeAgent(said(b"x" * 5000)), tmp_path, Agent.ping)


def test_guest_without_an_agent_is_told(tmp_path: Path) -> None:
    """QEMU takes the connection for its guest, which says nothing."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_unix_server(silent, str(tmp_path / "a"))
        try:
            async with connect(tmp_path / "a", 0.2):
                pass
        finally:
            server.close()

    with pytest.raises(UnavailableError, match="no guest agent answers") as caught:
        asyncio.run(ask())
    assert "qemu-guest-agent" in caught.value.hint


def test_port_that_is_gone_is_told(tmp_path: Path) -> None:
    async def ask() -> None:
        async with connect(tmp_path / "absent", 1):
            pass

    with pytest.raises(UnavailableError, match="does not answer"):
        asyncio.run(ask())


def test_port_that_closes_is_told(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_unix_server(hang_up, str(tmp_path / "a"))
        try:
            async with connect(tmp_path / "a", 2):
                pass
        finally:
            server.close()

    with pytest.raises(UnavailableError):
        asyncio.run(ask())


def test_program_runs_to_its_end(tmp_path: Path) -> None:
    polls = iter([{"exited": False}, {"exited": True, "exitcode": 3, "out-data": "b3V0", "err-data": "ZXJy"}])

    def answer(request: dict[str, Any]) -> Any:
        if request["execute"] == "guest-exec":
            return {"return": {"pid": 42}}
        assert request["arguments"] == {"pid": 42}
        return {"return": next(polls)}

    fake = FakeAgent(answer)
    done = converse(fake, tmp_path, lambda a: a.run(["/bin/cat", "-"], input=b"in", timeout=10))
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out", b"err")
    assert fake.requests[1]["arguments"] == {
        "path": "/bin/cat",
        "arg": ["-"],
        "capture-output": True,
        "input-data": base64.b64encode(b"in").decode(),
    }


def test_program_ended_by_a_signal(tmp_path: Path) -> None:
    answer = {"return": {"pid": 1, "exited": True, "signal": 9}}
    done = converse(FakeAgent(said(answer)), tmp_path, lambda a: a.run(["/bin/x"], timeout=10))
    assert done.returncode == -9


def test_program_that_does_not_end(tmp_path: Path) -> None:
    answer = {"return": {"pid": 1, "exited": False}}
    with pytest.raises(CommandError, match=r"/bin/sleep did not end in the guest within 0.3 s"):
        converse(FakeAgent(said(answer)), tmp_path, lambda a: a.run(["/bin/sleep", "9"], timeout=0.3))


@pytest.mark.parametrize("answer", [{}, {"pid": "1"}, {"pid": 1, "exited": True, "exitcode": "0"}, []])
def test_program_whose_end_is_nonsense(tmp_path: Path, answer: Any) -> None:
    with pytest.raises(CommandError, match="nonsense"):
        converse(FakeAgent(said({"return": answer})), tmp_path, lambda a: a.run(["/bin/x"], timeout=60))


def test_output_that_is_no_base64(tmp_path: Path) -> None:
    answer = {"return": {"pid": 1, "exited": True, "exitcode": 0, "out-data": "!"}}
    with pytest.raises(CommandError, match="nonsense"):
        converse(FakeAgent(said(answer)), tmp_path, lambda a: a.run(["/bin/x"], timeout=60))


def test_shutdown_needs_no_answer(tmp_path: Path) -> None:
    fake = FakeAgent(said(None))
    converse(fake, tmp_path, lambda a: a.shut_down("reboot"))
    assert fake.requests[-1] == {"execute": "guest-shutdown", "arguments": {"mode": "reboot"}}


def test_shutdown_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="refused to powerdown: no"):
        converse(FakeAgent(said({"error": {"desc": "no"}})), tmp_path, lambda a: a.shut_down("powerdown"))


def test_shutdown_that_takes_its_own_program_down(tmp_path: Path) -> None:
    """Said by a guest without D-Bus while it went down."""
    words = "child process has terminated abnormally: Failed to connect to system scope bus"
    converse(FakeAgent(said({"error": {"desc": words}})), tmp_path, lambda a: a.shut_down("powerdown"))
