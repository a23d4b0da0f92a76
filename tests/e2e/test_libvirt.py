"""Machines that a real libvirtd runs, through libvirt's own Python binding.

The daemon is the distribution's newest with upstream QEMU, out of a private root (`libvirtd.py`). Ordinary
guests run; a TD is defined where the daemon is made to believe that its QEMU can run one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.errors import CommandError, UnavailableError
from tdxstack.machine.libvirt import METADATA, DomainEvent, Libvirt, Mode, connect
from tdxstack.machine.libvirt_binding import Binding
from tdxstack.machine.readiness import until_greeted
from tdxstack.workflows.workshop import Workshop
from tests.e2e.libvirtd import Libvirtd, binding, unpack

pytestmark = pytest.mark.e2e

SECONDS = 120.0


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return Workshop(surroundings())


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    # A short path: those of unix sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdx-lv-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def daemon(workshop: Workshop, place: Path) -> Libvirtd:
    if os.geteuid() != 0:
        pytest.skip("only root can give a libvirtd name spaces of its own")
    daemon = Libvirtd(unpack(workshop, place / "root"), place)
    daemon.prepare()
    try:
        with daemon.running():
            pass
    except UnavailableError as error:
        pytest.skip(error.message)
    return daemon


@pytest.fixture(scope="module")
def library(workshop: Workshop, place: Path) -> Binding:
    try:
        return binding(workshop, place / "binding")
    except UnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture
def libvirt(daemon: Libvirtd, library: Binding) -> Iterator[Libvirt]:
    with daemon.running(), connect(daemon.uri, library=library) as connection:
        yield connection


def guest_xml(name: str, system: str, devices: str, features: str = "<acpi/>") -> str:
    return f"""<domain type='qemu'><name>{name}</name>
<metadata><tdx:machine xmlns:tdx='{METADATA}'/></metadata>
<memory unit='MiB'>1024</memory><vcpu>2</vcpu>
<os {system}<features>{features}</features><cpu mode='maximum'/>
<devices><serial type='pty'/><memballoon model='none'/>{devices}</devices></domain>"""


def test_a_guest_boots_and_stops_by_acpi(libvirt: Libvirt, workshop: Workshop, place: Path) -> None:
    """UEFI, an overlay of the guest image, and SSH through a forwarded port."""
    overlay = place / "efi.qcow2"
    workshop.overlay(workshop.image(), overlay)
    libvirt.define(
        guest_xml(
            "efi",
            "firmware='efi'><type machine='q35'>hvm</type></os>",
            f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{overlay}'/>
            <target dev='vda' bus='virtio'/></disk><interface type='user'><backend type='passt'/>
            <model type='virtio'/><portForward proto='tcp' address='127.0.0.1'><range start='2222' to='22'/>
            </portForward></interface>""",
        )
    )
    with libvirt.events("efi") as event:
        libvirt.start("efi")
        assert event(SECONDS) == DomainEvent("efi", "resumed", "unpaused")
        assert event(SECONDS) == DomainEvent("efi", "started", "booted")
        asyncio.run(until_greeted(libvirt.ports("efi")[22], SECONDS))
        libvirt.shutdown("efi", Mode.ACPI, timeout=SECONDS)
        assert event(SECONDS) == DomainEvent("efi", "shutdown", "guest")
        assert event(SECONDS) == DomainEvent("efi", "stopped", "shutdown")
    libvirt.undefine("efi")
    assert libvirt.names() == []
    assert overlay.exists()


def test_a_guest_without_a_system_is_controlled(daemon: Libvirtd, library: Binding, libvirt: Libvirt) -> None:
    """BIOS without a disk: states, console, reset, asking in vain, and an end with the connection."""
    libvirt.define(guest_xml("legacy", "><type machine='q35'>hvm</type><bios useserial='yes'/></os>", ""))
    with connect(daemon.uri, library=library) as other, other.events("legacy") as event:
        other.start("legacy", autodestroy=True)
        shown = bytearray()
        libvirt.console("legacy", lambda: _until(shown, b"SeaBIOS"), shown.extend)
        libvirt.suspend("legacy")
        assert libvirt.state("legacy") == "paused"
        libvirt.resume("legacy")
        assert libvirt.state("legacy") == "running"
        libvirt.reboot("legacy", Mode.FORCE)
        with pytest.raises(CommandError, match="did not end within 0 s"):
            libvirt.shutdown("legacy", Mode.ACPI, timeout=0)
        with pytest.raises(CommandError, match="guest agent is not configured"):
            libvirt.shutdown("legacy", Mode.AGENT)
        seen: list[str] = []
        while not seen or seen[-1] != "rebooted":
            told = event(SECONDS)
            assert told, seen
            seen.append(told.event)
    deadline = time.monotonic() + SECONDS
    while libvirt.state("legacy") != "ended":
        assert time.monotonic() < deadline
    libvirt.start("legacy")
    with pytest.raises(UnavailableError, match="is running"):
        libvirt.undefine("legacy")
    libvirt.shutdown("legacy", Mode.FORCE)
    libvirt.undefine("legacy")


def _until(shown: bytearray, text: bytes) -> bytes:
    """Type nothing, and end once the console has shown `text`."""
    deadline = time.monotonic() + SECONDS
    while text not in shown:
        assert time.monotonic() < deadline, bytes(shown)
        time.sleep(0.05)
    return b""
