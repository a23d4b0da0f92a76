"""What machines must not share: MAC addresses, vsock context identifiers, ports of the host.

Who has which is read from the machines' own states, so that nothing can disagree with them, and under a lock,
so that two that are made at once get different ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Forward
from tdxstack.machine.store import MachineStore

FIRST_CID, CIDS = 1 << 16, 1 << 20
"""Where context identifiers are taken from: far from those that people count from 3 on."""

MAX_TRIES: Final = 1000
_MAC = re.compile(r"virtio-net-pci,(?:.*,)?mac=([0-9a-f:]{17})")
_CID = re.compile(r"vhost-vsock-pci,(?:.*,)?guest-cid=(\d+)")


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a machine has to itself and its specification does not say; see `Placement`."""

    macs: Mapping[int, str]
    vsock_cid: int | None


@contextlib.contextmanager
def allocate(
    store: MachineStore, spec: MachineSpec, cid_is_free: Callable[[int], bool]
) -> Iterator[Allocation]:
    """What `spec` needs and no other machine has. The caller saves the machine's state in the block.

    `cid_is_free` says whether nobody else on the host has a context identifier. What is given depends on the
    machine's name alone, unless another machine has it. Raises `UsageError` where the specification names
    what another machine has, `UnavailableError` where the host has no vsock.
    """
    with store.allocating():
        yield _allocation(store, spec, cid_is_free)


def foresee(store: MachineStore, spec: MachineSpec) -> Allocation:
    """What `allocate` would give now, if nobody else on the host has it; raises `UsageError` as it does."""
    return _allocation(store, spec, lambda cid: True)


def _allocation(store: MachineStore, spec: MachineSpec, cid_is_free: Callable[[int], bool]) -> Allocation:
    others = [words for name in store.names() if name != spec.name for words in _command(store, name)]
    macs, cids = set(_found(_MAC, others)), {int(cid) for cid in _found(_CID, others)}
    for nic in spec.nics:
        if nic.mac in macs and nic.type != "user":
            raise UsageError(f"another machine has the MAC address {nic.mac}", hint="leave mac out")
    if spec.vsock is not None and spec.vsock.cid in cids:
        raise UsageError(f"another machine has the vsock CID {spec.vsock.cid}", hint="leave cid out")
    macs |= {nic.mac for nic in spec.nics if nic.mac}
    return Allocation(_macs(spec, macs), _cid(spec, cids, cid_is_free))


def _command(store: MachineStore, name: str) -> list[str]:
    # A machine whose state cannot be read cannot be started either, until it is made anew.
    with contextlib.suppress(MalformedError, UsageError):
        return store.load(name).argv
    return []


def _found(pattern: re.Pattern[str], words: Iterable[str]) -> Iterator[str]:
    return (match[1] for word in words if (match := pattern.match(word)))


def _macs(spec: MachineSpec, taken: set[str]) -> dict[int, str]:
    """Addresses for the cards that another machine may see."""
    macs = {}
    for number, nic in enumerate(spec.nics):
        if nic.mac is None and nic.type != "user":
            macs[number] = next(mac for mac in _candidates(spec.name, number) if mac not in taken)
            taken.add(macs[number])
    return macs


def _candidates(name: str, number: int) -> Iterator[str]:
    """MAC addresses: unicast, and administered locally (bits 0 and 1 of the first octet, IEEE 802)."""
    for attempt in range(MAX_TRIES):
        octets = bytearray(_digest(f"mac {name} {number} {attempt}")[:6])
        octets[0] = octets[0] & 0xFC | 0x02
        yield octets.hex(":")


def _cid(spec: MachineSpec, taken: set[int], is_free: Callable[[int], bool]) -> int | None:
    if spec.vsock is None:
        return None
    if spec.vsock.cid is not None:
        if not is_free(spec.vsock.cid):
            raise UnavailableError(
                f"the vsock CID {spec.vsock.cid} is in use on this host",
                hint="choose another, or leave cid out",
            )
        return None
    for attempt in range(MAX_TRIES):
        cid = FIRST_CID + int.from_bytes(_digest(f"cid {spec.name} {attempt}")[:8], "little") % CIDS
        if cid not in taken and is_free(cid):
            return cid
    raise UnavailableError("no free vsock CID was found", hint="end some machines")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def check_ports(spec: MachineSpec) -> None:
    """Raise `UnavailableError` that names every port of the host that `spec` forwards and cannot be had."""
    forwards = [forward for nic in spec.nics for forward in nic.forwards if forward.host]
    problems = [
        f"port {forward.host}/{forward.protocol} of {forward.address}: {problem}"
        for forward in forwards
        if (problem := _why_not(forward))
    ]
    if problems:
        raise UnavailableError(
            "; ".join(problems),
            hint="find who has it: ss -lntup; or forward another port, or 0 for one that is free",
        )


def free_port() -> int:
    """A TCP port of this host on which nobody listens now; QEMU itself needs none, it takes port 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _why_not(forward: Forward) -> str:
    """Why nobody can listen there; empty where one can."""
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if forward.protocol == "tcp":
            # As QEMU does: connections that have ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((forward.address, forward.host))
            if forward.protocol == "tcp":
                probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return ""
