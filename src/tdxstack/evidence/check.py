"""Whether a TD has all that its evidence needs, one check for each interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.event_log import EventLog
from tdxstack.errors import RejectedError, TdxError
from tdxstack.evidence.ccel_log import read_ccel
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.quote_source import AUTO, get_quote
from tdxstack.evidence.registers import read_registers
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE, get_tdreport

Status = Literal["ok", "fail", "warning"]


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of one check; `detail` of a bad one ends with what to do."""

    id: str
    status: Status
    expected: str
    found: str
    detail: str


def check(kernel: Kernel, via: str = AUTO) -> tuple[Check, ...]:
    """Try every source once. A quote is really asked for, which takes up to 30 s where no QGS answers."""
    return (
        _try("tdreport", "a TDREPORT", "fail", lambda: _tdreport(kernel)),
        _try("quote", "a quote", "fail", lambda: _quote(kernel, via)),
        _try("event_log", "an event log of a TD", "fail", lambda: _event_log(kernel)),
        _try("registers", "the registers as files", "warning", lambda: _registers(kernel)),
    )


def exit_code(checks: Iterable[Check]) -> int:
    """1 if something that evidence needs is missing."""
    return int(any(one.status == "fail" for one in checks))


def _try(name: str, expected: str, otherwise: Status, source: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", expected, source(), "")
    except TdxError as error:
        return Check(name, otherwise, expected, "nothing", f"{error.message}; {error.hint}")


def _tdreport(kernel: Kernel) -> str:
    return f"{len(get_tdreport(kernel, bytes(REPORT_DATA_SIZE)))} bytes"


def _quote(kernel: Kernel, via: str) -> str:
    quote = get_quote(kernel, bytes(REPORT_DATA_SIZE), via)
    return f"{len(quote.quote)} bytes over {quote.via} ({quote.reason})"


def _event_log(kernel: Kernel) -> str:
    table, data = read_ccel(kernel)
    kind = CcelTable.parse(table)
    if not kind.is_tdx:
        raise RejectedError(
            f"the CCEL table is for CC type {kind.cc_type}.{kind.cc_subtype}, not for TDX",
            hint="use a firmware made for TDX",
        )
    return f"{len(EventLog.parse(data).events)} events"


def _registers(kernel: Kernel) -> str:
    return ", ".join(read_registers(kernel))
