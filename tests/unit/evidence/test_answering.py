from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import threading
import tty
from pathlib import Path

import pytest

from tdxstack.evidence.answering import MAX_REQUEST, answer_all
from tdxstack.evidence.binding import report_data
from tdxstack.evidence.cli import main
from tdxstack.evidence.document import Evidence
from tests.unit.evidence.fake_kernel import HOST_KEY, HOST_KEY_BLOB, FakeKernel

NONCE, OTHER = bytes(range(32)), bytes(32)


def answers(requests: bytes, kernel: FakeKernel | None = None) -> list[bytes]:
    out = io.BytesIO()
    answer_all(kernel or FakeKernel(), io.BytesIO(requests), out, HOST_KEY)
    return out.getvalue().splitlines()


def test_every_nonce_is_answered() -> None:
    first, second = (
        Evidence.from_json(line) for line in answers(f"{NONCE.hex()}\n{OTHER.hex().upper()}\r\n".encode())
    )
    assert (first.nonce, second.nonce) == (NONCE, OTHER)
    assert first.report_data == report_data(NONCE, HOST_KEY_BLOB)


@pytest.mark.parametrize("line", [b"", b"hello", b"00", b"\xff" * 40, NONCE.hex().encode()[:-2]])
def test_what_is_no_nonce_is_an_error_and_the_next_is_answered(line: bytes) -> None:
    first, *rest = answers(line + b"\n" + NONCE.hex().encode())
    assert set(json.loads(first)) == {"error", "hint"}
    assert Evidence.from_json(rest[-1]).nonce == NONCE


def test_a_line_without_end_is_not_read_as_a_whole() -> None:
    found = answers(b"a" * (3 * MAX_REQUEST))
    assert len(found) == 3
    assert all("error" in json.loads(line) for line in found)


def test_what_the_guest_lacks_is_told() -> None:
    kernel = FakeKernel()
    kernel.errors["ioctl"] = errno.ENODEV
    (line,) = answers(NONCE.hex().encode(), kernel)
    assert "error" in json.loads(line)


def test_over_a_port(tmp_path: Path) -> None:
    """A terminal in raw mode stands in for the port: reads end with the other side."""
    host, guest = pty.openpty()
    tty.setraw(guest)
    arguments = ["answer", "--port", os.ttyname(guest)]

    def work() -> None:
        # what a terminal says when its other side is gone, where a port reads as ended
        with contextlib.suppress(OSError):
            main(arguments, FakeKernel(), io.BytesIO(), io.StringIO())

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    os.write(host, NONCE.hex().encode() + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(host, 65536)
    assert Evidence.from_json(received).nonce == NONCE
    os.close(host)
    os.close(guest)
    worker.join(10)
