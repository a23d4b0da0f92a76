"""The root file system as a tar archive: the installed tree with files added."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.image.guest_side import GuestFile

_MERGED = ("bin", "lib", "lib64", "sbin")
"""Links into /usr."""


def write(base: Path, files: Sequence[GuestFile], target: Path, *, epoch: int) -> None:
    """Write the tar archive `base` to `target` with `files`, dated `epoch`, added or in place of its own.

    Raises `UsageError` for a file that cannot be where it is to be.
    """
    wanted = {_merged(file.path): file for file in files}
    with tarfile.open(base) as source, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as out:
        directories: set[str] = set()
        others: set[str] = set()
        for member in source:
            name = member.name.removeprefix("./")
            (directories if member.isdir() else others).add(name)
            if name not in wanted or member.isdir():
                out.addfile(member, source.extractfile(member) if member.isreg() else None)
        for path, file in wanted.items():
            _check(path, directories, others)
            _add_parents(out, path, directories, epoch)
            info = tarfile.TarInfo(f"./{path}")
            info.mtime, info.mode, info.size = epoch, file.mode, len(file.data)
            if file.link:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
            out.addfile(info, BytesIO(file.data))


def _merged(path: str) -> str:
    return f"usr/{path}" if path.split("/", 1)[0] in _MERGED else path


def _check(path: str, directories: set[str], others: set[str]) -> None:
    if path in directories:
        raise UsageError(f"/{path} is a directory in the image", hint="name the file in it")
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        parent = "/".join(parts[:depth])
        if parent in others:
            raise UsageError(
                f"/{path} cannot be: /{parent} is no directory in the image",
                hint="name the place itself, not through a link",
            )


def _add_parents(out: tarfile.TarFile, path: str, present: set[str], epoch: int) -> None:
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if name not in present:
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, epoch
            out.addfile(info)
            present.add(name)
