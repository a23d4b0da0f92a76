"""Machines that a real libvirtd runs, through libvirt's own Python binding.

The daemon is the distribution's newest with upstream QEMU, out of a private root (`libvirtd.py`). Ordinary
guests run; a TD is defined where the daemon is made to believe that its QEMU can run one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tdxstack.cli import tdx as command
from tdxstack.cli.edge import surroundings
from tdxstack.errors import CommandError, UnavailableError
from tdxstack.machine.libvirt import Libvirt, Mode, connect
from tdxstack.machine.libvirt_binding import Binding
from tdxstack.machine.libvirt_events import DomainEvent
from tdxstack.machine.libvirt_xml import DomainPlacement, build_domain_xml, fix_ports
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.readiness import until_greeted
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind, Td
from tdxstack.machine.spec_values import UnixAddress
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform
from tdxstack.run import run
from tdxstack.workflows.workshop import Workshop
from tests.e2e.libvirtd import Libvirtd, binding, unpack
from tests.golden.libvirt_machines import MACHINES, path

pytestmark = pytest.mark.e2e

SECONDS = 120.0
QGS = UnixAddress(Path("/run/other/qgs.sock"))


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return Workshop(surroundings())


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    # A short path: those of unix sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdx-lv-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def tools(workshop: Workshop, place: Path) -> Libvirtd:
    """The programs, and a daemon that does not run."""
    tools = Libvirtd(unpack(workshop, place / "root"), place)
    tools.prepare()
    return tools


@pytest.fixture(scope="module")
def daemon(tools: Libvirtd) -> Libvirtd:
    """A daemon that can run."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a libvirtd name spaces of its own")
    try:
        with tools.running():
            pass
    except UnavailableError as error:
        pytest.skip(error.message)
    return tools


@pytest.fixture(scope="module")
def daemon_with_kvm(daemon: Libvirtd) -> Libvirtd:
    """A daemon that knows KVM, without which it does not look at a TD further."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this host has no KVM")
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


@pytest.mark.parametrize("name", MACHINES)
def test_libvirt_s_schema_and_parser_take_our_xml(tools: Libvirtd, name: str) -> None:
    schema = tools.root / "usr/share/libvirt/schemas/domain.rng"
    done = tools.program("xmllint", "--noout", "--relaxng", schema, path(name))
    assert (done.returncode, done.stderr) == (0, f"{path(name)} validates\n")
    tools.virsh("define", path(name), uri="test:///default")


def test_the_schema_is_one_that_refuses(tools: Libvirtd, place: Path) -> None:
    wrong = place / "wrong.xml"
    wrong.write_text(path("td").read_text().replace("mrConfigId", "x").replace("<policy>", "<policy>no"))
    schema = tools.root / "usr/share/libvirt/schemas/domain.rng"
    done = tools.program("xmllint", "--noout", "--relaxng", schema, wrong)
    assert "fails to validate" in done.stderr


def test_a_guest_boots_and_stops_by_acpi(libvirt: Libvirt, workshop: Workshop, place: Path) -> None:
    """UEFI, an overlay of the guest image, and SSH through a forwarded port."""
    overlay = place / "efi.qcow2"
    workshop.overlay(workshop.image(), overlay)
    machine = fix_ports(MachineSpec(name="efi", kind=Kind.EFI, memory=1024), _free_port)
    libvirt.create(machine, tcg(overlay))
    with libvirt.events("efi") as events:
        libvirt.start("efi")
        told = {events.next(timeout=SECONDS), events.next(timeout=SECONDS)}
        assert told == {DomainEvent("efi", "resumed", "unpaused"), DomainEvent("efi", "started", "booted")}
        asyncio.run(until_greeted(libvirt.ports("efi")[22], SECONDS))
        libvirt.shutdown("efi", Mode.ACPI, timeout=SECONDS)
        assert events.next(timeout=SECONDS) == DomainEvent("efi", "shutdown", "guest")
        assert events.next(timeout=SECONDS) == DomainEvent("efi", "stopped", "shutdown")
    libvirt.undefine("efi")
    assert libvirt.names() == []
    assert overlay.exists()


def test_a_guest_without_a_system_is_controlled(daemon: Libvirtd, library: Binding, libvirt: Libvirt) -> None:
    """BIOS without a disk: states, console, reset, asking in vain, and an end with the connection."""
    machine = MachineSpec(name="legacy", kind=Kind.LEGACY, diskless=True, nics=(), guest_agent=True)
    xml = build_domain_xml(machine, tcg())
    libvirt.define(xml.replace("</type>", "</type><bios useserial='yes'/>"))
    with connect(daemon.uri, library=library) as other, other.events("legacy") as events:
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
        with pytest.raises(CommandError, match="guest agent is not connected"):
            libvirt.shutdown("legacy", Mode.AGENT, timeout=0)
        seen: list[str] = []
        while not seen or seen[-1] != "rebooted":
            told = events.next(timeout=SECONDS)
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


def test_a_daemon_that_has_gone_is_an_error_at_once(daemon: Libvirtd, library: Binding) -> None:
    with contextlib.ExitStack() as connected:
        with daemon.running():
            libvirt = connected.enter_context(connect(daemon.uri, library=library))
            libvirt.names()
        with pytest.raises(CommandError, match=r"asked libvirt at .* to list domains: "):
            libvirt.names()


def test_the_command_makes_and_removes_what_belongs_to_a_machine(
    daemon: Libvirtd, library: Binding, workshop: Workshop, place: Path
) -> None:
    """An overlay in a storage pool of libvirt's host, and a machine that runs from it."""
    images = place / "images"
    images.mkdir()
    base = images / "base.raw"
    spec = place / "machine.yaml"
    spec.write_text(f"{{name: cli, kind: legacy, platform: emulated, image: {base}, memory: 512}}")
    overlay = images / "cli-disk0.qcow2"
    with daemon.running():
        daemon.virsh("pool-create-as", "images", "dir", "--target", images)
        # Behind libvirt's back, as images come.
        base.write_bytes(b"read from the base".ljust(1 << 20, b"."))
        tdx(daemon, "create", spec)
        qemu_img = workshop.toolbox.program("qemu-img")
        told = json.loads(run(qemu_img.argv("info", "--output=json", overlay), timeout=SECONDS).stdout)
        backing = (told["format"], told["backing-filename"], told["virtual-size"])
        assert backing == ("qcow2", str(base), 1 << 20)
        tdx(daemon, "start", "cli")
        shown = json.loads(tdx(daemon, "show", "cli", "--json"))
        assert (shown["state"], list(shown["ports"])) == ("running", ["22"])
        tdx(daemon, "rm", "cli", "--force")
        assert list(images.iterdir()) == [base]
        assert json.loads(tdx(daemon, "list", "--json")) == {"machines": []}


