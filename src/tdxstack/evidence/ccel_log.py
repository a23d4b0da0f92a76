"""The CCEL table and its event log, as Linux shows ACPI tables."""

from __future__ import annotations

from tdxstack.abi.event_log import EventLog
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.evidence.kernel import Kernel

TABLE = "/sys/firmware/acpi/tables/CCEL"
DATA = "/sys/firmware/acpi/tables/data/CCEL"


def read_ccel(kernel: Kernel) -> tuple[bytes, bytes]:
    """The ACPI table and the event log.

    The log ends with its last event: the padding of the log area (0xFF or zeros) is cut off. A
    log that cannot be read is passed on whole, as it is the verifier who must see what is wrong.
    Raises `UnavailableError` where the firmware left none.
    """
    try:
        table, data = kernel.read(TABLE), kernel.read(DATA)
    except OSError as error:
        raise UnavailableError(
            f"there is no CCEL event log ({error.filename or TABLE}: {error.strerror})",
            hint="use a TDVF that measures (OVMF.inteltdx), and run this as root inside the TD",
        ) from None
    return table, without_padding(data)


def without_padding(data: bytes) -> bytes:
    """A log area up to its last event, or all of it where it cannot be read."""
    try:
        return EventLog.parse(data).without_padding().to_bytes()
    except MalformedError:
        return data
