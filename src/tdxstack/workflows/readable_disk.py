"""Disk images in a form that is read in place: those compressed with zstd are unpacked by qemu-img first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tdxstack.prediction.qcow2 import image_format, is_packed_with_zstd
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.programs import Toolbox

CONVERT_SECONDS = 30 * 60.0


@contextlib.contextmanager
def readable(path: Path, toolbox: Toolbox, scratch: Path, report: Report = silent) -> Iterator[Path]:
    """The image, or what qemu-img unpacks of it below `scratch` where it is compressed with zstd.

    Raises `UnavailableError` where it cannot be read, `CommandError` where qemu-img cannot unpack it.
    """
    if not is_packed_with_zstd(path):
        yield path
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="inspect.", dir=scratch) as name:
        unpacked = Path(name, "disk.raw")
        report(f"unpacking {path.name}", None)
        argv = toolbox.program("qemu-img", report).argv(
            "convert", "-f", image_format(path), "-O", "raw", path, unpacked
        )
        run(argv, timeout=CONVERT_SECONDS)
        yield unpacked
