"""A TD's kernel in memory: the TDX device, configfs-tsm, ACPI tables and register files."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable

from tdxstack.abi.qgs import GetQuoteRequest, GetQuoteResponse
from tdxstack.evidence.kernel import Kernel
from tdxstack.exchange import Address

DEVICE = "/dev/tdx_guest"
CONFIGFS = "/sys/kernel/config"
REPORTS = f"{CONFIGFS}/tsm/report"
MEASUREMENTS = "/sys/devices/virtual/misc/tdx_guest/measurements"
TABLE = "/sys/firmware/acpi/tables/CCEL"
DATA = "/sys/firmware/acpi/tables/data/CCEL"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"

HOST_KEY_LINE = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g root@td\n"
HOST_KEY_BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(1, 33))


def table() -> bytes:
    raw = bytearray(
        struct.pack("<4sIBB6s8sI4sIBBHQQ", b"CCEL", 56, 1, 0, b"", b"", 0, b"", 0, 2, 0, 0, 4096, 0)
    )
    raw[9] = -sum(raw) & 0xFF
    return bytes(raw)


def log() -> bytes:
    header = struct.pack("<16sIBBBBIHHB", b"Spec ID Event03", 0, 0, 2, 0, 2, 1, 12, 48, 0)
    event = struct.pack("<IIIH48sI4s", 1, 4, 1, 12, hashlib.sha384(bytes(4)).digest(), 4, bytes(4))
    return struct.pack("<II20sI", 1, 3, bytes(20), len(header)) + header + event


def tdreport_for(report_data: bytes) -> bytes:
    return (b"TDREPORT" + report_data).ljust(1024, b"\0")


def quote_for(report_data: bytes) -> bytes:
    return b"QUOTE" + report_data


def quote_service(message: bytes) -> bytes:
    """Makes the quote that `quote_for` has for the report data in a TDREPORT of `tdreport_for`."""
    report = GetQuoteRequest.parse(message).report
    return GetQuoteResponse(quote_for(report[8:72])).to_bytes()


class FakeKernel(Kernel):
    """Behaves as Linux does; attributes make it fail in one way or interfere."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {
            TABLE: table(),
            DATA: log() + b"\xff" * 4096,
            HOST_KEY: HOST_KEY_LINE,
            "/etc/os-release": b'ID=debian\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
            **{f"{MEASUREMENTS}/{name}": bytes(48) for name in ("mrconfigid", "mrowner", "mrownerconfig")},
            **{f"{MEASUREMENTS}/rtmr{n}:sha384": bytes((n,)) * 48 for n in range(4)},
            f"{MEASUREMENTS}/mrtd:sha384": b"m" * 48,
        }
        self.directories = {CONFIGFS, f"{CONFIGFS}/tsm", REPORTS}
        self.errors: dict[str, int] = {}
        """errno by operation: ioctl, mkdir, provider, inblob, outblob, generation, rmdir."""
        self.provider = b"tdx_guest\n"
        self.generation = b""
        self.quote: Callable[[bytes], bytes] = quote_for
        self.interfere = 0
        """How many reads of a quote another process disturbs."""
        self.entries: dict[str, tuple[bytes, int]] = {}
        """The entries of configfs-tsm: inblob and generation."""
        self.requests: list[tuple[int, int]] = []
        self.service: Callable[[bytes], bytes] | OSError | EOFError | None = None
        """The quote generation service on vsock, or how asking it fails; None: there is no vsock device."""
        self.asked: list[tuple[object, int]] = []
        """Addresses that messages went to, and their time limits."""

    def _fail(self, operation: str, path: str) -> None:
        if operation in self.errors:
            number = self.errors[operation]
            raise OSError(number, os.strerror(number), path)

    def read(self, path: str) -> bytes:
        entry, _, name = path.rpartition("/")
        if entry in self.entries:
            return self._read_entry(entry, name)
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]

    def _read_entry(self, entry: str, name: str) -> bytes:
        self._fail(name, f"{entry}/{name}")
        _, generation = self.entries[entry]
        if name == "provider":
            return self.provider
        if name == "generation":
            return self.generation or b"%d\n" % generation
        assert name == "outblob"
        if self.interfere:
            self.interfere -= 1
            self.entries[entry] = (b"x" * 64, generation + 1)
        return self.quote(self.entries[entry][0])

    def write(self, path: str, data: bytes) -> None:
        entry, _, name = path.rpartition("/")
        if entry in self.entries:
            assert name == "inblob"
            self._fail(name, path)
            self.entries[entry] = (data, self.entries[entry][1] + 1)
            return
        assert path in self.files, "a write must not create a file"
        self._fail("extend", path)
        self.files[path] = hashlib.sha384(self.files[path] + data).digest()

    def names(self, path: str) -> list[str]:
        paths = self.files.keys() | self.directories | ({"/dev/vsock"} if self.service is not None else set())
        names = {other[len(path) + 1 :].partition("/")[0] for other in paths if other.startswith(f"{path}/")}
        if not names and path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(names)

    def make_directory(self, path: str) -> None:
        self._fail("mkdir", path)
        if path.rpartition("/")[0] not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        assert path not in self.entries
        self.entries[path] = (b"", 0)

    def remove_directory(self, path: str) -> None:
        self._fail("rmdir", path)
        del self.entries[path]

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        self._fail("ioctl", path)
        assert path == DEVICE
        self.requests.append((request, len(argument)))
        argument[64:] = tdreport_for(bytes(argument[:64]))

    def exchange(self, address: Address, message: bytes, *, limit: int, timeout: float) -> bytes:
        self.asked.append((address, int(timeout)))
        if self.service is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if isinstance(self.service, OSError | EOFError):
            raise self.service
        answer = self.service(message)
        assert len(answer) <= limit
        return answer

    def release(self) -> str:
        return "7.2.13+deb14-cloud-amd64"

    def without(self, prefix: str) -> FakeKernel:
        """The same kernel without some files."""
        self.files = {path: data for path, data in self.files.items() if not path.startswith(prefix)}
        return self
