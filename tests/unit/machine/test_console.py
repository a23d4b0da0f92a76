"""The console, with a socket in QEMU's place and a pipe in the terminal's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.machine.console import DETACH, attach


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "console"))
        server.listen()
        server.settimeout(10)
        yield server


def attached(path: Path, keyboard: int, screen: int) -> threading.Thread:
    thread = threading.Thread(target=attach, args=(path, keyboard, screen))
    thread.start()
    return thread


def test_both_directions_until_the_key_that_detaches(tmp_path: Path, guest: socket.socket) -> None:
    keyboard, keys = os.pipe()
    seen, screen = os.pipe()
    thread = attached(tmp_path / "console", keyboard, screen)
    connection, _ = guest.accept()
    with connection:
        connection.sendall(b"login: ")
        assert os.read(seen, 100) == b"login: "
        os.write(keys, b"root\n" + DETACH + b"not sent")
        assert connection.recv(100) == b"root\n"
        assert connection.recv(100) == b""
    thread.join(10)
    assert not thread.is_alive()
    for descriptor in (keyboard, keys, seen, screen):
        os.close(descriptor)


def test_it_ends_with_the_machine(tmp_path: Path, guest: socket.socket) -> None:
    keyboard, keys = os.pipe()
    thread = attached(tmp_path / "console", keyboard, os.open(os.devnull, os.O_WRONLY))
    connection, _ = guest.accept()
    connection.close()
    thread.join(10)
    assert not thread.is_alive()
    os.close(keys)


def test_a_file_is_typed_whole(tmp_path: Path, guest: socket.socket) -> None:
    (tmp_path / "keys").write_bytes(b"poweroff\n")
    keyboard = os.open(tmp_path / "keys", os.O_RDONLY)
    thread = attached(tmp_path / "console", keyboard, os.open(os.devnull, os.O_WRONLY))
    connection, _ = guest.accept()
    with connection:
        assert connection.recv(100) == b"poweroff\n"
    thread.join(10)
    assert not thread.is_alive()


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        attach(tmp_path / "console", 0, 1)
