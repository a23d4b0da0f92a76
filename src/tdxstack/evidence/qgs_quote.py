"""A quote straight from the host's quote generation service, over vsock, as Intel's libtdx_attest has it.

The kernel has no part in it but the TDREPORT. Source: Intel DCAP, `tdx_attest.c` and `qgs_msg_lib.h`.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from tdxstack.abi.qgs import MAX_RESPONSE_SIZE, ErrorCode, GetQuoteRequest, GetQuoteResponse, error_name
from tdxstack.errors import RejectedError, TdxError, UnavailableError, UsageError
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.tdreport import errno_name, get_tdreport
from tdxstack.exchange import address_name

CONFIGURATION: Final = "/etc/tdx-attest.conf"
"""libtdx_attest's: a line `port=4050` lets it ask over vsock."""

DEVICE: Final = "/dev"
VSOCK: Final = "vsock"
HOST: Final = 2
"""The host's context id (VMADDR_CID_HOST)."""

DEFAULT_PORT: Final = 4050
TIMEOUT_SECONDS: Final = 30.0
"""As Intel's service and the kernel have it."""

_PORT = re.compile(r"^[ \t]*port[ \t]*=[ \t]*(\w+)[ \t]*(?:#.*)?$", re.MULTILINE)
_START_QGS = (
    "on the host, run the quote generation service on vsock: Intel's qgsd with its port set in /etc/qgs.conf"
)
_NO_DEVICE = ("this machine has no vsock device", "on the host, give QEMU a vhost-vsock-pci device")

ERRORS: Final = {
    errno.EAFNOSUPPORT: ("the kernel has no vsock", "run 'modprobe vmw_vsock_virtio_transport'"),
    errno.ENODEV: _NO_DEVICE,
    errno.ENETUNREACH: _NO_DEVICE,
    errno.ECONNREFUSED: ("nobody listens there", _START_QGS),
    errno.ECONNRESET: ("nobody listens there, or there is no vsock device", _START_QGS),
    errno.EPIPE: ("the service closed the connection", "see its log on the host"),
    errno.EACCES: ("this user may not use vsock", "run this as root"),
    errno.EPERM: ("this user may not use vsock", "run this as root"),
}


def is_there(kernel: Kernel) -> bool:
    """Whether this machine has a vsock device."""
    try:
        return VSOCK in kernel.names(DEVICE)
    except OSError:
        return False


def configured_port(kernel: Kernel) -> int | None:
    """The port that `CONFIGURATION` names, or None. Raises `UsageError` for one that is no port."""
    try:
        text = kernel.read(CONFIGURATION).decode("utf-8", "replace")
    except OSError:
        return None
    found = _PORT.findall(text)
    if not found:
        return None
    try:
        port = int(found[-1], 0)
    except ValueError:
        port = 0
    if not 0 < port < 0xFFFF_FFFF:
        raise UsageError(
            f"{CONFIGURATION}: port {found[-1][:40]!r} is none", hint="write port=4050, or name another --via"
        )
    return port


def get_qgs_quote(kernel: Kernel, report_data: bytes, port: int) -> bytes:
    """The quote for a fresh TDREPORT with 64 bytes of `report_data` in it, asked for on the host's `port`.

    Raises `UnavailableError` where no service answers, `RejectedError` where it refuses, `MalformedError`
    where its answer makes no sense.
    """
    report = get_tdreport(kernel, report_data)
    address = (HOST, port)
    request = GetQuoteRequest(report).to_bytes()
    try:
        answer = kernel.exchange(address, request, limit=MAX_RESPONSE_SIZE, timeout=TIMEOUT_SECONDS)
    except (OSError, EOFError) as error:
        raise _error(error, address_name(address)) from None
    response = GetQuoteResponse.parse(answer)
    if response.error_code != ErrorCode.SUCCESS:
        raise RejectedError(
            f"the quote generation service on {address_name(address)} refuses a quote:"
            f" {error_name(response.error_code)}",
            hint="its log on the host says why; `tdx explain` knows Intel's codes",
        )
    return response.quote


def _error(error: OSError | EOFError, where: str) -> TdxError:
    if isinstance(error, TimeoutError):
        cause, hint = f"no answer within {TIMEOUT_SECONDS:g} s", "see the service's log on the host"
    elif isinstance(error, EOFError):
        cause, hint = f"the service {error}", "see its log on the host; it may not understand the request"
    else:
        cause, hint = ERRORS.get(
            error.errno or 0, (error.strerror or str(error), "see the service's log on the host")
        )
        cause = f"{cause} ({errno_name(error)})"
    return UnavailableError(f"no quote over {where}: {cause}", hint=hint)
