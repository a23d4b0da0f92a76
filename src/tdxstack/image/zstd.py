"""What is compressed with zstd, unpacked by the program of that name: not every Python here can do it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tdxstack.run import Report, run, silent
from tdxstack.toolbox.programs import Toolbox

_SECONDS = 60.0


def unpacker(toolbox: Toolbox, work: Path, report: Report = silent) -> Callable[[bytes], bytes]:
    """What unpacks bytes, by way of files in the directory `work`. It raises `CommandError` for bad ones."""

    def unpack(data: bytes) -> bytes:
        with tempfile.NamedTemporaryFile(prefix="packed.", dir=work) as file:
            file.write(data)
            file.flush()
            argv = toolbox.program("zstd", report).argv("--decompress", "--stdout", "--quiet", file.name)
            return run(argv, timeout=_SECONDS).stdout

    return unpack
