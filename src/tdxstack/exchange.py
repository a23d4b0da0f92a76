"""One message each way over a stream socket, as the quote generation service talks. Standard library only."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

Address = Path | tuple[int, int]
"""A unix socket, or vsock's context id and port."""


def address_name(address: Address) -> str:
    """The address as people read it."""
    return str(address) if isinstance(address, Path) else f"vsock {address[0]}:{address[1]}"


def exchange(address: Address, message: bytes, *, limit: int, timeout: float) -> bytes:
    """Send one message behind its length (4 bytes, big-endian) and read the answer in the same form.

    Raises `OSError`, `TimeoutError` after `timeout` seconds in all, and `EOFError` where the peer announces
    more than `limit` bytes or closes the connection before the end.
    """
    deadline = time.monotonic() + timeout
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_VSOCK
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as peer:
        peer.settimeout(timeout)
        peer.connect(os.fspath(address) if isinstance(address, Path) else address)
        # In one piece: qgsd mistakes a request that arrives in two.
        peer.sendall(len(message).to_bytes(4, "big") + message)
        size = int.from_bytes(_receive(peer, 4, deadline), "big")
        if size > limit:
            raise EOFError(f"announces {size} bytes, more than {limit}")
        return _receive(peer, size, deadline)


def _receive(peer: socket.socket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        peer.settimeout(left)
        part = peer.recv(min(size - len(received), 1 << 16))
        if not part:
            raise EOFError(f"closed the connection {size - len(received)} bytes before the end")
        received += part
    return bytes(received)
