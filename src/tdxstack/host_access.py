"""The one door to the host: what the machine itself says, asked for through one small interface.

Each question has an answer or one of three errors: what was asked for does not exist (`AbsentError`), this
user may not ask (`ForbiddenError`), or no answer came (`UnansweredError`). The hint of an error is the
command that would answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import http.client
import os
import pwd
import shutil
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final, Protocol
from urllib.parse import urlsplit

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.exchange import Address, address_name, exchange
from tdxstack.run import command_line, run

KVM_DEVICE: Final = Path("/dev/kvm")
KVM_CHECK_EXTENSION: Final = 0xAE03
"""ioctl of /dev/kvm: the value of a capability (Linux include/uapi/linux/kvm.h)."""

VHOST_VSOCK_DEVICE: Final = "/dev/vhost-vsock"
VHOST_VSOCK_SET_GUEST_CID: Final = 0x4008AF60
"""ioctl of /dev/vhost-vsock, which takes a 64-bit number (Linux include/uapi/linux/vhost.h)."""

MAX_READ: Final = 1 << 20
"""Bytes of a file, of an answer or of a program's output that are looked at."""

MAX_LOG: Final = 16 << 20
MAX_ENTRIES: Final = 4096
"""Names of a directory that are listed."""

COMMAND_SECONDS: Final = 5.0
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostError(UnavailableError):
    """A question that the host did not answer."""

    kind: ClassVar[str]


class AbsentError(HostError):
    """What was asked for does not exist."""

    kind = "absent"


class ForbiddenError(HostError):
    """This user may not ask."""

    kind = "forbidden"


class UnansweredError(HostError):
    """The question was asked, and no answer that makes sense came."""

    kind = "unanswered"


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What lstat says of a file. `mode` has the permission bits; `label` is SELinux's, or empty."""

    kind: str
    """`file`, `directory`, `socket`, `device`, `link` or `other`."""
    mode: int
    owner: str
    group: str
    size: int
    modified: datetime
    label: str = ""


@dataclass(frozen=True, slots=True)
class KernelLog:
    """The kernel's log of this boot. `complete` is false where its beginning has been overwritten."""

    lines: tuple[str, ...]
    source: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Output:
    """What a program that has ended printed."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """The answer of an HTTPS server.

    `trusted` says whether its certificate names it and chains to a root that the host trusts. Names of
    headers are in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    trusted: bool


