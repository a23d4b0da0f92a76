"""vsock between a guest and its host."""

from __future__ import annotations

import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tdxstack.machine.spec_parts import Kind, Vsock
from tdxstack.testing.acceptance.kinds import KINDS
from tdxstack.testing.machines import Laboratory

DEVICE = Path("/dev/vhost-vsock")
SECONDS = 60
ECHO = """
import socket, sys
with socket.socket(socket.AF_VSOCK) as channel:
    channel.settimeout(60)
    channel.connect((socket.VMADDR_CID_HOST, int(sys.argv[1])))
    channel.sendall(sys.argv[2].encode())
    print(channel.recv(100).decode())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_vsock(kind: Kind, laboratory: Laboratory) -> None:
    """A guest calls its host by vsock, and each hears the other."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        lack = "may not be opened by this user" if DEVICE.exists() else "does not exist: load vhost_vsock"
        pytest.skip(f"{DEVICE} {lack}")
    question, reply = secrets.token_hex(8), secrets.token_hex(8)
    spec = laboratory.spec(kind, f"vsock-{kind.value}", vsock=Vsock())
    with laboratory.guest(spec) as machine, socket.socket(socket.AF_VSOCK) as server:
        server.settimeout(SECONDS)
        server.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        server.listen()
        _, port = server.getsockname()
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(machine.run, ["python3", "-c", ECHO, str(port), question])
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100).decode() == question
                connection.sendall(reply.encode())
            assert asked.result().stdout.decode().strip() == reply
