"""The files that a specification names, which must be there before a machine is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import UnavailableError
from tdxstack.machine.spec import MachineSpec


def check_files(spec: MachineSpec) -> None:
    """Raise `UnavailableError` that tells of every file that is named and cannot be read, disks apart."""
    problems = []
    for field, path in _named(spec):
        if not path.is_file():
            problems.append(f"{field}: there is no file {path}")
        elif not os.access(path, os.R_OK):
            problems.append(f"{field}: {path} may not be read by this user")
    if problems:
        raise UnavailableError("; ".join(problems), hint="name files that are there")


def _named(spec: MachineSpec) -> Iterator[tuple[str, Path]]:
    named = {"firmware": spec.firmware, "firmware_variables": spec.firmware_variables}
    if spec.direct_kernel is not None:
        named |= {
            "direct_kernel.kernel": spec.direct_kernel.kernel,
            "direct_kernel.initrd": spec.direct_kernel.initrd,
        }
    if spec.uki is not None:
        named["uki.image"] = spec.uki.image
    named |= {f"fw_cfg[{number}].file": item.file for number, item in enumerate(spec.fw_cfg)}
    yield from ((field, path) for field, path in named.items() if path is not None)
