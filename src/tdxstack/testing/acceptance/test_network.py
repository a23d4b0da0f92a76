"""The user network: out to the host's loopback, in through forwarded ports."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.kinds import KINDS
from tdxstack.testing.machines import SERVICE_PORT, Laboratory
from tdxstack.testing.runner import wait_for

SIZE = 1 << 20
ANSWER_SECONDS = 30
HOST = "10.0.2.2"
"""Where a guest finds its host's loopback (QEMU's user network)."""

EXCHANGE = """
import hashlib, sys, urllib.request
data = urllib.request.urlopen(sys.argv[1], timeout=60).read()
urllib.request.urlopen(sys.argv[1], data[::-1], timeout=60).read()
print(hashlib.sha256(data).hexdigest())
"""

SERVE = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((sys.argv[2] + self.path).encode())
http.server.HTTPServer(("", int(sys.argv[1])), Answer).serve_forever()
"""


class Server(ThreadingHTTPServer):
    """Gives out a megabyte of noise, and keeps what it is sent."""

    def __init__(self) -> None:
        self.noise = secrets.token_bytes(SIZE)
        self.received = b""
        super().__init__(("127.0.0.1", 0), Exchange)


class Exchange(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(self.server.noise)

    def do_POST(self) -> None:
        self.server.received = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_outbound(kind: Kind, laboratory: Laboratory, server: Server) -> None:
    """A guest fetches a megabyte from its host, and sends it back."""
    machine = laboratory.shared(kind)
    done = machine.run(["python3", "-c", EXCHANGE, f"http://{HOST}:{server.server_port}/"])
    assert done.stdout.decode().strip() == hashlib.sha256(server.noise).hexdigest()
    assert server.received == server.noise[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_forward(kind: Kind, laboratory: Laboratory) -> None:
    """A port of the host leads to a service of the guest."""
    machine = laboratory.shared(kind)
    port = laboratory.port_to(machine, SERVICE_PORT)
    name = secrets.token_hex(8)
    unit = f"acceptance-{name}"
    machine.run(["systemd-run", "--quiet", f"--unit={unit}", "python3", "-c", SERVE, str(SERVICE_PORT), name])
    try:
        wait_for(lambda: answer(port, "/there") is not None)
        assert answer(port, "/asked") == f"{name}/asked"
    finally:
        machine.run(["systemctl", "stop", unit])


def answer(port: int, path: str) -> str | None:
    """What is served; None where nothing is: QEMU takes connections before the guest does."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        address = f"http://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as found:
            data: bytes = found.read()
            return data.decode()
    return None
