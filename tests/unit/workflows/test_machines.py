"""Machines made, launched and given up, with a small program in QEMU's place and parts that are there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.files import Directories, is_locked, lock
from tdxstack.machine.control import StopMode
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tdxstack.qemu.abilities import Abilities
from tdxstack.quoting import service
from tdxstack.testing.runner import wait_for
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.workshop import DiskImage, Surroundings, Workshop
from tests.unit.interrupting import interrupted_at
from tests.unit.machine.test_instance import FAKE_QEMU
from tests.unit.workflows.test_up import NoKvm

SPEC = MachineSpec(name="vm", kind=Kind.EFI, platform=Platform.EMULATED)


QEMU_TYPES = frozenset(
    {"tcg-accel", "tpm-crb", "tpm-tis", "tpm-emulator", "vhost-vsock-pci", "virtserialport"}
)


@dataclass
class Parts:
    """A workshop with everything there; an image is a file, and so is its overlay."""

    root: Path
    mode: str = "boots"
    full: bool = False
    types: frozenset[str] = QEMU_TYPES
    asked: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        return self.root / "part"

    @property
    def format(self) -> str:
        return "qcow2"

    @property
    def argv_prefix(self) -> list[str]:
        return [sys.executable, str(self.root / "fake-qemu"), self.mode]

    def ordinary_qemu(self) -> tuple[str, ...]:
        return tuple(self.argv_prefix)

    def abilities(self, _qemu: tuple[str, ...]) -> Abilities:
        assert self.asked.acquire(blocking=False), "one is asked at a time"
        time.sleep(0.001)
        self.asked.release()
        return Abilities("11.1.3", self.types, {})

    def firmware(self, _path: Path | None) -> Parts:
        return self

    def image(self) -> Parts:
        return self

    def program(self, name: str) -> list[str]:
        return [f"/bin/{name}"]

    def ssh_key(self, path: Path) -> str:
        path.write_text("private")
        return "ssh-ed25519 AAAA"

    def ssh_key_command(self, path: Path) -> list[str]:
        return ["/bin/ssh-keygen", "-f", str(path)]

    def overlay_command(self, base: DiskImage, path: Path) -> list[str]:
        return ["/bin/qemu-img", "create", "-b", str(base.path), str(path)]

    def overlay(self, base: DiskImage, path: Path) -> None:
        if self.full:
            raise CommandError("qemu-img failed: No space left on device")
        path.write_text(f"of {base.path} {base.format}")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    (tmp_path / "fake-qemu").write_text(FAKE_QEMU)
    (tmp_path / "part").write_text("")
    return Parts(tmp_path)


def where(root: Path) -> Surroundings:
    places = Directories(root / "c", root / "d", root / "r")
    return Surroundings(places, NoKvm(), 1000, "", (), lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def machines(parts: Parts) -> Iterator[Machines]:
    machines = Machines(where(parts.root), workshop=cast(Workshop, parts))
    yield machines
    for name in machines.names():
        machines.open(name).remove()
    assert left(parts.root) == []


def left(root: Path) -> list[str]:
    """What of machines is in the file system, and processes that belong to one."""
    found = [path.name for place in ("d", "r") for path in (root / place / "machines").glob("*")]
    found = [name for name in found if name != ".allocation.lock"]  # there is one for all machines
    mine = str(root).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            ended = (process / "stat").read_text().rsplit(")")[1].split()[0] == "Z"
        except OSError:
            continue
        if mine in words and b"fake-qemu" in words and not ended:
            found.append(f"process {process.name}")
    return found


def test_machine_is_made_started_ended_and_started_again_with_its_disk(machines: Machines) -> None:
    vm = machines.create(SPEC)
    assert (vm.state(), machines.names()) == ("created", ["vm"])
    assert [path.name for path in vm.files.runtime.iterdir()] == []
    vm.start()
    assert vm.state() == "running"
    vm.files.disk.write_text("what the guest has written")
    with pytest.raises(UsageError, match="is running already"):
        vm.start()
    vm.stop(StopMode.QMP)
    assert vm.state() == "ended"
    vm.start()
    assert vm.state() == "running"
    assert vm.files.disk.read_text() == "what the guest has written"
    assert [event.name for event in vm.events()] == [], "those of an earlier life are gone"


def test_name_that_is_taken_keeps_its_machine(machines: Machines) -> None:
    vm = machines.create(SPEC)
    vm.files.disk.write_text("mine")
    with pytest.raises(UsageError, match="there is a machine 'vm' already"):
        machines.create(SPEC)
    with pytest.raises(UsageError, match="there is a machine 'vm' already"), machines.launch(SPEC):
        pass
    assert vm.files.disk.read_text() == "mine"


def test_machine_without_a_name_is_not_made(machines: Machines) -> None:
    with pytest.raises(UsageError, match="has no name"):
        machines.create(SPEC.changed(name=""))


def test_missing_image_is_told_before_anything_is_made(machines: Machines, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"the disk image .*/absent\.qcow2 does not exist"):
        machines.create(SPEC.changed(image={"path": tmp_path / "absent.qcow2"}))
    assert left(tmp_path) == []


def test_port_that_is_taken_is_told_before_anything_is_made(machines: Machines, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        spec = SPEC.changed(nics=[{"forwards": [f"{port}:80"]}])
        with pytest.raises(UnavailableError, match=f"port {port}/tcp of 127.0.0.1: Address already in use"):
            machines.create(spec)
    assert left(tmp_path) == []


def test_qemu_that_lacks_a_device_is_told_before_anything_is_made(machines: Machines, parts: Parts) -> None:
    parts.types = frozenset({"tcg-accel"})
    with pytest.raises(UnavailableError, match="tpm: no tpm-crb; tpm: no tpm-emulator"):
        machines.create(SPEC.changed(tpm=True))
    assert machines.names() == []


def test_what_would_run_has_what_would_be_the_machines_own(machines: Machines, tmp_path: Path) -> None:
    for name in ("code", "vars"):
        (tmp_path / name).write_text(name)
    spec = SPEC.changed(firmware=tmp_path / "code", firmware_variables=tmp_path / "vars", vsock={})
    plan = machines.plan(spec)
    variables = machines.store.files("vm").variables
    assert f"copy {tmp_path}/vars to {variables}" in machines.steps(plan)
    words = " ".join(machines.command(plan))
    assert f'"filename": "{variables}"' in words
    assert re.search(r"vhost-vsock-pci,guest-cid=\d+ ", words)
    assert machines.names() == []


def test_files_that_are_missing_are_told_before_anything_is_made(machines: Machines) -> None:
    with pytest.raises(UnavailableError, match="firmware: there is no file /nonexistent/fw"):
        machines.create(SPEC.changed(firmware="/nonexistent/fw"))
    assert machines.names() == []


def test_further_disks_get_overlays_by_what_they_are(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"QFI\xfb" + bytes(100))
    (tmp_path / "tools.iso").write_bytes(b"")
    disks = [{"path": tmp_path / "data"}, {"path": tmp_path / "tools.iso", "read_only": True}]
    vm = machines.create(SPEC.changed(disks=disks))
    assert vm.files.overlay(1).read_text() == f"of {tmp_path / 'data'} qcow2"
    assert not vm.files.overlay(2).exists()
    with pytest.raises(UnavailableError, match="absent does not exist"):
        machines.create(SPEC.changed(name="other", disks=[{"path": tmp_path / "absent"}]))


def test_full_disk_leaves_nothing(machines: Machines, parts: Parts) -> None:
    parts.full = True
    with pytest.raises(CommandError, match="No space left"):
        machines.create(SPEC)
    assert left(parts.root) == []


def test_disk_that_fills_up_at_the_last_moment_leaves_nothing(
    machines: Machines, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_state: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "state.json")

    monkeypatch.setattr(machines.store, "save", full)
    with pytest.raises(OSError, match="No space left"):
        machines.create(SPEC)
    with pytest.raises(OSError, match="No space left"), machines.launch(SPEC):
        pass
    assert left(parts.root) == []


def test_quote_service_that_does_not_start_is_told_and_starts_nothing(
    machines: Machines, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = machines.create(SPEC)
    machines.store.save(replace(vm.record, quoting=True))

    def unplugged(*_: object) -> None:
        raise UnavailableError("the quote generation service is alive and does not answer")

    monkeypatch.setattr(service, "ensure_running", unplugged)
    with pytest.raises(UnavailableError, match="quote generation service"):
        vm.start()
    assert vm.state() == "created"


def test_a_launched_machine_is_gone_with_its_block(machines: Machines, parts: Parts) -> None:
    with machines.launch(SPEC.changed(name="")) as vm:
        assert vm.name.startswith("vm-")
        assert vm.state() == "running"
    assert left(parts.root) == []


def test_a_launched_machine_is_gone_after_an_exception(machines: Machines, parts: Parts) -> None:
    with pytest.raises(ZeroDivisionError), machines.launch(SPEC):
        _ = 1 / 0
    assert left(parts.root) == []


def test_a_launched_machine_may_be_stopped_and_started_in_its_block(machines: Machines, parts: Parts) -> None:
    with machines.launch(SPEC) as vm:
        vm.stop(StopMode.QMP)
        vm.start()
        assert vm.state() == "running"
    assert left(parts.root) == []
    with machines.launch(SPEC) as vm:
        vm.remove()
    assert left(parts.root) == []


def test_many_are_launched_at_once(machines: Machines, parts: Parts) -> None:
    async def one() -> str:
        async with machines.launch(SPEC.changed(name="")) as vm:
            return await vm.state.aio()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(8)))

    assert asyncio.run(all_of_them()) == ["running"] * 8
    assert left(parts.root) == []


def test_qemu_that_ends_at_once_leaves_nothing_of_a_launch(machines: Machines, parts: Parts) -> None:
    parts.mode = "dies"
    with (
        pytest.raises(CommandError, match="QEMU ended at once: qemu: no such firmware"),
        machines.launch(SPEC),
    ):
        pass
    assert left(parts.root) == []


def test_machine_whose_qemu_ends_at_once_can_be_started_again(machines: Machines, parts: Parts) -> None:
    vm = machines.create(SPEC)
    good = vm.record.argv
    vm.files.state.write_text(vm.files.state.read_text().replace('"boots"', '"dies"'))
    with pytest.raises(CommandError, match="QEMU ended at once"):
        vm.start()
    assert vm.state() == "ended"
    vm.files.state.write_text(vm.files.state.read_text().replace('"dies"', '"boots"'))
    assert vm.record.argv == good
    vm.start()


def test_start_that_takes_too_long_leaves_nothing_running(machines: Machines, parts: Parts) -> None:
    parts.mode = "hangs"
    vm = machines.create(SPEC)
    with pytest.raises(CommandError, match=r"machine 'vm' had not started after 0.3 s"):
        vm.start(timeout=0.3)
    assert vm.state() == "ended"


INTERRUPTED = 16
"""At how many lines a launch is interrupted, and so often its end."""


@pytest.mark.parametrize("part", range(INTERRUPTED))
def test_interrupt_of_a_launch_leaves_nothing(machines: Machines, parts: Parts, part: int) -> None:
    """At whatever line it comes."""
    with interrupted_at(0) as entered, machines.launch(SPEC):
        last = entered.count
    with (
        pytest.raises(KeyboardInterrupt),
        interrupted_at(1 + last * part // INTERRUPTED) as lines,
        machines.launch(SPEC),
    ):
        # It takes its time, and so the number of lines differs.
        assert lines.count < 1 + last * part // INTERRUPTED, "it was swallowed"
        signal.raise_signal(signal.SIGINT)
    assert left(parts.root) == []


@pytest.mark.parametrize("part", range(INTERRUPTED))
def test_interrupt_of_the_end_of_a_launch_leaves_nothing(machines: Machines, parts: Parts, part: int) -> None:
    with machines.launch(SPEC) as _, interrupted_at(0) as whole:
        machines.open("vm").remove()
    launch = machines.launch(SPEC)
    launch.__enter__()
    # From the third line on: what is there to hold an interrupt back is not there before.
    with contextlib.suppress(KeyboardInterrupt), interrupted_at(3 + whole.count * part // INTERRUPTED):
        launch.__exit__(None, None, None)
    assert left(parts.root) == []


OWNER = """
import sys, time
from pathlib import Path
from tests.unit.workflows.test_machines import SPEC, Parts, where
from tdxstack.quoting import service
from tdxstack.workflows.machines import Machines
parts = Parts(Path(sys.argv[1]))
with Machines(where(parts.root), workshop=parts).launch(SPEC) as vm:
    print(vm.state(), flush=True)
    time.sleep(60)