class Kvm(Protocol):
    """What is asked of KVM."""

    def kvm_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION of `capability`; `UnavailableError` says why KVM cannot be asked."""


class Host(Kvm, Protocol):
    """What tdxstack asks of a host: real here, recorded by `tdx host report`, scripted in tests.

    Every method raises `AbsentError`, `ForbiddenError` or `UnansweredError`.
    """

    def read(self, path: str, *, limit: int = MAX_READ) -> bytes:
        """A file, or its first `limit` bytes."""

    def entries(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted."""

    def status(self, path: str) -> FileStatus:
        """What kind of file there is, whose, and who may use it."""

    def msr(self, number: int) -> int:
        """A model-specific register of the first CPU, 64 bits; `AbsentError` where the CPU has none."""

    def kernel_log(self) -> KernelLog:
        """The kernel's log of this boot, without time stamps."""

    def kernel_release(self) -> str:
        """The kernel's release, as `uname -r` says."""

    def program(self, name: str) -> str:
        """The path of a program."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Output:
        """Run a program that only looks, in the C locale; its exit code is for the caller to judge."""

    def exchange(self, address: Address, message: bytes, *, timeout: float) -> bytes:
        """Send `message` behind its length (4 bytes, big-endian) and read an answer in the same form."""

    def fetch(self, url: str, *, timeout: float) -> WebAnswer:
        """GET an https URL, from any server that answers there; nothing secret is sent."""


class RealHost:
    """The machine this process runs on. Programs are found on `search_path`."""

    def __init__(self, search_path: str = SYSTEM_PATH) -> None:
        self._path = search_path

    def kvm_extension(self, capability: int) -> int:
        with _open(
            str(KVM_DEVICE),
            os.O_RDWR,
            absent="load kvm_intel on a machine with VT-x",
            forbidden="add the user to the group kvm",
        ) as descriptor:
            try:
                return fcntl.ioctl(descriptor, KVM_CHECK_EXTENSION, capability)
            except OSError as error:
                name = errno.errorcode.get(error.errno or 0, "unknown error")
                raise UnansweredError(f"KVM_CHECK_EXTENSION({capability}) failed: {name}") from None

    def read(self, path: str, *, limit: int = MAX_READ) -> bytes:
        with _open(path, os.O_RDONLY | os.O_NONBLOCK, forbidden=f"sudo cat {path}") as descriptor:
            return _read(descriptor, path, limit)

    def entries(self, path: str) -> tuple[str, ...]:
        with _translated(path, forbidden=f"sudo ls {path}"):
            return tuple(sorted(entry.name for entry in Path(path).iterdir())[:MAX_ENTRIES])

    def status(self, path: str) -> FileStatus:
        with _translated(path, forbidden=f"sudo ls -ldZ {path}"):
            found = os.lstat(path)
        label = ""
        with contextlib.suppress(OSError):
            label = os.getxattr(path, "security.selinux", follow_symlinks=False).decode(errors="replace")
        return FileStatus(
            kind=_kind(found.st_mode),
            mode=stat.S_IMODE(found.st_mode),
            owner=_name(pwd.getpwuid, found.st_uid),
            group=_name(grp.getgrgid, found.st_gid),
            size=found.st_size,
            modified=datetime.fromtimestamp(found.st_mtime, UTC),
            label=label.rstrip("\0"),
        )

    def msr(self, number: int) -> int:
        device = "/dev/cpu/0/msr"
        command = f"sudo modprobe msr && sudo rdmsr -p 0 {number:#x}"
        if not Path(device).exists():  # a kernel module is not loaded, which says nothing of the CPU
            raise UnansweredError(f"{device} does not exist", hint=command)
        with _open(device, os.O_RDONLY, forbidden=command) as descriptor:
            try:
                return int.from_bytes(os.pread(descriptor, 8, number), "little")
            except OSError as error:
                if error.errno == errno.EIO:
                    raise AbsentError(f"this CPU has no MSR {number:#x}", hint=command) from None
                raise _translate(error, device, forbidden=command) from None

    def kernel_log(self) -> KernelLog:
        try:
            log = _kmsg()
        except HostError as refused:
            return self._journal(refused)
        if log.complete:
            return log
        try:
            return self._journal(UnansweredError("the kernel's log has lost its beginning"))
        except HostError:
            return log

    def _journal(self, otherwise: HostError) -> KernelLog:
        """The kernel's log as the journal has kept it; raises `otherwise` where it has none."""
        try:
            output = self.run(["journalctl", "-k", "-b", "--no-pager", "-q", "-o", "cat"])
        except HostError:
            raise otherwise from None
        lines = tuple(output.stdout.splitlines())
        if output.returncode or not any(line.startswith("Linux version ") for line in lines):
            raise otherwise
        return KernelLog(lines, "journalctl -k -b", complete=True)

    def kernel_release(self) -> str:
        return os.uname().release

    def program(self, name: str) -> str:
        found = shutil.which(name, path=self._path)
        if found is None:
            raise AbsentError(f"there is no program {name}", hint=f"command -v {name}")
        return found

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Output:
        words = [self.program(argv[0]) if "/" not in argv[0] else argv[0], *argv[1:]]
        environment = {"PATH": self._path, "LC_ALL": "C", "LANG": "C"}
        try:
            done = run(words, env=environment, input=stdin, timeout=timeout, check=False, max_output=MAX_LOG)
        except CommandError as error:
            raise UnansweredError(error.message, hint=command_line(argv)) from None
        except OSError as error:
            raise _translate(error, words[0]) from None
        printed = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        return Output(done.returncode, *printed)

    def exchange(self, address: Address, message: bytes, *, timeout: float) -> bytes:
        name = address_name(address)
        with _translated(name, forbidden=f"sudo -u qemu test -w {name}"):
            try:
                return exchange(address, message, limit=MAX_READ, timeout=timeout)
            except TimeoutError:
                raise UnansweredError(f"{name} did not answer within {timeout:g} s") from None
            except EOFError as error:
                raise UnansweredError(f"{name} {error}") from None

    def fetch(self, url: str, *, timeout: float) -> WebAnswer:
        deadline = time.monotonic() + timeout
        hint = f"curl -v --max-time {timeout:g} {url}"
        try:
            return _get(url, ssl.create_default_context(), deadline, trusted=True)
        except ssl.SSLCertVerificationError:
            pass
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"{url}: {error or type(error).__name__}", hint=hint) from None
        # Nothing secret is sent, and the answer says that it is not trusted.
        anybody = ssl.create_default_context()
        anybody.check_hostname = False
        anybody.verify_mode = ssl.CERT_NONE
        try:
            return _get(url, anybody, deadline, trusted=False)
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"{url}: {error or type(error).__name__}", hint=hint) from None


