"""Bytes that a command was asked to write: to a file, whole or not at all, or to standard output."""

from __future__ import annotations

import sys
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.files import write_atomically

STDOUT = "-"


def write_output(data: bytes, output: str) -> None:
    """Write `data` to the file `output`, or to standard output for "-". Raises `UsageError`."""
    if output == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        write_atomically(Path(output), data)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror}", hint="name a file in a directory of yours"
        ) from None
