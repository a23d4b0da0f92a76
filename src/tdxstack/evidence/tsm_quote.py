"""A quote, from the kernel's configfs-tsm interface.

Sources: Linux Documentation/ABI/testing/configfs-tsm-report, drivers/virt/coco/tdx-guest/tdx-guest.c.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from dataclasses import dataclass

from tdxstack.abi.binary import exactly
from tdxstack.errors import TdxError, UnavailableError
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE, errno_name

CONFIGFS = "/sys/kernel/config"
REPORTS = f"{CONFIGFS}/tsm/report"
PROVIDER = "tdx_guest"
ATTEMPTS = 3

CHECK_QGS = (
    "on the host, see that the quote generation service runs and that QEMU has a quote-generation-socket;"
    " or ask over vsock: --via vsock"
)

GET_MODULE = "run 'modprobe tdx_guest'"
NEEDS_KERNEL = "the kernel must be 6.7 or newer with CONFIG_TSM_REPORTS"
GET_CONFIGFS = f"{GET_MODULE} and 'mount -t configfs configfs {CONFIGFS}'; {NEEDS_KERNEL}"

READ_ERRORS = {
    errno.EIO: ("the VMM answered the quote request with an error", CHECK_QGS),
    errno.ETIMEDOUT: ("no quote came within the kernel's time limit (30 s)", CHECK_QGS),
    errno.EBUSY: (
        "an earlier quote request is still in flight",
        "try again later; if this lasts, restart the quote generation service on the host",
    ),
    errno.EFBIG: ("the quote is larger than this kernel accepts", "use a newer kernel in the TD"),
    errno.ENOTTY: ("the TDX module of the kernel has gone away", GET_MODULE),
}


@dataclass(frozen=True, slots=True)
class TsmQuote:
    """A quote, the provider that made it (`tdx_guest`), and the entry's generation when it was read."""

    quote: bytes
    provider: str
    generation: int


def is_there(kernel: Kernel) -> bool:
    """Whether the kernel has the interface; that says nothing on whether a quote will come."""
    try:
        kernel.names(REPORTS)
    except OSError:
        return False
    return True


def get_tsm_quote(kernel: Kernel, report_data: bytes) -> TsmQuote:
    """Ask for a quote with 64 bytes of `report_data` in it.

    Uses a directory of its own, which is removed in any case. The generation must have grown by
    our one write when the quote has been read; if it has not, another process interfered, and
    the request is repeated. Raises `UnavailableError`.
    """
    exactly(report_data, REPORT_DATA_SIZE, "REPORTDATA")
    entry = f"{REPORTS}/tdxstack-{secrets.token_hex(8)}"
    try:
        kernel.make_directory(entry)
    except OSError as error:
        raise _entry_error(kernel, error) from None
    try:
        return _read_quote(kernel, entry, report_data)
    finally:
        with contextlib.suppress(OSError):
            kernel.remove_directory(entry)


def _read_quote(kernel: Kernel, entry: str, report_data: bytes) -> TsmQuote:
    try:
        provider = kernel.read(f"{entry}/provider").decode("ascii", "replace").strip()
        if provider != PROVIDER:
            raise UnavailableError(
                f"configfs-tsm's provider is {provider!r}, not {PROVIDER!r}",
                hint="this guest is no TD, or another TSM module is loaded",
            )
        for _ in range(ATTEMPTS):
            before = _generation(kernel, entry)
            kernel.write(f"{entry}/inblob", report_data)
            quote = kernel.read(f"{entry}/outblob")
            generation = _generation(kernel, entry)
            if generation == before + 1:
                break
        else:
            raise UnavailableError(
                f"{entry}: generation went from {before} to {generation} by one write, {ATTEMPTS} times",
                hint="find out which other process writes to configfs-tsm entries that it did not make",
            )
    except OSError as error:
        what, hint = READ_ERRORS.get(
            error.errno or 0,
            (f"the quote could not be read: {error.strerror}", "see the kernel's log, dmesg"),
        )
        raise UnavailableError(f"{what} ({errno_name(error)})", hint=hint) from None
    if not quote:
        # Kernels before 7.0 do not look at the VMM's status and hand out what they find, which is nothing.
        raise UnavailableError("the VMM delivered an empty quote", hint=CHECK_QGS)
    return TsmQuote(quote, provider, generation)


def _generation(kernel: Kernel, entry: str) -> int:
    text = kernel.read(f"{entry}/generation")
    try:
        return int(text)
    except ValueError:
        raise UnavailableError(
            f"configfs-tsm's generation is {text[:40]!r}, not a number", hint="see the kernel's log, dmesg"
        ) from None


def _entry_error(kernel: Kernel, error: OSError) -> TdxError:
    """Why no entry could be made."""
    if error.errno == errno.ENOENT:
        try:
            mounted = bool(kernel.names(CONFIGFS))
        except OSError:
            mounted = False
        if not mounted:
            return UnavailableError(
                f"configfs is not mounted on {CONFIGFS}",
                hint=f"run 'modprobe configfs; mount -t configfs configfs {CONFIGFS}'",
            )
        return UnavailableError(f"there is no {REPORTS}", hint=f"{GET_MODULE}; {NEEDS_KERNEL}")
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return UnavailableError(
            f"configfs-tsm has no provider ({errno_name(error)}): no TD, or tdx_guest is not loaded",
            hint="inside a TD run 'modprobe tdx_guest'; images built by tdxstack load it at boot",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UnavailableError(f"{REPORTS} may not be written ({error.strerror})", hint="run this as root")
    return UnavailableError(
        f"no entry could be made in {REPORTS}: {error.strerror} ({errno_name(error)})",
        hint="see the kernel's log, dmesg",
    )