def _get(url: str, context: ssl.SSLContext, deadline: float, *, trusted: bool) -> WebAnswer:
    parts = urlsplit(url)
    left = max(0.1, deadline - time.monotonic())
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=left, context=context)
    with contextlib.closing(connection):
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        answer = connection.getresponse()
        body = answer.read(MAX_READ)
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return WebAnswer(answer.status, headers, body, trusted)


def _kmsg() -> KernelLog:
    """/dev/kmsg, one record a read: "priority,sequence,time,flags;text".

    Source: Linux Documentation/ABI/testing/dev-kmsg.
    """
    lines: list[str] = []
    first: int | None = None
    size = 0
    device = "/dev/kmsg"
    with _open(device, os.O_RDONLY | os.O_NONBLOCK, forbidden="sudo dmesg") as descriptor:
        while size < MAX_LOG:
            try:
                record = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overwritten between two reads; the next read goes on behind the gap
            except OSError as error:
                raise _translate(error, device, forbidden="sudo dmesg") from None
            size += len(record)
            header, _, text = record.decode(errors="replace").partition(";")
            if first is None:
                fields = header.split(",")
                first = int(fields[1]) if len(fields) > 1 and fields[1].isdecimal() else -1
            lines.append(text.split("\n", 1)[0])
    return KernelLog(tuple(lines), device, complete=first == 0)


@contextlib.contextmanager
def _open(path: str, flags: int, *, absent: str = "", forbidden: str = "") -> Iterator[int]:
    with _translated(path, absent=absent, forbidden=forbidden):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def vsock_cid_is_free(cid: int) -> bool:
    """Whether no virtual machine of this host has the vsock context identifier `cid`.

    vhost refuses one that is taken. Raises as `Host`'s methods do, where
    the host has no vsock for guests or this user may not use it.
    """
    with _open(
        VHOST_VSOCK_DEVICE,
        os.O_RDWR,
        absent="load the module vhost_vsock: sudo modprobe vhost_vsock",
        forbidden="add the user to the group that ls -l /dev/vhost-vsock shows",
    ) as descriptor:
        try:
            fcntl.ioctl(descriptor, VHOST_VSOCK_SET_GUEST_CID, cid.to_bytes(8, "little"))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise _translate(error, VHOST_VSOCK_DEVICE) from None
    return True


@contextlib.contextmanager
def _translated(what: str, *, absent: str = "", forbidden: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, what, absent=absent, forbidden=forbidden) from None


def _translate(error: OSError, what: str, *, absent: str = "", forbidden: str = "") -> HostError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
        return AbsentError(f"{what} does not exist", hint=absent or f"ls -l {what}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ForbiddenError(f"{what} may not be used by this user", hint=forbidden or f"sudo ls -l {what}")
    return UnansweredError(f"{what}: {error.strerror or error}", hint=f"ls -l {what}")


def _read(descriptor: int, path: str, limit: int) -> bytes:
    data = bytearray()
    with _translated(path, forbidden=f"sudo cat {path}"):
        while len(data) < limit and (part := os.read(descriptor, min(1 << 16, limit - len(data)))):
            data += part
    return bytes(data)


def _kind(mode: int) -> str:
    tests: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
        (stat.S_ISLNK, "link"),
    )
    return next((name for test, name in tests if test(mode)), "other")


def _name(look_up: Callable[[int], pwd.struct_passwd | grp.struct_group], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
