"""The measurement registers as the kernel shows them, and how software extends them.

Source: Linux Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest (kernel 6.16 and newer).
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass

from tdxstack.abi.binary import exactly
from tdxstack.errors import RejectedError, TdxError, UnavailableError, UsageError
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.tdreport import errno_name

MEASUREMENTS = "/sys/devices/virtual/misc/tdx_guest/measurements"
REGISTER_SIZE = 48
RTMR_COUNT = 4
SHA384_SUFFIX = ":sha384"


@dataclass(frozen=True, slots=True)
class Extended:
    """An RTMR before and after it was extended, 48 bytes each."""

    name: str
    digest: bytes
    before: bytes
    after: bytes


def read_registers(kernel: Kernel) -> dict[str, bytes]:
    """The files of the measurements directory, by register: mrtd, rtmr0 to rtmr3, mrconfigid, mrowner, ...

    The names are the kernel's, without their ":sha384". Raises `UnavailableError` where the kernel has none.
    """
    try:
        names = kernel.names(MEASUREMENTS)
        return {name.removesuffix(SHA384_SUFFIX): kernel.read(f"{MEASUREMENTS}/{name}") for name in names}
    except OSError as error:
        raise _unavailable(error) from None


def extend(kernel: Kernel, rtmr: int, digest: bytes) -> Extended:
    """Extend RTMR `rtmr` (0 to 3) with a SHA-384 digest, and read it back.

    Raises `UnavailableError` where the kernel cannot, and `RejectedError` where the register does
    not hold what it should afterwards, as when another process extends it at the same time.
    """
    name, path = _register(rtmr, digest)
    try:
        before = kernel.read(path)
        kernel.write(path, digest)
        after = kernel.read(path)
    except OSError as error:
        raise _unavailable(error) from None
    if after != hashlib.sha384(before + digest).digest():
        raise RejectedError(
            f"{name} went from {before.hex()} to {after.hex()}, which is not that one digest",
            hint="another process extends the same register; compare its log",
        )
    return Extended(name, digest, before, after)


def foretell(kernel: Kernel, rtmr: int, digest: bytes) -> Extended:
    """What `extend` would do: the register as it is, and as it would be. Changes nothing."""
    name, path = _register(rtmr, digest)
    try:
        before = kernel.read(path)
    except OSError as error:
        raise _unavailable(error) from None
    return Extended(name, digest, before, hashlib.sha384(before + digest).digest())


def _register(rtmr: int, digest: bytes) -> tuple[str, str]:
    """The name of an RTMR and its file, if it can be extended with `digest`."""
    if not 0 <= rtmr < RTMR_COUNT:
        raise UsageError(
            f"there is no RTMR{rtmr}", hint="name one of RTMR0 to RTMR3; RTMR2 and 3 are for software"
        )
    exactly(digest, REGISTER_SIZE, "SHA-384 digest")
    return f"rtmr{rtmr}", f"{MEASUREMENTS}/rtmr{rtmr}{SHA384_SUFFIX}"


def _unavailable(error: OSError) -> TdxError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UnavailableError(
            f"the kernel shows no registers ({MEASUREMENTS} is missing)",
            hint="use a kernel 6.16 or newer, and run 'modprobe tdx_guest'",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UnavailableError(f"{MEASUREMENTS} may not be used ({error.strerror})", hint="run this as root")
    return UnavailableError(
        f"{MEASUREMENTS}: {error.strerror} ({errno_name(error)})", hint="see the kernel's log, dmesg"
    )
