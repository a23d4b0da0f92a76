"""Machines go down and come up again in every way that there is, and their disks keep what was written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tdxstack.errors import TdxError, UnavailableError
from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.kinds import KINDS, chosen_kinds
from tdxstack.testing.machines import Laboratory

FILE = "/root/acceptance"
LIFE = f"""
cat /proc/sys/kernel/random/boot_id
cat {FILE} 2>/dev/null || echo
cd /sys/devices/virtual/misc/tdx_guest/measurements 2>/dev/null || exit 0
sha256sum mrtd* rtmr[012]*
"""
ASKED_TO_REBOOT = {"inside": RebootMode.SSH, "agent": RebootMode.AGENT}
GUEST_SECONDS = 300.0
"""How long a guest may take to go down, or to come up, where a host has other things to do."""


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a guest."""

    boot: str
    """The kernel's id of it."""
    measured: str
    """What was measured until the kernel ran, as far as it is a TD's."""
    read: str
    """What an earlier life has left on the disk."""


@dataclass(frozen=True, slots=True)
class Change:
    """A guest before it went down and after it was back, and what became of the machine."""

    before: Life
    after: Life
    state: str


Changes = dict[Kind, Change | TdxError]


def change(laboratory: Laboratory, kinds: list[Kind], action: Callable[[Machine], Awaitable[str]]) -> Changes:
    """What an action does to the shared machines of some kinds, all at once; it returns a state."""

    async def watch(machine: Machine) -> Change | TdxError:
        try:
            before = await life(machine)
            # Not flushed: a guest that goes down in good order sees to that.
            await machine.run.aio(["sh", "-c", f"echo {before.boot} > {FILE}"])
            state = await action(machine)
            return Change(before, await life(machine), state)
        except TdxError as error:
            return error

    return laboratory.on_all(kinds, watch)


async def life(machine: Machine) -> Life:
    done = await machine.run.aio(["sh", "-c", LIFE])
    boot, read, *measured = done.stdout.decode().splitlines()
    return Life(boot, "\n".join(measured), read)


@pytest.fixture(scope="module", params=list(ASKED_TO_REBOOT))
def reboots(request: pytest.FixtureRequest, laboratory: Laboratory) -> Changes:
    mode = ASKED_TO_REBOOT[request.param]

    async def reboot(machine: Machine) -> str:
        await machine.reboot.aio(mode, timeout=GUEST_SECONDS)
        return await machine.state.aio()

    return change(laboratory, chosen_kinds(request), reboot)


@pytest.fixture(scope="module", params=["inside", "acpi", "agent"])
def shutdowns(request: pytest.FixtureRequest, laboratory: Laboratory) -> Changes:
    async def restart(machine: Machine) -> str:
        if request.param == "inside":
            # A moment later, so that the answer still comes back.
            at = ["--on-active=1s", "--timer-property=AccuracySec=1ms"]
            await machine.run.aio(["systemd-run", "--quiet", *at, "systemctl", "poweroff"])
            state = await machine.wait_for_state.aio("ended", timeout=GUEST_SECONDS)
        else:
            await machine.stop.aio(StopMode(request.param), timeout=GUEST_SECONDS)
            state = await machine.state.aio()
        await laboratory.start(machine)
        return state

    return change(laboratory, chosen_kinds(request), restart)


@pytest.mark.parametrize("kind", KINDS)
def test_reboot(kind: Kind, reboots: Changes) -> None:
    """A guest reboots when it is asked to, is measured as before, and has lost nothing."""
    done = reboots[kind]
    if type(done) is UnavailableError:  # QEMU before 11.0, of a TD on hardware
        pytest.skip(done.message)
    assert_lives_on(kind, done, "running")


@pytest.mark.parametrize("kind", KINDS)
def test_shutdown(kind: Kind, shutdowns: Changes) -> None:
    """A guest goes down when it is asked to, its machine ends, and starts again with the same disk."""
    assert_lives_on(kind, shutdowns[kind], "ended")


def assert_lives_on(kind: Kind, done: Change | TdxError, state: str) -> None:
    """Another start of the same guest, to which the earlier one has left what it wrote."""
    assert isinstance(done, Change), done
    assert done.state == state
    assert done.after.boot != done.before.boot
    assert done.after.read == done.before.boot
    assert done.after.measured == done.before.measured
    assert bool(done.after.measured) is (kind is Kind.TD)


@pytest.mark.parametrize("mode", ["qmp", "force"])
@pytest.mark.parametrize("kind", KINDS)
def test_end(kind: Kind, mode: str, laboratory: Laboratory) -> None:
    """A machine ends without its guest being asked, and leaves no process."""
    with laboratory.small(kind) as (machine,):
        machine.stop(StopMode(mode))
        assert machine.state() == "ended"
        assert not machine.is_running


@pytest.mark.parametrize("kind", KINDS)
def test_suspend(kind: Kind, laboratory: Laboratory) -> None:
    """A suspended guest stands still, and goes on where it was."""
    machine = laboratory.shared(kind)
    before = asyncio.run(life(machine))
    machine.suspend()
    try:
        assert machine.state() == "paused"
        with pytest.raises(TdxError):
            machine.run(["true"], timeout=3)
    finally:
        machine.resume()
    assert machine.state() == "running"
    assert asyncio.run(life(machine)) == before
