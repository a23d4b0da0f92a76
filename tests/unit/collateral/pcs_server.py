"""A PCS or PCCS on loopback that answers from an emulated PKI, and misbehaves as a script says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

from tdxstack.collateral.bundle import Collateral

Reply = Callable[[BaseHTTPRequestHandler], None]
"""Writes a whole answer, or what a broken server makes of one."""


@dataclass
class PcsServer:
    """Answers with `collateral`, after the replies that `script` has for a path, which are used up."""

    collateral: Collateral
    port: int = 0
    tls: bool = False
    script: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Path and query of each request."""
    request_headers: list[dict[str, str]] = field(default_factory=list)
    etag: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """Added to each good answer."""

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Reply to one request."""
        path = urlsplit(handler.path).path
        self.requests.append(handler.path)
        self.request_headers.append({name.lower(): value for name, value in handler.headers.items()})
        scripted = self.script.get(path)
        if scripted:
            scripted.pop(0)(handler)
            return
        if self.etag and handler.headers.get("If-None-Match") == self.etag:
            send(handler, 304, b"", self.headers)
            return
        c = self.collateral
        known: dict[str, tuple[bytes, str, bytes]] = {
            "/tdx/certification/v4/tcb": (c.tcb_info, "TCB-Info-Issuer-Chain", c.tcb_info_issuer_chain),
            "/tdx/certification/v4/qe/identity": (
                c.qe_identity,
                "SGX-Enclave-Identity-Issuer-Chain",
                c.qe_identity_issuer_chain,
            ),
            "/sgx/certification/v4/pckcrl": (c.pck_crl, "SGX-PCK-CRL-Issuer-Chain", c.pck_crl_issuer_chain),
            "/sgx/certification/v4/rootcacrl": (c.root_ca_crl.hex().encode(), "", b""),
            "/root.der": (c.root_ca_crl, "", b""),
        }
        if path not in known:
            send(handler, 404, b"no such thing")
            return
        body, name, chain = known[path]
        headers = self.headers | ({name: quote(chain)} if name else {})
        send(handler, 200, body, headers | ({"ETag": self.etag} if self.etag else {}))


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    """A complete answer."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, **headers: str) -> Reply:
    """An answer with nothing but a status and headers (underscores become hyphens)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: send(handler, code, b"", named)


def raw(data: bytes) -> Reply:
    """These bytes, and the end of the connection."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return reply


@contextlib.contextmanager
def serving(collateral: Collateral, *, tls: tuple[Path, Path] | None = None) -> Iterator[PcsServer]:
    """Run a server for the block; `tls` is certificate and key."""
    server = PcsServer(collateral, tls=tls is not None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A client that has gone is what some tests are about.
            with contextlib.suppress(ConnectionError):
                server.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    listener = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    server.port = listener.server_address[1]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def unused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
