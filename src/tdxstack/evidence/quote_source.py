"""Where this TD's quote comes from: the kernel's configfs-tsm, or the host's service over vsock, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tdxstack.abi.binary import exactly
from tdxstack.abi.quote import Quote
from tdxstack.errors import MalformedError, RejectedError, UnavailableError
from tdxstack.evidence import qgs_quote, tsm_quote
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE

AUTO: Final = "auto"
CONFIGFS: Final = "configfs"
VSOCK: Final = "vsock"
VIAS: Final = (AUTO, CONFIGFS, VSOCK)

QGS_PROVIDER: Final = "qgs"
"""In place of configfs-tsm's provider where the quote came over vsock; there is no generation then."""


@dataclass(frozen=True, slots=True)
class SourcedQuote:
    """A quote, who made it, `CONFIGFS` or `VSOCK`, and the reason for that choice."""

    quote: bytes
    provider: str
    generation: int
    via: str
    reason: str


def get_quote(kernel: Kernel, report_data: bytes, via: str = AUTO) -> SourcedQuote:
    """A quote with 64 bytes of `report_data` in it, from one source or, with `AUTO`, from what is there.

    `AUTO` does as Intel's libtdx_attest: configfs-tsm, or vsock where the kernel has no configfs-tsm. Raises
    the sources' errors, and `RejectedError` for a quote with other report data.
    """
    exactly(report_data, REPORT_DATA_SIZE, "REPORTDATA")
    found = _get(kernel, report_data, via)
    try:
        carried = Quote.parse(found.quote).body.report_data
    except MalformedError:
        # Of a kind that is not known here: whoever verifies it says so.
        return found
    if carried != report_data:
        raise RejectedError(
            f"the quote carries the report data {carried.hex()}, asked for was {report_data.hex()}",
            hint="another process may have asked at the same time; ask again",
        )
    return found


def _get(kernel: Kernel, report_data: bytes, via: str) -> SourcedQuote:
    if via == CONFIGFS:
        return _configfs(kernel, report_data, "asked for")
    if via == VSOCK:
        return _vsock(kernel, report_data, "asked for")
    if tsm_quote.is_there(kernel):
        return _configfs(kernel, report_data, "the kernel has it")
    if not qgs_quote.is_there(kernel):
        # Says what is missing, and how to get it.
        return _configfs(kernel, report_data, "there is no other")
    try:
        return _vsock(kernel, report_data, f"there is no {tsm_quote.REPORTS}")
    except UnavailableError as error:
        raise UnavailableError(
            f"there is no {tsm_quote.REPORTS}, and {error.message}",
            hint=f"{tsm_quote.GET_CONFIGFS}; or {error.hint}",
        ) from None


def _configfs(kernel: Kernel, report_data: bytes, reason: str) -> SourcedQuote:
    quote = tsm_quote.get_tsm_quote(kernel, report_data)
    return SourcedQuote(quote.quote, quote.provider, quote.generation, CONFIGFS, reason)


def _vsock(kernel: Kernel, report_data: bytes, reason: str) -> SourcedQuote:
    configured = qgs_quote.configured_port(kernel)
    port = configured or qgs_quote.DEFAULT_PORT
    quote = qgs_quote.get_qgs_quote(kernel, report_data, port)
    where = f"port {port}, as {qgs_quote.CONFIGURATION} says" if configured else f"port {port}, the usual one"
    return SourcedQuote(quote, QGS_PROVIDER, 0, VSOCK, f"{reason}; {where}")
