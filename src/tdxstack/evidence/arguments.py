"""What is given to `tdx-guest` and `tdx guest` as text or as the name of a file. All raise `UsageError`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.evidence.binding import NONCE_SIZE, host_key_blob
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.registers import REGISTER_SIZE
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
VIA_HELP = (
    "configfs: the kernel's configfs-tsm; vsock: the host's service itself; auto: the first that is there"
)


def parse_report_data(text: str) -> bytes:
    """Up to 64 bytes in hex; zeros fill the rest."""
    data = _hexadecimal(text)
    if len(data) > REPORT_DATA_SIZE:
        raise UsageError(
            f"{len(data)} bytes given, at most {REPORT_DATA_SIZE} fit", hint="give a hash of longer data"
        )
    return data.ljust(REPORT_DATA_SIZE, b"\0")


def parse_nonce(text: str) -> bytes:
    """32 bytes in hex."""
    return _sized(text, NONCE_SIZE)


def parse_digest(text: str) -> bytes:
    """A SHA-384 digest, 48 bytes in hex."""
    return _sized(text, REGISTER_SIZE)


def digest_of(path: Path) -> bytes:
    """The SHA-384 digest of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha384").digest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file with --file") from None


def read_host_key(kernel: Kernel, path: str | None) -> bytes:
    """The SSH host public key in a file of the guest, as its wire blob; empty for None.

    Raises `UnavailableError` where it cannot be read, `MalformedError` where it is none.
    """
    if path is None:
        return b""
    try:
        line = kernel.read(path)
    except OSError as error:
        raise UnavailableError(
            f"the SSH host key {path} cannot be read: {error.strerror}",
            hint="name it with --host-key, or give --no-host-key where SSH carries no evidence",
        ) from None
    return host_key_blob(line)


def _sized(text: str, size: int) -> bytes:
    data = _hexadecimal(text)
    if len(data) != size:
        raise UsageError(
            f"{len(data)} bytes given, {size} needed", hint=f"give {2 * size} hexadecimal digits"
        )
    return data


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(
            f"{text[:40]!r} is not hexadecimal", hint="give pairs of hexadecimal digits"
        ) from None
