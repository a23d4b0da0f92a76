"""Machines that libvirt runs: what is asked of libvirt, and what is made of its answers."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.machine import libvirt_binding
from tdxstack.machine.libvirt import Libvirt, Mode, connect
from tdxstack.machine.libvirt_binding import START_AUTODESTROY, START_PAUSED, Failure
from tdxstack.machine.libvirt_events import DomainEvent
from tdxstack.machine.libvirt_support import tdx_support
from tdxstack.machine.libvirt_xml import METADATA, DomainPlacement
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tests.unit.machine.fake_libvirt import OPERATION_FAILED, FakeDomain, FakeError, FakeLibvirt, FakeVolume

URI = "qemu:///system"


def domain_xml(name: str, inside: str = "") -> str:
    mark = f"<metadata><tdx:machine xmlns:tdx='{METADATA}'/></metadata>"
    return f"<domain><name>{name}</name>{mark}<devices>{inside}</devices></domain>"


@pytest.fixture
def world() -> FakeLibvirt:
    return FakeLibvirt()


@pytest.fixture
def libvirt(world: FakeLibvirt) -> Iterator[Libvirt]:
    with connect(URI, seconds=10, library=world) as connection:
        yield connection
    assert world.closed


@pytest.fixture
def td(world: FakeLibvirt, libvirt: Libvirt) -> FakeDomain:
    """A machine `td` that runs."""
    libvirt.define(domain_xml("td"))
    libvirt.start("td")
    return world.domains[0]


def test_a_machine_s_life(world: FakeLibvirt, libvirt: Libvirt) -> None:
    libvirt.define(domain_xml("td"))
    assert (libvirt.names(), libvirt.state("td")) == (["td"], "ended")
    libvirt.start("td")
    assert libvirt.state("td") == "running"
    libvirt.suspend("td")
    assert libvirt.state("td") == "paused"
    libvirt.resume("td")
    libvirt.shutdown("td")
    assert libvirt.state("td") == "ended"
    libvirt.undefine("td")
    assert libvirt.names() == [] == world.domains


def test_a_machine_is_created_from_its_specification(libvirt: Libvirt) -> None:
    machine = MachineSpec(name="web", kind=Kind.EFI, diskless=True)
    libvirt.create(machine, DomainPlacement(Platform.EMULATED, "ssh-ed25519 AAAA", ()))
    assert libvirt.names() == ["web"]
    assert 'kind="efi"' in libvirt.xml("web")


def test_an_overlay_lies_beside_its_base_and_reads_from_it(world: FakeLibvirt, libvirt: Libvirt) -> None:
    base = Path("/images/base.qcow2")
    world.unseen.append(FakeVolume(world, str(base)))
    path = libvirt.make_overlay(base, "qcow2", "td.qcow2")
    assert path == Path("/images/td.qcow2")
    volume = ElementTree.fromstring(world.volumes[-1].xml)
    assert volume.findtext("capacity") == str(1 << 30)
    assert volume.findtext("backingStore/path") == str(base)
    libvirt.remove_overlay(path)
    assert [volume.path() for volume in world.volumes] == [str(base)]


def test_a_base_that_lies_in_no_pool_is_named(libvirt: Libvirt) -> None:
    with pytest.raises(UnavailableError, match=r"/images/base\.raw.*not found") as caught:
        libvirt.make_overlay(Path("/images/base.raw"), "raw", "td.qcow2")
    assert "storage pool" in caught.value.hint


def test_start_takes_flags(world: FakeLibvirt, libvirt: Libvirt) -> None:
    libvirt.define(domain_xml("td"))
    libvirt.start("td", autodestroy=True, paused=True)
    assert world.domains[0].flags == START_AUTODESTROY | START_PAUSED


@pytest.mark.parametrize(("mode", "flags"), [(Mode.ACPI, 1), (Mode.AGENT, 2)])
def test_a_guest_is_asked_to_stop(td: FakeDomain, libvirt: Libvirt, mode: Mode, flags: int) -> None:
    libvirt.shutdown("td", mode)
    assert (libvirt.state("td"), td.flags) == ("ended", flags)


def test_force_does_not_ask(td: FakeDomain, libvirt: Libvirt) -> None:
    td.obeys = False
    libvirt.shutdown("td", Mode.FORCE)
    assert libvirt.state("td") == "ended"


def test_a_guest_that_does_not_obey_is_reported(td: FakeDomain, libvirt: Libvirt) -> None:
    td.obeys = False
    with pytest.raises(CommandError, match=r"'td' did not end within 0.1 s \(acpi\)"):
        libvirt.shutdown("td", timeout=0.1)
    assert libvirt.state("td") == "running"


def test_an_agent_may_go_with_its_guest(td: FakeDomain, libvirt: Libvirt) -> None:
    td.agent = FakeError(Failure.AGENT_UNRESPONSIVE, "Guest agent disappeared")
    libvirt.shutdown("td", Mode.AGENT)
    assert libvirt.state("td") == "ended"


def test_an_agent_that_is_not_there_is_named(td: FakeDomain, libvirt: Libvirt) -> None:
    td.agent, td.obeys = FakeError(Failure.AGENT_UNRESPONSIVE, "agent is not connected"), False
    with pytest.raises(CommandError, match="agent is not connected"):
        libvirt.shutdown("td", Mode.AGENT, timeout=0.1)
    with pytest.raises(CommandError, match="agent is not connected"):
        libvirt.reboot("td", Mode.AGENT)


def test_other_failures_of_an_agent_are_errors(td: FakeDomain, libvirt: Libvirt) -> None:
    td.agent = FakeError(OPERATION_FAILED, "no channel")
    with pytest.raises(CommandError, match="no channel"):
        libvirt.shutdown("td", Mode.AGENT)


def test_a_name_that_is_taken_is_refused(td: FakeDomain, libvirt: Libvirt) -> None:
    with pytest.raises(UsageError, match="'td' already"):
        libvirt.define(domain_xml("td"))


def test_a_machine_that_is_not_there_is_refused(td: FakeDomain, libvirt: Libvirt) -> None:
    with pytest.raises(UsageError, match="no machine 'other'") as caught:
        libvirt.start("other")
    assert caught.value.hint == "machines there: td"


def test_domains_of_others_are_left_alone(world: FakeLibvirt, libvirt: Libvirt) -> None:
    world.domains.append(FakeDomain(world, "<domain><name>db</name></domain>"))
    assert libvirt.names() == []
    with pytest.raises(UsageError, match="not made by tdx"):
        libvirt.shutdown("db", Mode.FORCE)
    with pytest.raises(UsageError, match="'db' already"):
        libvirt.define(domain_xml("db"))


def test_a_machine_that_runs_is_not_undefined(td: FakeDomain, libvirt: Libvirt) -> None:
    with pytest.raises(UnavailableError, match="is running"):
        libvirt.undefine("td")


def test_a_refused_definition_carries_libvirt_s_words(world: FakeLibvirt, libvirt: Libvirt) -> None:
    words = "unsupported configuration: 'tdx' launch security is not supported with this QEMU binary"
    world.refuses = FakeError(Failure.CONFIG_UNSUPPORTED, words)
    with pytest.raises(UnavailableError, match=words) as caught:
        libvirt.define(domain_xml("td"))
    assert "tdx doctor" in caught.value.hint


def test_a_libvirt_that_cannot_be_reached_is_named(world: FakeLibvirt) -> None:
    world.refuses = FakeError(38, "Failed to connect socket: No such file or directory")
    uri = "qemu+ssh://host/system"
    with (
        pytest.raises(UnavailableError, match=r"qemu\+ssh://host/system.*Failed to connect socket"),
        connect(uri, library=world),
    ):
        pytest.fail("connected")


def test_a_call_that_hangs_is_given_up(world: FakeLibvirt) -> None:
    with connect(URI, seconds=0.1, library=world) as libvirt:
        libvirt.define(domain_xml("td"))
        world.delay = 5
        before = time.monotonic()
        with pytest.raises(CommandError, match=r"state of 'td': no answer within 0.1 s"):
            libvirt.state("td")
        assert time.monotonic() - before < 4


def test_events_are_told_in_order_and_of_one_machine(td: FakeDomain, libvirt: Libvirt) -> None:
    libvirt.define(domain_xml("other"))
    with libvirt.events("td") as events:
        libvirt.start("other")
        libvirt.reboot("td", Mode.FORCE)
        libvirt.shutdown("td", Mode.FORCE)
        assert events.next(timeout=60) == DomainEvent("td", "rebooted")
        assert events.next(timeout=60) == DomainEvent("td", "stopped", "destroyed")
        assert events.next(timeout=0) is None


def test_everything_can_be_awaited(world: FakeLibvirt) -> None:
    async def live() -> list[str]:
        async with connect(URI, library=world) as libvirt, libvirt.events() as events:
            await libvirt.define.aio(domain_xml("td"))
            waiting = asyncio.create_task(events.next.aio())
            await asyncio.sleep(0)
            await libvirt.start.aio("td")
            assert await waiting == DomainEvent("td", "started", "booted")
            await libvirt.shutdown.aio("td")
            return [await libvirt.state.aio("td"), *await libvirt.names.aio()]

    assert asyncio.run(live()) == ["ended", "td"]
    assert world.closed
    assert world.watched == 0


def test_a_call_that_is_not_awaited_does_not_halt_an_event_loop(world: FakeLibvirt) -> None:
    async def call() -> None:
        async with connect(URI, library=world) as libvirt:
            libvirt.names()

    with pytest.raises(UsageError, match="names would halt the event loop"):
        asyncio.run(call())


def test_events_are_watched_for_a_block_only(world: FakeLibvirt, libvirt: Libvirt) -> None:
    with libvirt.events():
        assert world.watched == 2
    assert world.watched == 0


def test_events_that_a_newer_libvirt_tells_have_numbers(
    world: FakeLibvirt, td: FakeDomain, libvirt: Libvirt
) -> None:
    with libvirt.events() as events:
        world.tells(td, 99, 3)
        world.tells(td, 5, 77)
        assert events.next(timeout=60) == DomainEvent("td", "event-99", "3")
        assert events.next(timeout=60) == DomainEvent("td", "stopped", "77")


def test_addresses_are_those_that_lead_there(world: FakeLibvirt, td: FakeDomain, libvirt: Libvirt) -> None:
    addresses = ["127.0.0.1", "192.0.2.7", "fe80::1", "2001:db8::7"]
    world.interfaces = {
        "eth0": {"addrs": [{"addr": address} for address in addresses]},
        "lo": {"addrs": None},
    }
    assert libvirt.addresses("td") == ["192.0.2.7", "2001:db8::7"]


def test_forwarded_ports_are_read_from_the_definition(libvirt: Libvirt) -> None:
    ranges = "<range start='2222' to='22'/><range start='80'/>"
    udp = "<portForward proto='udp'><range start='53'/></portForward>"
    libvirt.define(
        domain_xml("td", f"<interface><portForward proto='tcp'>{ranges}</portForward>{udp}</interface>")
    )
    assert libvirt.ports("td") == {22: 2222, 80: 80}


def test_a_console_is_joined_with_both_sides(world: FakeLibvirt, td: FakeDomain, libvirt: Libvirt) -> None:
    world.stream.said = [b"login: "]
    shown = bytearray()
    seen = threading.Event()

    def write(data: bytes) -> None:
        shown.extend(data)
        seen.set()

    typed = iter([b"root\n", b""])

    def read() -> bytes:
        seen.wait()
        return next(typed)

    libvirt.console("td", read, write)
    assert (bytes(shown), world.stream.heard) == (b"login: ", b"root\n")


def test_a_console_ends_with_its_screen(world: FakeLibvirt, td: FakeDomain, libvirt: Libvirt) -> None:
    world.stream.said = [b"login: "]
    never = threading.Event()

    def gone(data: bytes) -> None:
        raise BrokenPipeError

    def read() -> bytes:
        never.wait()
        return b""

    libvirt.console("td", read, gone)
    never.set()


CAPABLE = """<domainCapabilities><features><tdx supported='yes'/><launchSecurity supported='yes'>
<enum name='sectype'><value>sev</value><value>tdx</value></enum></launchSecurity>
</features></domainCapabilities>"""


@pytest.mark.parametrize(
    ("capabilities", "version", "supported"),
    [
        (CAPABLE, (12, 8), True),
        (CAPABLE, (11, 10), True),
        (CAPABLE, (11, 9), None),
        (CAPABLE, (11, 6), None),
        (CAPABLE.replace("tdx supported='yes'", "tdx supported='no'"), (11, 6), False),
        (CAPABLE.replace("<value>tdx</value>", ""), (12, 8), False),
        ("<domainCapabilities><features/></domainCapabilities>", (11, 3), False),
        ("<domainCapabilities/>", (9, 0), False),
    ],
)
def test_tdx_is_supported_where_a_libvirt_that_looks_says_so(
    capabilities: str, version: tuple[int, int], supported: bool | None
) -> None:
    support = tdx_support(capabilities, version)
    assert support.supported is supported
    assert f"libvirt {version[0]}.{version[1]} " in support.reason


def test_tdx_support_is_asked_of_the_connection(world: FakeLibvirt, libvirt: Libvirt) -> None:
    world.capabilities, world.version = CAPABLE, 11_007_000
    assert libvirt.tdx_support().supported is None


def test_the_binding_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(UnavailableError, match="binding cannot be loaded") as caught:
        libvirt_binding.load()
    assert "tdxstack[libvirt]" in caught.value.hint
