"""A secret looked for in a dump, with a guest and a QEMU that keep what they are given in one file."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError
from tdxstack.files import lock
from tdxstack.machine import memory_check
from tdxstack.machine.machine import Machine
from tdxstack.machine.memory_check import Look, MemoryCheck, look_for_a_secret
from tdxstack.machine.store import MachineStore
from tdxstack.qemu import monitor
from tests.unit.machine.test_control import clock, store

__all__ = ["store"]

BEFORE = 3 * memory_check.PIECE - 7
"""The secret lies across the end of a piece."""


class Qemu:
    """A monitor that dumps what the guest's file holds, behind and before other memory."""

    def __init__(self, memory: Path, *, shows: bool = True, hangs: bool = False) -> None:
        self.memory = memory
        self.shows = shows
        self.hangs = hangs
        self.given = -1

    @contextlib.asynccontextmanager
    async def connect(self, _socket: Path, _within: float = 10.0) -> AsyncIterator[Qemu]:
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):
                os.close(self.given)

    async def give_file(self, name: str, descriptor: int) -> None:
        self.given = os.dup(descriptor)

    async def execute(self, command: str, arguments: Any = None, timeout: float = 20.0) -> Any:
        assert (command, arguments) == (
            "dump-guest-memory",
            {"paging": False, "protocol": "fd:tdx-dump"},
        )
        if self.hangs:
            await asyncio.sleep(60)
        secret = self.memory.read_bytes() if self.shows else b""
        await asyncio.to_thread(self._write, bytes(BEFORE) + secret + bytes(5000))

    def _write(self, data: bytes) -> None:
        with os.fdopen(self.given, "wb") as pipe:
            pipe.write(data)


@pytest.fixture
def vm(store: MachineStore, tmp_path: Path) -> Iterator[Machine]:
    """Its guest's commands run here, in a directory of their own."""
    ssh = tmp_path / "ssh"
    script = 'for last; do :; done; echo "$@" >> words; eval "$last"'
    ssh.write_text(f"#!/bin/sh\ncd {tmp_path}; {script}\n")
    ssh.chmod(0o755)
    with lock(store.files("td").lock):
        yield Machine(store, "td", lambda name: [str(ssh)], clock)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = tmp_path / "memory"
    monkeypatch.setattr(memory_check, "PLACE", str(memory))
    return memory


def look(vm: Machine, qemu: Qemu, monkeypatch: pytest.MonkeyPatch, timeout: float = 20) -> Look:
    monkeypatch.setattr(monitor, "connect", qemu.connect)
    return asyncio.run(look_for_a_secret(vm, timeout=timeout))


def test_secret_that_the_vmm_sees_is_found_across_pieces(
    vm: Machine, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = look(vm, Qemu(memory), monkeypatch)
    assert found == Look("td", True, BEFORE + memory_check.SECRET_SIZE + 5000)
    assert not memory.exists(), "it is removed from the guest"


def test_secret_that_the_vmm_does_not_see_is_not_found(
    vm: Machine, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(vm, Qemu(memory, shows=False), monkeypatch) == Look("td", False, BEFORE + 5000)


def test_secret_is_in_no_argument_vector(
    vm: Machine, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted: list[bytes] = []
    qemu = Qemu(memory)
    write = qemu._write

    def remember(data: bytes) -> None:
        planted.append(memory.read_bytes())
        write(data)

    monkeypatch.setattr(qemu, "_write", remember)
    look(vm, qemu, monkeypatch)
    words = (tmp_path / "words").read_bytes()
    assert len(planted[0]) == memory_check.SECRET_SIZE
    assert planted[0] not in words
    assert planted[0].hex().encode() not in words


def test_qemu_that_dumps_nothing_ends_the_wait(
    vm: Machine, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match=r"did not dump the memory of machine 'td' within 0.3 s"):
        look(vm, Qemu(memory, hangs=True), monkeypatch, timeout=0.3)
    assert not memory.exists()


@pytest.mark.parametrize(
    ("subject", "control", "emulated", "closed", "meaning"),
    [
        (False, True, False, True, "the VMM cannot read this machine's memory"),
        (True, True, True, False, "an emulated TD is not protected"),
        (True, True, False, False, "it is no TD"),
        (False, False, False, False, "nothing: the secret was not found in the ordinary machine either"),
        (True, False, True, False, "nothing: "),
    ],
)
def test_what_is_shown(subject: bool, control: bool, emulated: bool, closed: bool, meaning: str) -> None:
    check = MemoryCheck(Look("td", subject, 1), Look("vm", control, 1), emulated)
    assert check.closed is closed
    assert meaning in check.meaning
    assert ("DRAM" in check.meaning) is closed, "what a proof does not prove"