def tdx(daemon: Libvirtd, *words: str | Path) -> str:
    """Run `tdx vm` on machines of the daemon; it must be content."""
    arguments = ["vm", "--connect", daemon.uri, *map(str, words)]
    done = CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_td_is_refused_in_libvirt_s_words_where_there_is_no_tdx(
    daemon_with_kvm: Libvirtd, libvirt: Libvirt
) -> None:
    if libvirt.tdx_support().supported:
        pytest.skip("this host has TDX")
    with pytest.raises(UnavailableError, match="'tdx' launch security is not supported") as caught:
        libvirt.define(path("td").read_text())
    assert "tdx doctor" in caught.value.hint


def test_a_td_becomes_the_command_line_that_tdx_makes(daemon_with_kvm: Libvirtd, library: Binding) -> None:
    """What makes a machine a TD is the same, whoever starts QEMU: machine, CPU, firmware and TDX object."""
    daemon = daemon_with_kvm
    digests = Td(mrconfigid=b"\1" * 48, mrowner=b"\2" * 48, mrownerconfig=b"\3" * 48, quote_service=QGS)
    machine = MachineSpec(name="td", vcpus=4, memory=4096, td=digests)
    firmware = daemon.place / "tdvf.fd"
    placement = DomainPlacement(Platform.HARDWARE, "key", (Path("/nowhere/disk.qcow2"),), firmware=firmware)
    xml = daemon.place / "td.xml"
    xml.write_text(build_domain_xml(machine, placement))
    with daemon.running_as_if_with_tdx(), connect(daemon.uri, library=library) as libvirt:
        libvirt.define(xml.read_text())
        theirs = shlex.split(daemon.virsh("domxml-to-native", "qemu-argv", "--domain", "td"))
        libvirt.undefine("td")

    ours = build_qemu_command(
        machine,
        Placement(Platform.HARDWARE, ("qemu",), firmware, "key"),
        MachineFiles(daemon.place, daemon.place),
    )
    for option in ("-bios", "-accel"):
        assert _values(theirs, option) == _values(ours, option)
    assert _tdx_object(theirs) == _tdx_object(ours)
    (machine_type,) = _values(theirs, "-machine")
    assert machine_type.startswith("pc-q35-")
    assert "kernel_irqchip=split" in machine_type.split(",")
    assert "kernel-irqchip=split" in _values(ours, "-machine")[0].split(",")
    assert _values(theirs, "-cpu")[0].split(",")[0] == _values(ours, "-cpu")[0] == "host"
    assert _values(theirs, "-smp")[0].split(",")[0] == _values(ours, "-smp")[0] == "4"


def _values(argv: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(argv) if word == option]


def _tdx_object(argv: list[str]) -> dict[str, object]:
    """The TDX object and the machine's reference to it, without its name."""
    objects: list[dict[str, object]] = [
        json.loads(value) for value in _values(argv, "-object") if value.startswith("{")
    ]
    (tdx,) = [object_ for object_ in objects if object_["qom-type"] == "tdx-guest"]
    assert f"confidential-guest-support={tdx.pop('id')}" in _values(argv, "-machine")[0].split(",")
    return tdx


def tcg(*disks: Path) -> DomainPlacement:
    return DomainPlacement(Platform.EMULATED, "ssh-ed25519 AAAA tdx", disks)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


def _until(shown: bytearray, text: bytes) -> bytes:
    """Type nothing, and end once the console has shown `text`."""
    deadline = time.monotonic() + SECONDS
    while text not in shown:
        assert time.monotonic() < deadline, bytes(shown)
        time.sleep(0.05)
    return b""
