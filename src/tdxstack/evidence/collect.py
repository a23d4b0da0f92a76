"""Gathers a TD's evidence into one document."""

from __future__ import annotations

from tdxstack.errors import UnavailableError
from tdxstack.evidence.binding import report_data
from tdxstack.evidence.ccel_log import read_ccel
from tdxstack.evidence.document import MAX_TEXT, Evidence
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.quote_source import AUTO, get_quote
from tdxstack.evidence.registers import read_registers
from tdxstack.evidence.tdreport import get_tdreport

OS_RELEASE = "/etc/os-release"


def collect(kernel: Kernel, nonce: bytes, host_key: bytes, via: str = AUTO) -> Evidence:
    """Everything that this TD can say, under a nonce of 32 bytes and an SSH host key (its wire blob).

    TDREPORT and quote are required: without them `UnavailableError` is raised. The event log and
    the kernel's register files may be absent, then the document says why.
    """
    wanted = report_data(nonce, host_key)
    tdreport = get_tdreport(kernel, wanted)
    quote = get_quote(kernel, wanted, via)
    absent: dict[str, str] = {}
    table = data = registers = None
    try:
        table, data = read_ccel(kernel)
    except UnavailableError as error:
        absent["ccel"] = error.message[:MAX_TEXT]
    try:
        registers = read_registers(kernel)
    except UnavailableError as error:
        absent["measurements"] = error.message[:MAX_TEXT]
    return Evidence(
        nonce=nonce,
        host_key=host_key,
        tdreport=tdreport,
        quote=quote.quote,
        provider=quote.provider,
        generation=quote.generation,
        ccel_table=table,
        ccel_data=data,
        measurements=registers,
        kernel=kernel.release()[:MAX_TEXT],
        os=os_name(kernel),
        absent=absent,
    )


def os_name(kernel: Kernel) -> str:
    """PRETTY_NAME of /etc/os-release, or "unknown"."""
    try:
        lines = kernel.read(OS_RELEASE).decode("utf-8", "replace").splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            name = value.strip().strip("\"'")[:MAX_TEXT]
            return name if name.isprintable() else "unknown"
    return "unknown"
