"""The one door to the guest's kernel: files, directories, the TDX device, and sockets to the host."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tdxstack.exchange import Address, exchange


class Kernel:
    """Interfaces of the running kernel, named by absolute path. All methods raise `OSError`.

    With a `root` other than "/", the same paths are looked up below it, as in a recorded tree.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, path: str) -> bytes:
        """The whole content of a file."""
        return self._at(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write to a file that exists, in one write(2), as sysfs and configfs ask for."""
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(entry.name for entry in self._at(path).iterdir())

    def make_directory(self, path: str) -> None:
        """Create one directory."""
        self._at(path).mkdir()

    def remove_directory(self, path: str) -> None:
        """Remove one directory."""
        self._at(path).rmdir()

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """An ioctl that reads and changes `argument`."""
        descriptor = os.open(self._at(path), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, argument, True)
        finally:
            os.close(descriptor)

    def exchange(self, address: Address, message: bytes, *, limit: int, timeout: float) -> bytes:
        """One message to a service on a socket and its answer; see `tdxstack.exchange`. Also `EOFError`."""
        return exchange(address, message, limit=limit, timeout=timeout)

    def release(self) -> str:
        """The kernel's release, as uname -r says."""
        return os.uname().release
