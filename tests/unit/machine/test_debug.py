"""How a debugger gets at a guest, with a scripted monitor and a guest that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import lock
from tdxstack.machine import debug as debug_module
from tdxstack.machine.debug import close, debug
from tdxstack.machine.machine import Machine
from tdxstack.machine.store import MachineStore
from tdxstack.qemu import monitor
from tests.unit.machine.test_control import STATE, clock, store

__all__ = ["store"]

GUEST = "#!/bin/sh\nprintf '7.3.4\\ndebian\\nffffffff9f000000 T _text\\n'\n"
HOSTILE = "#!/bin/sh\nprintf '7 -y\\ndebian\\nffffffff9f000000 T _text\\n'\n"


class Qemu:
    def __init__(self, socket: Path, said: str = "") -> None:
        self.socket = socket
        self.said = said
        self.lines: list[str] = []

    @contextlib.asynccontextmanager
    async def connect(self, _socket: Path, _within: float = 10.0) -> AsyncIterator[Qemu]:
        yield self

    async def execute(self, command: str, arguments: Any = None, timeout: float = 20.0) -> Any:
        self.lines.append(arguments["command-line"] if arguments else command)
        if not self.said:
            self.socket.touch()
        return self.said


@pytest.fixture
def running(store: MachineStore) -> Iterator[MachineStore]:
    with lock(store.files("td").lock):
        yield store


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def greets(_port: int) -> bool:
        return True

    monkeypatch.setattr(debug_module, "greets", greets)


def machine(store: MachineStore, tmp_path: Path, guest: str = GUEST) -> Machine:
    ssh = tmp_path / "ssh"
    ssh.write_text(guest)
    ssh.chmod(0o755)
    return Machine(store, "td", lambda name: [str(ssh)], clock)


def test_stub_is_opened_and_the_command_is_ready(
    running: MachineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = running.files("td").gdb
    qemu = Qemu(socket)
    monkeypatch.setattr(monitor, "connect", qemu.connect)
    found = asyncio.run(debug(machine(running, tmp_path)))
    assert qemu.lines == [f"gdbserver unix:{socket},server=on,wait=off"]
    assert (found.kernel, found.offset) == ("7.3.4", 0x1E000000)
    assert found.package == "linux-image-7.3.4-dbg"
    assert found.command == [
        "gdb", "-ex", "set architecture i386:x86-64", "-ex", f"target remote {socket}",
        "-ex", "symbol-file -o 0x1e000000 /usr/lib/debug/boot/vmlinux-7.3.4",
    ]  # fmt: skip
    asyncio.run(close(machine(running, tmp_path)))
    assert qemu.lines[1:] == ["gdbserver none", "cont"]
    assert not socket.exists()


@pytest.mark.parametrize(
    "guest", ["#!/bin/sh\nexit 255\n", "#!/bin/sh\necho nonsense\n", "#!/bin/sh\n", HOSTILE]
)
def test_guest_that_cannot_be_asked_is_debugged_without_symbols(
    running: MachineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest: str
) -> None:
    monkeypatch.setattr(monitor, "connect", Qemu(running.files("td").gdb).connect)
    found = asyncio.run(debug(machine(running, tmp_path, guest)))
    assert (found.offset, found.package) == (None, "")
    assert "symbol-file" not in " ".join(found.command)


def test_guest_that_has_not_booted_is_not_waited_for(
    running: MachineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def greets(_port: int) -> bool:
        return False

    monkeypatch.setattr(debug_module, "greets", greets)
    monkeypatch.setattr(monitor, "connect", Qemu(running.files("td").gdb).connect)
    found = asyncio.run(debug(machine(running, tmp_path, "#!/bin/sh\nsleep 60\n")))
    assert (found.kernel, found.offset) == ("", None)


def test_kernel_that_hides_its_addresses_has_no_offset(
    running: MachineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "connect", Qemu(running.files("td").gdb).connect)
    guest = "#!/bin/sh\nprintf '7.3.4\\ndebian\\n0000000000000000 T _text\\n'\n"
    assert asyncio.run(debug(machine(running, tmp_path, guest))).offset is None


def test_stub_that_qemu_does_not_open_is_an_error(
    running: MachineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "connect", Qemu(running.files("td").gdb, "no stub\r\n").connect)
    with pytest.raises(CommandError, match="opened no gdb stub: no stub"):
        asyncio.run(debug(machine(running, tmp_path)))


def test_td_on_hardware_is_refused_with_what_works_instead(running: MachineStore, tmp_path: Path) -> None:
    running.save(replace(STATE, platform="hardware", emulated=False))
    with pytest.raises(UnavailableError, match="closed to the VMM") as caught:
        asyncio.run(debug(machine(running, tmp_path)))
    assert "emulated" in caught.value.hint and "kgdb" in caught.value.hint
