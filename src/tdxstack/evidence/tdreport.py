"""TDREPORT, from the TDX guest device.

Source: Linux include/uapi/linux/tdx-guest.h.
"""

from __future__ import annotations

import errno

from tdxstack.abi.binary import exactly
from tdxstack.errors import TdxError, UnavailableError
from tdxstack.evidence.kernel import Kernel

DEVICE = "/dev/tdx_guest"

REPORT_DATA_SIZE = 64
REPORT_SIZE = 1024

GET_REPORT0 = 3 << 30 | (REPORT_DATA_SIZE + REPORT_SIZE) << 16 | ord("T") << 8 | 1
"""TDX_CMD_GET_REPORT0, _IOWR('T', 1, struct tdx_report_req { u8 reportdata[64]; u8 tdreport[1024]; })."""


def get_tdreport(kernel: Kernel, report_data: bytes) -> bytes:
    """The 1024 bytes of a TDREPORT with 64 bytes of `report_data` in it.

    Raises `UnavailableError` where this is no TD or its module is not loaded.
    """
    exactly(report_data, REPORT_DATA_SIZE, "REPORTDATA")
    request = bytearray(report_data + bytes(REPORT_SIZE))
    try:
        kernel.ioctl(DEVICE, GET_REPORT0, request)
    except OSError as error:
        raise device_error(error) from None
    return bytes(request[REPORT_DATA_SIZE:])


def device_error(error: OSError) -> TdxError:
    """What an error of the device means."""
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return UnavailableError(
            f"there is no {DEVICE}: this is not a TD, or the module tdx_guest is not loaded",
            hint="inside a TD run 'modprobe tdx_guest'; images built by tdxstack load it at boot",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UnavailableError(f"{DEVICE} may not be opened ({error.strerror})", hint="run this as root")
    return UnavailableError(
        f"{DEVICE} gave no TDREPORT: {error.strerror} ({errno_name(error)})",
        hint="see the kernel's log, dmesg",
    )


def errno_name(error: OSError) -> str:
    """EIO for 5 and so on."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))