"""


def test_a_killed_owner_takes_its_machine_along(machines: Machines, parts: Parts) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(parts.root)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        assert owner.stdout.readline() == b"running\n"
        vm = machines.open("vm")
        asyncio.run(machines.sweep())
        assert vm.is_running, "its owner lives"
        owner.kill()
        vm.wait_for_state("ended", timeout=10)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    assert machines.names() == ["vm"], "nobody was there to remove it"
    asyncio.run(machines.sweep())
    assert left(parts.root) == []


STARTER = """
import sys
import threading
import time
from pathlib import Path
from tests.unit.workflows.test_machines import SPEC, Parts, where
from tdxstack.workflows.machines import Machines
parts = Parts(Path(sys.argv[1]), "hangs")
vm = Machines(where(parts.root), workshop=parts).create(SPEC)
vm.start(timeout=60)
"""


def test_a_start_that_is_killed_half_way_leaves_nothing_running(machines: Machines, parts: Parts) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(parts.root)]) as starter:
        try:
            wait_for(lambda: machines.names() and machines.open("vm").is_running)
        finally:
            starter.kill()
    vm = machines.open("vm")
    assert vm.wait_for_state("ended", timeout=10) == "ended"
    vm.remove()
    assert left(parts.root) == []


def test_what_a_killed_process_has_half_made_is_removed(machines: Machines, parts: Parts) -> None:
    for name in ("half", "claimed"):
        files = machines.store.prepare(name)
        files.disk.write_text("")
    with machines.store.claim("claimed"):
        machines.create(SPEC).remove()
        assert set(left(parts.root)) == {"claimed", ".claimed.lock"}
    machines.create(SPEC).remove()
    assert left(parts.root) == []


def test_a_machine_that_is_launched_anew_is_not_taken_for_an_old_one(
    machines: Machines, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes it over just before it is claimed for being removed."""
    machines.write_down(machines.plan(SPEC), autodestroy=True)
    claim = machines.store.claim

    with contextlib.ExitStack() as owner:

        def too_late(name: str) -> contextlib.AbstractContextManager[None]:
            owner.enter_context(lock(machines.store.files(name).owner))
            return claim(name)

        monkeypatch.setattr(machines.store, "claim", too_late)
        asyncio.run(machines.sweep())
        assert machines.names() == ["vm"]
        monkeypatch.undo()
    asyncio.run(machines.sweep())
    assert left(parts.root) == []


def test_nothing_is_locked_after_all(machines: Machines) -> None:
    vm = machines.create(SPEC)
    vm.start()
    vm.remove()
    assert not is_locked(vm.files.lock)
