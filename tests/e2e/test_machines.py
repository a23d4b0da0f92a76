"""Machines through the library and `tdx vm`: an emulated TD and ordinary ones, from inside and outside."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.api import Kind, Machine, MachineSpec, RebootMode, StopMode
from tdxstack.errors import UnavailableError
from tdxstack.machine.machine import Machine as AnyMachine
from tdxstack.platform import Platform
from tdxstack.testing.runner import Tdx
from tdxstack.workflows.machines import Machines
from tests.bench.test_boot import surroundings_below

pytestmark = pytest.mark.e2e

NAME = "lasting"


@pytest.fixture(scope="module")
def machines(tdx: Tdx, emulator_binary: Path) -> Machines:
    return Machines(surroundings_below(tdx.root))


@pytest.fixture(scope="module")
def vm(tdx: Tdx, machines: Machines) -> Iterator[AnyMachine]:
    """A TD that lasts, made by the command."""
    tdx.run("vm", "create", "--name", NAME, "--platform", "emulated", "--memory", "1G", "--yes")
    made = machines.open(NAME)
    assert made.state() == "created"
    tdx.run("vm", "start", NAME, "--wait", "ssh")
    yield made
    made.remove()


def test_td_runs_and_is_marked(vm: AnyMachine) -> None:
    assert vm.state() == "running"
    assert vm.record.emulated
    assert vm.run(["systemd-detect-virt", "--cvm"]).stdout == b"tdx\n"


def test_a_machine_is_started_again_with_its_disk(tdx: Tdx, vm: AnyMachine) -> None:
    vm.run(["sh", "-c", "echo kept > /root/kept; sync"])
    vm.stop(StopMode.ACPI)
    assert vm.why_ended() == "the machine has shut down: the guest has powered it off"
    assert tdx.json("vm", "show", NAME)["state"] == "ended"
    assert not any(vm.files.runtime.iterdir()), "sockets are gone"
    tdx.run("vm", "start", NAME, "--wait", "ssh")
    assert vm.run(["cat", "/root/kept"]).stdout == b"kept\n"


def test_power_cycle(vm: AnyMachine) -> None:
    before = vm.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    vm.reboot(RebootMode.ACPI, timeout=300)
    assert vm.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before


def test_a_running_machine_is_compared_with_its_prediction(tdx: Tdx, vm: AnyMachine, tmp_path: Path) -> None:
    """It was started without being asked for evidence."""
    assert not vm.files.evidence.exists()
    (tmp_path / "expected").write_text(json.dumps(tdx.json("predict", NAME)))
    found = tdx.json("compare", str(tmp_path / "expected"), NAME)
    assert found["equal"] is True
    assert found["b"] == {"name": NAME, "kind": "machine", "emulated": True}
    assert [name for name, one in found["registers"].items() if one["equal"]] == [
        "mrtd",
        *("rtmr0", "rtmr1", "rtmr2"),
    ]


def test_machine_without_an_agent_says_so(vm: AnyMachine) -> None:
    with pytest.raises(UnavailableError, match="has no port for a guest agent"):
        vm.stop(StopMode.AGENT)
    assert vm.state() == "running"


def test_debugger_reads_registers_and_halts_at_a_breakpoint(tdx: Tdx, vm: AnyMachine) -> None:
    """With the protocol of gdb itself; gdb too, where there is one."""
    found = tdx.json("vm", "debug", NAME)
    assert found["kernel"] == vm.run(["uname", "-r"]).stdout.decode().strip()
    listed = vm.run(["grep", "-m1", " T __x64_sys_sethostname$", "/proc/kallsyms"]).stdout.split()
    address = int(listed[0], 16)
    try:
        with Stub(found["socket"]) as stub:
            assert len(stub.ask("g")) > 16 * 16, "sixteen registers of eight bytes, and more"
            assert stub.ask(f"Z1,{address:x},1") == "OK"
            stub.send("c")
            with subprocess.Popen(
                [sys.executable, "-m", "tdxstack", "vm", "exec", NAME, "hostname", "debugged"],
                env=tdx.environment,
            ) as command:
                assert stub.receive().startswith("T05"), "SIGTRAP"
                registers = bytes.fromhex(stub.ask("g"))
                assert int.from_bytes(registers[16 * 8 : 17 * 8], "little") == address, "RIP"
                assert stub.ask(f"z1,{address:x},1") == "OK"
                stub.send("D")
                assert command.wait(60) == 0
        if gdb := shutil.which("gdb"):
            target = f"target remote {found['socket']}"
            words = [gdb, "-batch", "-nx", "-ex", target, "-ex", "info registers rip", "-ex", "detach"]
            done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
            assert any(line.startswith("rip ") for line in done.stdout.splitlines())
    finally:
        tdx.run("vm", "debug", NAME, "--stop")
    assert vm.run(["hostname"]).stdout == b"debugged\n"


def test_an_emulated_td_is_not_protected_and_the_check_says_so(tdx: Tdx, vm: AnyMachine) -> None:
    before = tdx.machines()
    document = tdx.json("vm", "memory-check", NAME, code=1)
    assert document["closed"] is False
    assert document["control"]["found"] and document["machine"]["found"]
    assert document["machine"]["searched"] > 1 << 30
    assert "emulated" in document["meaning"]
    assert tdx.machines() == before, "the control is gone"


def test_killed_qemu_is_told(tdx: Tdx, vm: AnyMachine) -> None:
    """Last of those that use the TD."""
    os.kill(vm.record.pid, signal.SIGKILL)
    assert vm.wait_for_state("ended", timeout=20) == "ended"
    done = tdx.run("vm", "exec", NAME, "true", code=3)
    assert "is not running any more: QEMU has ended without a word, as if killed" in done.stderr


def test_ordinary_machines_boot_with_either_firmware_side_by_side(machines: Machines) -> None:
    """Our image has no boot loader for a BIOS: a machine of kind legacy boots its kernel directly."""

    async def boot(kind: Kind) -> tuple[str, bytes]:
        spec = MachineSpec(kind=kind, platform=Platform.EMULATED, memory=1024, vcpus=1)
        async with machines.launch(spec) as vm:
            await vm.wait_for_ssh.aio()
            firmware = await vm.run.aio(["sh", "-c", "[ -d /sys/firmware/efi ] && echo efi || echo bios"])
            await vm.suspend.aio()
            state = await vm.state.aio()
            await vm.resume.aio()
            return state, firmware.stdout

    async def both() -> list[tuple[str, bytes]]:
        return list(await asyncio.gather(boot(Kind.EFI), boot(Kind.LEGACY)))

    assert asyncio.run(both()) == [("paused", b"efi\n"), ("paused", b"bios\n")]
    assert not any(name.startswith("vm-") for name in machines.names())


def test_api_takes_surroundings(machines: Machines, tdx: Tdx) -> None:
    where = surroundings_below(tdx.root)
    spec = MachineSpec(kind=Kind.LEGACY, platform=Platform.EMULATED, diskless=True, memory=512)
    with Machine.launch(spec, where) as vm:
        assert Machine.open(vm.name, where).state() == "running"
        assert json.loads(vm.files.spec.read_bytes())["diskless"] is True
    assert not vm.files.directory.exists()


class Stub:
    """The remote serial protocol of gdb, as much of it as a test needs."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(path)
        self._rest = b""

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str) -> str:
        self.send(command)
        return self.receive()

    def send(self, command: str) -> None:
        data = command.encode()
        self._socket.sendall(b"$" + data + f"#{sum(data) % 256:02x}".encode())

    def receive(self) -> str:
        while b"#" not in self._rest or len(self._rest.partition(b"#")[2]) < 2:
            data = self._socket.recv(65536)
            assert data, "the stub has hung up"
            self._rest += data
        packet, _, rest = self._rest.partition(b"#")
        self._rest = rest[2:]
        self._socket.sendall(b"+")
        return packet.lstrip(b"+").removeprefix(b"$").decode()
