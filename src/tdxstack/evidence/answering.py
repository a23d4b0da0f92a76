"""Evidence for whoever asks over a channel to the host: a vsock connection, a virtio-serial port."""

from __future__ import annotations

import json
from io import BufferedIOBase

from tdxstack.errors import TdxError
from tdxstack.evidence.arguments import parse_nonce, read_host_key
from tdxstack.evidence.collect import collect
from tdxstack.evidence.kernel import Kernel

MAX_REQUEST = 256
"""Bytes of a line that asks."""


def answer_all(kernel: Kernel, requests: BufferedIOBase, answers: BufferedIOBase, host_key: str) -> None:
    """Answer every line of `requests`, a nonce of 32 bytes in hex, until there is no more.

    An answer is one line: the evidence document, bound to the nonce and the SSH host key in `host_key`, or
    `{"error", "hint"}`. A line that is too long is answered in pieces, all of them errors.
    """
    while line := requests.readline(MAX_REQUEST):
        answers.write(_answer(kernel, line, host_key).encode("ascii") + b"\n")
        answers.flush()


def _answer(kernel: Kernel, line: bytes, host_key: str) -> str:
    try:
        nonce = parse_nonce(line.decode("ascii", "replace").strip())
        return collect(kernel, nonce, read_host_key(kernel, host_key)).to_json()
    except TdxError as error:
        return json.dumps({"error": error.message, "hint": error.hint})
