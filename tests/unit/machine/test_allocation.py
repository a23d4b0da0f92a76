"""Nothing that no two machines may have is given twice."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.files import Directories
from tdxstack.machine.allocation import Allocation, allocate, check_ports, foresee, free_port
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec
from tdxstack.machine.store import MachineState, MachineStore
from tests.golden.test_qemu_command import HARDWARE

TAPS = "nics: [{type: tap, interface: tap0}, {type: bridge, bridge: br0}, {}], vsock: {}"


@pytest.fixture
def store(tmp_path: Path) -> MachineStore:
    return MachineStore(Directories(tmp_path / "c", tmp_path / "d", tmp_path / "r"))


def spec(name: str, text: str = TAPS) -> MachineSpec:
    return parse_spec(f"{{name: {name}, {text}}}".encode(), Path())


def give(store: MachineStore, machine: MachineSpec, *, taken: tuple[int, ...] = ()) -> Allocation:
    """Allocate, and save the machine as whoever makes one does."""
    with allocate(store, machine, lambda cid: cid not in taken) as allocation:
        files = store.prepare(machine.name)
        placement = replace(HARDWARE, macs=allocation.macs, vsock_cid=allocation.vsock_cid)
        argv = build_qemu_command(machine, placement, files)
        store.save(MachineState(machine.name, "hardware", False, 0, 0, "2026", argv))
    return allocation


def test_what_is_given_depends_on_the_name_alone(store: MachineStore) -> None:
    first = give(store, spec("one"))
    assert first == give(store, spec("one"))
    assert set(first.macs) == {0, 1}
    other = give(store, spec("two"))
    assert not set(first.macs.values()) & set(other.macs.values())
    assert first.vsock_cid != other.vsock_cid


def test_what_would_be_given_is_foreseen(store: MachineStore) -> None:
    foreseen = foresee(store, spec("one"))
    assert store.names() == []
    assert foreseen == give(store, spec("one"))


def test_addresses_are_unicast_and_administered_locally(store: MachineStore) -> None:
    for number in range(20):
        for mac in give(store, spec(f"td{number}")).macs.values():
            assert int(mac[:2], 16) & 3 == 2


def test_what_another_machine_has_is_not_given(store: MachineStore) -> None:
    usual = give(store, spec("td"))
    store.remove("td")
    macs: Mapping[int, str] = usual.macs
    held = f"nics: [{{type: tap, interface: t, mac: '{macs[0]}'}}], vsock: {{cid: {usual.vsock_cid}}}"
    give(store, spec("holder", held))
    other = give(store, spec("td"))
    assert other.macs[0] != macs[0]
    assert other.macs[1] == macs[1]
    assert other.vsock_cid != usual.vsock_cid


def test_what_another_machine_has_cannot_be_named(store: MachineStore) -> None:
    give(
        store, spec("holder", "nics: [{type: tap, interface: t, mac: '52:54:00:00:00:09'}], vsock: {cid: 7}")
    )
    with pytest.raises(UsageError, match="52:54:00:00:00:09"):
        give(store, spec("td", "nics: [{type: tap, interface: u, mac: '52:54:00:00:00:09'}]"))
    with pytest.raises(UsageError, match="CID 7"):
        give(store, spec("td", "vsock: {cid: 7}"))
    give(store, spec("holder", "vsock: {cid: 7}"))
    give(store, spec("td", "nics: [{mac: '52:54:00:00:00:09'}]"))


def test_what_others_on_the_host_have_is_not_given(store: MachineStore) -> None:
    usual = give(store, spec("td")).vsock_cid
    assert usual is not None
    assert give(store, spec("td"), taken=(usual,)).vsock_cid != usual
    with pytest.raises(UnavailableError, match="CID 9 is in use"):
        give(store, spec("td", "vsock: {cid: 9}"), taken=(9,))


def test_machines_that_are_made_at_once_get_different_ones(store: MachineStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda number: give(store, spec(f"td{number}")), range(24)))
    macs = [mac for allocation in given for mac in allocation.macs.values()]
    assert len(set(macs)) == 48
    assert len({allocation.vsock_cid for allocation in given}) == 24


def test_a_machine_without_vsock_asks_for_none(store: MachineStore) -> None:
    def absent(_cid: int) -> bool:
        raise UnavailableError("/dev/vhost-vsock does not exist")

    with allocate(store, spec("td", "nics: [{}]"), absent) as allocation:
        assert allocation == Allocation({}, None)
    with pytest.raises(UnavailableError, match="vhost-vsock"), allocate(store, spec("td"), absent):
        pass


def test_ports_that_are_in_use_are_all_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        ports = tcp.getsockname()[1], udp.getsockname()[1]
        forwards = f"nics: [{{forwards: ['{ports[0]}:80', '{ports[1]}:53/udp', '0:81']}}]"
        with pytest.raises(UnavailableError) as caught:
            check_ports(spec("td", forwards))
    assert f"port {ports[0]}/tcp of 127.0.0.1: Address already in use" in caught.value.message
    assert f"port {ports[1]}/udp of 127.0.0.1: Address already in use" in caught.value.message
    check_ports(spec("td", forwards))


def test_a_free_port_can_be_had() -> None:
    check_ports(spec("td", f"nics: [{{forwards: ['{free_port()}:80']}}]"))
