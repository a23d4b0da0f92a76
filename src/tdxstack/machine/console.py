"""The serial console of a machine, joined with a terminal."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import UnavailableError

DETACH = b"\x1d"
"""Ctrl-], which ends the connection and not the machine."""

READ_SIZE = 1 << 16


def attach(path: Path, keyboard: int, screen: int) -> None:
    """Pass `keyboard` to the console at the socket `path` and the console to `screen`, until one ends.

    Both are file descriptors. A keyboard that is a terminal is read key by key and left as it was. Input
    ends at its end or at Ctrl-]. Raises `UnavailableError` where the console does not answer.
    """
    with socket.socket(socket.AF_UNIX) as console, raw_terminal(keyboard):
        try:
            console.connect(str(path))
        except OSError as error:
            raise UnavailableError(
                f"the console {path} does not answer: {error.strerror}",
                hint="the machine has ended, or another `tdx vm console` holds it",
            ) from None
        _relay(console, keyboard, screen)


def _relay(console: socket.socket, keyboard: int, screen: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(console, selectors.EVENT_READ)
        # A regular file is always ready and epoll does not take it: it is sent at once.
        try:
            selector.register(keyboard, selectors.EVENT_READ)
        except PermissionError:
            while data := os.read(keyboard, READ_SIZE):
                console.sendall(data)
        while True:
            for key, _ in selector.select():
                if key.fileobj is console:
                    data = console.recv(READ_SIZE)
                    if not data:
                        return
                    os.write(screen, data)
                else:
                    data, detached, _ = os.read(keyboard, READ_SIZE).partition(DETACH)
                    console.sendall(data)
                    if detached or not data:
                        return


@contextlib.contextmanager
def raw_terminal(keyboard: int) -> Iterator[None]:
    """Read a terminal key by key for a block, and leave it as it was; nothing happens to what is none."""
    if not os.isatty(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
