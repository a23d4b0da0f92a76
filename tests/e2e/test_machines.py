"""Machines through the library and `tdx vm`: an emulated TD and ordinary ones, from inside and outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tdxstack.api import Kind, Machine, MachineSpec, RebootMode, StopMode
from tdxstack.errors import CommandError, UnavailableError
from tdxstack.machine.allocation import free_port
from tdxstack.machine.machine import Machine as AnyMachine
from tdxstack.machine.spec_parts import Forward, Nic
from tdxstack.platform import Platform
from tdxstack.testing.runner import Tdx
from tdxstack.workflows.machines import Machines

pytestmark = pytest.mark.e2e

NAME = "lasting"


@pytest.fixture(scope="module")
def machines(tdx: Tdx, emulator_binary: Path) -> Machines:
    return Machines(tdx.surroundings)


LITTLE_SPACE = """
mount -t tmpfs -o size=16m none "$0"
head -c 12M /dev/zero > "$0/other"
truncate -s 64M "$0/data.raw"
exec "$@"
"""
"""Runs a command that finds the second disk in a file system with 4 MiB left, which nobody else sees."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the TD's second disk lies."""
    place = tmp_path_factory.mktemp("disks")
    with (place / "data.raw").open("wb") as file:
        file.truncate(64 << 20)
    return place


@pytest.fixture(scope="module")
def vm(tdx: Tdx, machines: Machines, place: Path) -> Iterator[AnyMachine]:
    """A TD that lasts, made by the command, and at first with little space for its second disk."""
    disks = f"disks=[{{path: {place}/data.raw, overlay: false}}]"
    tdx.run(
        "vm", "create", "--name", NAME, "--platform", "emulated", "--memory", "1G", "--set", disks, "--yes"
    )
    made = machines.open(NAME)
    assert made.state() == "created"
    mapped = ["--map-root-user"] if os.geteuid() else []
    start = [sys.executable, "-m", "tdxstack", "vm", "start", NAME, "--wait", "ssh"]
    words = ["unshare", "--mount", *mapped, "sh", "-euc", LITTLE_SPACE, str(place), *start]
    if subprocess.run(words, env=tdx.environment, check=False).returncode:
        tdx.run(*start[3:])
    yield made
    made.remove()


def test_td_runs_and_is_marked(vm: AnyMachine) -> None:
    assert vm.state() == "running"
    assert vm.record.emulated
    assert vm.run(["systemd-detect-virt", "--cvm"]).stdout == b"tdx\n"


def test_a_host_without_space_halts_the_machine_until_there_is_some(
    tdx: Tdx, vm: AnyMachine, place: Path
) -> None:
    other = Path(f"/proc/{vm.record.pid}/root{place}/other")
    if not other.exists():
        pytest.skip("this user cannot mount file systems in name spaces of its own")
    with ThreadPoolExecutor(1) as writing:
        write = ["dd", "if=/dev/urandom", "of=/dev/vdb", "bs=1M", "count=8", "oflag=direct"]
        written = writing.submit(vm.run, write)
        try:
            assert vm.wait_for_state("io-error") == "io-error"
            shown = tdx.json("vm", "show", NAME)["halted"]
            assert shown.startswith(
                "a write of disk1 has failed (No space left on device): the machine waits"
            )
        finally:
            other.unlink()
            tdx.run("vm", "resume", NAME)
        assert b"8388608 bytes" in written.result().stderr
    assert vm.state() == "running"
    assert "halted" not in tdx.json("vm", "show", NAME)


QUOTE = ("tdx-guest", "quote", "--report-data", "abcd")


def test_quote_service_that_has_gone_is_told_in_the_guest(tdx: Tdx, vm: AnyMachine) -> None:
    """The next TD that is started brings it back: see the next test."""
    vm.run(QUOTE)
    (service,) = [pid for pid, words in processes(tdx).items() if b"tdxstack.quoting" in words]
    os.kill(service, signal.SIGKILL)
    done = vm.run(QUOTE, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: the VMM answered the quote request with an error")
    assert vm.state() == "running"


def test_a_machine_is_started_again_with_its_disk(tdx: Tdx, vm: AnyMachine) -> None:
    vm.run(["sh", "-c", "echo kept > /root/kept; sync"])
    vm.stop(StopMode.ACPI)
    assert vm.why_ended() == "the machine has shut down: the guest has powered it off"
    assert tdx.json("vm", "show", NAME)["state"] == "ended"
    assert not any(vm.files.runtime.iterdir()), "sockets are gone"
    tdx.run("vm", "start", NAME, "--wait", "ssh")
    assert vm.run(["cat", "/root/kept"]).stdout == b"kept\n"
    vm.run(QUOTE)


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


@pytest.fixture
def idle(machines: Machines) -> Iterator[AnyMachine]:
    """A machine with nothing to do, and a port of the host that leads to it."""
    forward = Forward(host=free_port(), guest=80)
    nics = (Nic(forwards=(forward,)),)
    made = machines.create(
        MachineSpec(
            name="idle", kind=Kind.LEGACY, platform=Platform.EMULATED, diskless=True, memory=512, nics=nics
        )
    )
    yield made
    made.remove()


def test_a_port_that_is_taken_by_now_is_told(idle: AnyMachine) -> None:
    spec = json.loads(idle.files.spec.read_bytes())
    port = spec["nics"][0]["forwards"][0]["host"]
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(CommandError, match=f"Could not set up host forwarding rule '[^']*:{port}-:80'"),
    ):
        idle.start()
    assert idle.state() == "ended"
    idle.start()
    assert idle.state() == "running"


def test_of_two_commands_at_once_one_starts_the_machine(tdx: Tdx, idle: AnyMachine) -> None:
    with tdx.started("vm", "start", "idle") as one, tdx.started("vm", "start", "idle") as other:
        told = {process.wait(60): process.communicate()[1] for process in (one, other)}
    assert idle.state() == "running"
    assert 0 in told, "one has"
    refused = next(text for code, text in told.items() if code)
    assert "in use by another process" in refused or "is running already" in refused


def test_an_idle_machine_costs_no_process_of_tdx(tdx: Tdx, idle: AnyMachine) -> None:
    """But the quote generation service that TDs share, if any runs here."""
    tdx.run("vm", "start", idle.name)
    found = processes(tdx).values()
    assert [words for words in found if b"process=tdx-idle" in words]
    others = [words for words in found if b"process=tdx-" not in words]
    assert all(b"tdxstack.quoting" in words for words in others), others
    assert len(others) <= 1


def test_api_takes_surroundings(machines: Machines, tdx: Tdx) -> None:
    where = tdx.surroundings
    spec = MachineSpec(kind=Kind.LEGACY, platform=Platform.EMULATED, diskless=True, memory=512)
    with Machine.launch(spec, where) as vm:
        assert Machine.open(vm.name, where).state() == "running"
        assert json.loads(vm.files.spec.read_bytes())["diskless"] is True
    assert not vm.files.directory.exists()


def processes(tdx: Tdx) -> dict[int, bytes]:
    """The command lines of everything that the command has started for its machines, by process id."""
    mine = str(tdx.data).encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mine in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes()
    return found


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
