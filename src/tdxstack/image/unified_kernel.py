"""Unified kernel images: systemd's stub with a kernel, its command line and its initial RAM file system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tdxstack.firmware.keys import OwnKeys
from tdxstack.firmware.signing import sign
from tdxstack.image.disk import Tools


@dataclass(frozen=True, slots=True)
class UnifiedKernel:
    """What it is made of."""

    stub: bytes
    kernel: bytes
    version: str
    initrd: bytes
    command_line: str
    os_release: bytes


def unified_kernel(parts: UnifiedKernel, tools: Tools, work: Path, keys: OwnKeys | None) -> bytes:
    """The EFI program, made by ukify, and signed if there are `keys`. `work` is a new directory.

    The same parts give the same bytes. Raises `CommandError` where a program fails.
    """
    work.mkdir()
    for name, data in (
        ("stub", parts.stub),
        ("linux", parts.kernel),
        ("initrd", parts.initrd),
        ("os-release", parts.os_release),
        ("cmdline", parts.command_line.encode()),
    ):
        (work / name).write_bytes(data)
    options = [
        f"--{name}={'@' if name in ('cmdline', 'os-release') else ''}{work / name}"
        for name in ("stub", "linux", "initrd", "os-release", "cmdline")
    ]
    program = work / "unified.efi"
    tools.run("ukify", "build", *options, f"--uname={parts.version}", f"--output={program}")
    made = program.read_bytes()
    return made if keys is None else sign(made, keys, tools.toolbox, report=tools.report)
