"""Evidence over a virtio-serial port, which is plugged into a TD that runs: no network and no SSH."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from tdxstack.evidence.document import Evidence
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec_parts import Kind
from tdxstack.qemu import monitor
from tdxstack.qemu.monitor import Monitor
from tdxstack.testing.machines import Laboratory

PORT = "org.tdxstack.evidence"
NONCE = bytes(range(1, 33))
SECONDS = 120


def test_evidence_is_told_at_the_port_of_its_name(laboratory: Laboratory, tmp_path: Path) -> None:
    machine = laboratory.shared(Kind.TD)
    path = tmp_path / "port"
    address = {"type": "unix", "data": {"path": str(path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}

    async def plug(at: Monitor) -> None:
        await at.execute("chardev-add", {"id": PORT, "backend": backend})
        await at.execute("device_add", {"driver": "virtserialport", "id": "p", "chardev": PORT, "name": PORT})

    async def unplug(at: Monitor) -> None:
        await at.execute("device_del", {"id": "p"})

    tell(machine, plug)
    try:
        with socket.socket(socket.AF_UNIX) as host:
            host.settimeout(SECONDS)
            host.connect(str(path))
            host.sendall(b"no nonce\n" + NONCE.hex().encode() + b"\n")
            with host.makefile("rb") as answers:
                refusal, answer = answers.readline(), answers.readline()
    finally:
        tell(machine, unplug)
    assert b'"error"' in refusal
    evidence = Evidence.from_json(answer)
    other = machine.run(["tdx-guest", "collect", "--nonce", NONCE.hex()], timeout=SECONDS)
    assert evidence.nonce == NONCE
    assert evidence.ccel_data == Evidence.from_json(other.stdout).ccel_data
    assert evidence.quote != Evidence.from_json(other.stdout).quote, "the other is bound to no host key"


def tell(machine: Machine, work: Callable[[Monitor], Awaitable[None]]) -> None:
    """Have QEMU do something."""

    async def told() -> None:
        async with monitor.connect(machine.files.monitor) as connection:
            await work(connection)

    asyncio.run(told())
