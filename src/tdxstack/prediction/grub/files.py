"""Files as GRUB names them: "(device)/path", or a path on the device that the variable `root` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tdxstack.errors import MalformedError

_NAME = re.compile(r"\((?P<device>[^()]*)\)(?P<path>.*)", re.DOTALL)
_PARTITION = re.compile(r"(?P<disk>[a-z]+\d*),(?:gpt|msdos)?(?P<number>\d{1,4})")

MAX_READ = 1 << 31
"""Bytes of all files together."""

HINT = "see what its menu starts, and write that as commands linux and initrd, with a time-out"


class FileSystem(Protocol):
    """Files by path, with "/" between names."""

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None."""

    def is_directory(self, path: str) -> bool:
        """Whether it is a directory."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system that GRUB finds: the device that it calls it by, and what it is searched by."""

    device: str
    files: FileSystem
    uuid: str
    label: str = ""


class Files:
    """The file systems that GRUB finds, in its order, and in words what else is on the disk."""

    def __init__(self, volumes: Sequence[Volume], others: Sequence[str] = ()) -> None:
        self._volumes = volumes
        self._others = "".join(f"; {other}" for other in others)
        self._read: dict[tuple[str, str], bytes | None] = {}
        self._left = MAX_READ

    def read(self, name: str, root: str) -> bytes | None:
        """The content of a file; None where there is none. Raises `MalformedError` for no file's name."""
        place = split(name, root)
        if place not in self._read:
            data = self._volume(place[0]).files.read(place[1])
            self._left -= len(data or b"")
            if self._left < 0:
                raise bad(f"it asks for files of more than {MAX_READ} bytes")
            self._read[place] = data
        return self._read[place]

    def is_directory(self, name: str, root: str) -> bool:
        """Whether it is a directory. Raises as `read` does."""
        device, path = split(name, root)
        return self._volume(device).files.is_directory(path)

    def search(self, kind: str, wanted: str) -> str:
        """The device of the first file system with that UUID, label or file (`kind`: uuid, label, file).

        Raises `MalformedError` where none has it, as one that is not read may have it.
        """
        for volume in self._volumes:
            if kind == "file":
                found = self.read(wanted, volume.device) is not None or volume.files.is_directory(wanted)
            else:
                known = volume.label if kind == "label" else volume.uuid
                found = known.lower() == wanted.lower()
            if found:
                return volume.device
        raise bad(f"no file system {wanted[:80]!r} that can be read is on the disk{self._others}")

    def _volume(self, device: str) -> Volume:
        wanted = _PARTITION.fullmatch(device)
        for volume in self._volumes:
            known = _PARTITION.fullmatch(volume.device)
            if wanted and known and wanted.groups() == known.groups():
                return volume
        raise bad(f"no file system that can be read is known as {device[:40]!r}{self._others}")


def split(name: str, root: str) -> tuple[str, str]:
    """Device and path of a file. Raises `MalformedError`."""
    found = _NAME.fullmatch(name)
    device, path = (found["device"] or root, found["path"]) if found else (root, name)
    if not path.startswith("/"):
        raise bad(f"{name[:80]!r} is no path on a file system")
    return device, path


def bad(problem: str) -> MalformedError:
    """The error about a configuration that cannot be followed."""
    return MalformedError(f"GRUB's configuration: {problem}", hint=HINT)
